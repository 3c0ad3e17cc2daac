"""`codi2 transfer` and `codi2.transfer`: media to media without the language model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

import codi2
from codi2 import CoDi2
from codi2.cli import app
from codi2.config import DEBUG
from codi2.encode.debug import DebugEncoder
from codi2.errors import ConfigError, PromptError
from codi2.joint_space import JointSpace, check_weights
from codi2.media import load, read_recipe
from codi2.prompt.parts import Image, Phrase

MEDIA = Path(__file__).parents[1] / "examples" / "media"


@pytest.fixture(scope="module")
def space() -> JointSpace:
    model = CoDi2.from_pretrained("debug")
    return JointSpace(model.config, model.encoder, dict(model.decoders))


def pixels(reply: Any) -> np.ndarray:
    return np.asarray(reply.images[0].pixels, dtype=np.float32)


@pytest.mark.parametrize("to", ["image", "audio", "video"])
@pytest.mark.parametrize("given", ["tiger.png", "crow.wav", "rabbit.webp", "words"])
def test_every_pair_is_drawn(space: JointSpace, given: str, to: str) -> None:
    item = Phrase("a crow") if given == "words" else load(MEDIA / given)
    (part,) = codi2.transfer(item, to=to, model=space).parts
    assert part.modality == to


def test_the_language_model_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("the language model is loaded")

    monkeypatch.setattr("codi2.checkpoint.loading.load_backbone", refused)
    for _ in range(2):  # the function stays one, though a module has it
        assert codi2.transfer(load(MEDIA / "crow.wav"), to="image", model="debug").images


def test_the_sum_is_of_unit_vectors(space: JointSpace) -> None:
    a, b = load(MEDIA / "tiger.png"), load(MEDIA / "crow.wav")
    vectors = [space.encoder([item], 1)[0, 0] for item in (a, b)]
    units = [F.normalize(v, dim=0) for v in vectors]
    mixed = space.direction("image", [a, b], [2.0, -0.5])
    torch.testing.assert_close(F.normalize(mixed, dim=0), F.normalize(2 * units[0] - 0.5 * units[1], dim=0))
    # as long as vectors of this encoder are, so that a decoder gets what it knows
    torch.testing.assert_close(mixed.norm(), torch.stack(vectors).norm(dim=-1).mean())
    with pytest.raises(PromptError, match="sum of these items is zero"):
        space.direction("image", [a, a], [1.0, -1.0])


def test_minus_weights_and_seed_act(space: JointSpace) -> None:
    a, b = load(MEDIA / "tiger.png"), load(MEDIA / "crow.wav")
    plain = pixels(codi2.transfer(a, to="image", model=space, seed=3))
    assert np.array_equal(plain, pixels(codi2.transfer(a, to="image", model=space, seed=3)))
    assert np.abs(plain - pixels(codi2.transfer(a, to="image", model=space, seed=3, weights=[7.0]))).max() <= 1
    others = [
        codi2.transfer(a, to="image", model=space, seed=4),
        codi2.transfer(a, b, to="image", model=space, seed=3),
        codi2.transfer(a, minus=[b], to="image", model=space, seed=3),
        codi2.transfer(a, b, weights=[1, 9], to="image", model=space, seed=3),
    ]
    assert all(not np.array_equal(plain, pixels(other)) for other in others)


def test_a_loaded_model_gives_the_same(space: JointSpace) -> None:
    item = load(MEDIA / "crow.wav")
    of_model = codi2.transfer(item, to="image", model=CoDi2.from_pretrained("debug"))
    assert np.array_equal(pixels(of_model), pixels(codi2.transfer(item, to="image", model=space)))


def test_what_cannot_be_is_one_sentence(space: JointSpace) -> None:
    item = load(MEDIA / "tiger.png")
    with pytest.raises(PromptError, match="needs the language model"):
        codi2.transfer(item, to="text", model=space)
    with pytest.raises(PromptError, match="draws image, audio, video, not smell"):
        codi2.transfer(item, to="smell", model=space)
    few = replace(space, encoder=DebugEncoder(16, {"audio": 1}))
    with pytest.raises(PromptError, match="reads audio, not image"):
        codi2.transfer(item, to="image", model=few)
    for wrong in ([1.0], [1.0, 0.0], [1.0, float("nan")]):
        with pytest.raises(PromptError, match="weight"):
            check_weights(1, 1, wrong)


def test_modalities_without_a_common_space_are_refused(space: JointSpace) -> None:
    class Apart(DebugEncoder):
        def within(self, values: torch.Tensor, modality: str) -> torch.Tensor:
            return values * 0

    apart = replace(space, encoder=Apart(16, DEBUG.encoder.num_features))
    with pytest.raises(PromptError, match="no space that holds both audio and image"):
        codi2.transfer(load(MEDIA / "crow.wav"), to="image", model=apart)


def test_an_untrained_head_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codi2.joint_space.has_head", lambda decoder: True)
    monkeypatch.setattr("codi2.joint_space.locate", lambda name: (replace(DEBUG, untrained=("audio",)), None))
    with pytest.raises(ConfigError, match="the audio decoder of 'debug' reads features through a head"):
        JointSpace.from_pretrained("debug", "audio")
    assert JointSpace.from_pretrained("debug", "image").decoders


def test_generate_says_that_projections_are_untrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["generate", "Draw a cat.", "--model", "paper"])
    first = done.stderr.splitlines()[0]
    assert done.exit_code == 2  # its weights are not here
    assert "the projections of 'paper' are untrained" in first
    assert "codi2 transfer FILE --to image --model paper" in first and "configs/paper" in first
    assert "untrained" not in CliRunner().invoke(app, ["generate", "a", "--model", "debug", "--want", "text"]).stderr


def test_the_command_writes_one_of_each_or_one_of_all(tmp_path: Path) -> None:
    files = [str(MEDIA / "crow.wav"), str(MEDIA / "tiger.png")]
    common = ["--to", "image", "--model", "debug", "--seed", "5", "--out", str(tmp_path), "--json"]
    done = CliRunner().invoke(app, ["transfer", *files, *common])
    assert done.exit_code == 0, done.output
    parts = json.loads(done.stdout)["parts"]
    assert [Path(part["path"]).name for part in parts] == ["transfer-0.png", "transfer-1.png"]
    assert parts[1]["recipe"]["of"] == ["tiger.png"] and parts[1]["recipe"]["seed"] == 5
    mixed = ["--mix", "--minus", "text=a dog", "--weights", "1,.5,.25"]
    done = CliRunner().invoke(app, ["transfer", *mixed, *files, *common])
    (part,) = json.loads(done.stdout)["parts"]
    recipe = read_recipe(part["path"])
    assert recipe["transfer"] == "image" and recipe["weights"] == [1, 0.5, -0.25]
    assert recipe["of"] == ["crow.wav", "tiger.png", "a dog"]
    assert isinstance(load(part["path"]), Image)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--to", "text"], "codi2 generate --want text"),
        (["--to", "image", "--weights", "1,x"], "numbers with commas"),
        (["--to", "image", "--weights", "1,2"], "2 weights for 1 items"),
        (["--to", "image", "--minus", "none.png"], "none.png"),
        (["--to", "image", "--minus", "text= "], "no words"),
    ],
)
def test_wrong_arguments_end_in_2(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    options = ["--model", "debug", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["transfer", str(MEDIA / "crow.wav"), *arguments, *options])
    assert done.exit_code == 2
    assert sentence in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()

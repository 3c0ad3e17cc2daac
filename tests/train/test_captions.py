"""The heads of published decoders from captions alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mini import load_imagebind, write_mini

from codi2.checkpoint import load_one_decoder, locate
from codi2.diffuse.families.text_pipelines import load_text_pipeline
from codi2.diffuse.load import TRAINED, load_trained
from codi2.encode import imagebind
from codi2.errors import ConfigError, DataError
from codi2.train.config import TrainConfig
from codi2.train.loop import Share, train
from codi2.train.parts import captions

LINES = [f"a {colour} {thing} number {n}" for colour in ("red", "blue") for thing in ("dog", "bell") for n in range(20)]


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_mini(tmp_path_factory.mktemp("mini") / "mini"))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(imagebind, "load_encoder", load_imagebind)
    monkeypatch.setenv("CODI2_HOME", str(tmp_path / "home"))
    (tmp_path / "captions.txt").write_text("\n".join(LINES) + "\n\n" + LINES[0] + "\n")
    return str(tmp_path / "captions.txt")


def config(mini: str, file: str, modality: str, **options: object) -> TrainConfig:
    told = {"model": mini, "modality": modality, "captions": [file], **options}
    return TrainConfig("captions", 20, 8, 3e-2, warmup_steps=1, trackers=[], num_workers=0, options=told)


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_a_head_learns_the_states_that_the_pipeline_makes_of_words(
    modality: str, mini: str, file: str, tmp_path: Path
) -> None:
    made = config(mini, file, modality)
    recipe = captions.build(made)
    batch = recipe.batch(0)
    assert batch.states is not None
    text = batch.captions[0]
    if modality == "video":
        expected = recipe.decoder.conditioner.read_words(text)
    else:
        pipeline = load_text_pipeline("audio", locate(mini)[0].decoders["audio"].id, torch.device("cpu"), torch.float32)
        expected = pipeline.encode_prompt([text], "cpu", 1, False, max_new_tokens=8)[2]
    batch.absent[:], batch.features = False, None
    torch.testing.assert_close(recipe.finish(batch).states[:1], expected.detach(), atol=1e-4, rtol=1e-4)  # type: ignore[index]
    before = recipe.validate()["error"]
    figures = train(recipe, made, tmp_path / "out")
    assert figures["error"] < 0.95 * before and figures["explained"] <= 1

    model, _ = locate(mini)
    decoder = load_one_decoder(modality, model, None)
    load_trained(decoder, tmp_path / "out" / "export" / TRAINED)
    torch.testing.assert_close(decoder.conditioner.head.weight, recipe.head.weight, atol=1e-2, rtol=1e-2)


def test_held_out_captions_are_not_learned_from_and_shares_are_of_one_batch(mini: str, file: str) -> None:
    recipe = captions.build(config(mini, file, "video"))
    assert sorted({*recipe.captions, *recipe.held_out}) == sorted(LINES)
    assert recipe.held_out and not {*recipe.captions} & {*recipe.held_out}
    whole = recipe.batch(3).captions
    assert recipe.batch(3, Share(1, 2)).captions == whole[1::2]


def test_without_a_feature_the_head_gives_the_states_of_no_words(mini: str, file: str) -> None:
    recipe = captions.build(config(mini, file, "audio", no_words=1.0))
    batch = recipe.batch(0)
    assert batch.features is not None and batch.states is not None
    assert not batch.features.any() and torch.equal(batch.states[0], batch.states[1])
    assert captions.build(config(mini, file, "video", no_words=1.0)).batch(0).features.any()  # type: ignore[union-attr]


def test_what_cannot_be_learned_so_is_one_sentence(mini: str, file: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the image decoder of .* has no head that captions can teach"):
        captions.build(config(mini, file, "image"))
    with pytest.raises(
        ConfigError, match=r"options\.modality is 'smell', but mini has decoders of image, audio, video"
    ):
        captions.build(config(mini, file, "smell"))
    with pytest.raises(ConfigError, match=r"names none; options\.captions"):
        captions.read_captions([])
    with pytest.raises(DataError, match=r"no file of captions nowhere\.txt"):
        captions.read_captions(["nowhere.txt"])
    (tmp_path / "few.txt").write_text("a dog\n")
    with pytest.raises(DataError, match="1 different captions are too few"):
        captions.read_captions([str(tmp_path / "few.txt")])
    (tmp_path / "odd.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        captions.read_captions([str(tmp_path / "odd.txt")])

"""Data sets as a part of training names them: which folder is meant, and what happens where one cannot be had."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from codi2.config import DEBUG
from codi2.data.build import Settings, build
from codi2.encode.debug import DebugEncoder
from codi2.errors import ConfigError, DataError
from codi2.train.encoded import Encodings, weights_key
from codi2.train.examples import ExampleSet


@pytest.fixture
def captioned(media: Path, tmp_path: Path) -> str:
    """A data set of pictures and captions: no clips, as where WebVid cannot be had."""
    pictures = sorted(media.glob("*.png"))[:3]
    for path in pictures:
        shutil.copy(path, tmp_path)
    lines = [json.dumps({"file_name": path.name, "text": path.stem.replace("-", " ")}) for path in pictures]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines) + "\n")
    build(Settings("jsonl", str(tmp_path / "mine.jsonl"), str(tmp_path / "set")))
    return str(tmp_path / "set")


def test_a_phase_without_data_falls_away(captioned: str, capsys: pytest.CaptureFixture[str]) -> None:
    encodings: Any = None
    shares = {"text": 0.25, "image": 0.4, "video": 0.1, "audio": 0.25}
    mixture = ExampleSet({captioned: 1.0}, encodings, 2, shares, 0).mixture
    steps = Counter(mixture.phase(step) for step in range(1000))
    assert steps == {"text": pytest.approx(385, abs=1), "image": pytest.approx(615, abs=1)}
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "records that answer with video, audio: these phases are left out" in said
    wrong: dict[str, dict[str, float]] = {
        "no source has": {"video": 1.0},
        "there is no phase": {"image": 0.5, "x": 0.5},
    }
    for reason, phases in wrong.items():
        with pytest.raises(ConfigError, match=reason):
            ExampleSet({captioned: 1.0}, encodings, 2, phases, 0)


def test_the_language_model_trains_on_the_phases_that_are_there(captioned: str, tmp_path: Path) -> None:
    from codi2.train.config import TrainConfig
    from codi2.train.loop import train
    from codi2.train.parts import llm

    sets, phases = {captioned: 1.0}, {"text": 0.25, "image": 0.4, "audio": 0.25, "video": 0.1}
    options = {"model": "debug", "data": sets, "held_out": sets, "phases": phases, "lookahead": 2}
    config = TrainConfig("llm", 4, 2, 1e-3, warmup_steps=1, num_workers=0, options=options | {"diffusion_share": 1.0})
    recipe = llm.build(config)
    assert set(recipe.decoders) == set(DEBUG.decoders)
    assert train(recipe, config, tmp_path / "out")
    assert {recipe.examples.mixture.phase(step) for step in range(100)} == {"text", "image"}


def test_an_example_has_its_answer_and_its_source(task_set: Path) -> None:
    encoder = DebugEncoder(16, DEBUG.encoder.num_features)
    encodings = Encodings(lambda: encoder, weights_key(encoder), reads_words=True)
    examples = ExampleSet({str(task_set): 1.0}, encodings, 8, {"image": 1.0}, 0)
    tasks = set()
    for step in range(12):
        for example in examples.batch(step):
            answer, source = example.answer("image"), example.source("image")
            edited = None if example.record.edits is None else example.record.media[example.record.edits]
            pictures = [medium for medium in example.record.media if medium.modality == "image"]
            assert example.medium(answer) is pictures[-1]
            if edited is None or edited.modality != "image":
                assert source is None
            else:
                assert source is not None and example.medium(source) is edited
            assert example.source("video", ("image",), answer=example.answers[0] - 1) is None, (
                "only the last turn edits"
            )
            features = encodings.encoder([example.medium(answer).decode()])[0]
            assert torch.allclose(example.features[answer], features, atol=2e-3)
            tasks.add(example.record.task)
    assert {"image_from_caption", "edit_image", "analogy_image"} <= tasks


def test_a_set_that_is_not_there_is_named_with_what_to_do(captioned: str, empty_home: Path) -> None:
    encodings: Any = None
    with pytest.raises(DataError, match=r"webvid is not a data set: it is neither in .* build it with"):
        ExampleSet({captioned: 1.0, "webvid": 1.0}, encodings, 2, None, 0)

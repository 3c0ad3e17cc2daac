"""Published text pipelines as baselines, on small random weights of their own classes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from mini import audio_pipeline
from PIL import Image as PILImage

from codi2 import CoDi2
from codi2.config import DecoderConfig
from codi2.diffuse.families.text_pipelines import load_text_pipeline
from codi2.errors import ConfigError, WeightsError
from codi2.evaluate.baselines import from_words
from codi2.evaluate.case import Case
from codi2.evaluate.context import EvalContext
from codi2.evaluate.suites.answers import words_alone
from codi2.evaluate.suites.audio_edit import systems
from codi2.evaluate.suites.clips import SYSTEMS
from codi2.prompt.parts import Audio, Text, Video

from ..diffuse.families.published import video_pipeline

CPU = torch.device("cpu")


def sound(seconds: float) -> Audio:
    return Audio(np.zeros(int(seconds * 8000), np.float32), 8000)


def clip() -> Video:
    return Video(tuple(PILImage.new("RGB", (16, 16)) for _ in range(3)), 5.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pipelines")
    video_pipeline(folder).save_pretrained(folder / "video")
    audio_pipeline(folder).save_pretrained(folder / "audio")
    return {"audio": str(folder / "audio"), "video": str(folder / "video")}


@pytest.fixture
def context(folders: dict[str, str]) -> EvalContext:
    model = CoDi2.from_pretrained("debug")
    named = {m: DecoderConfig(kind="pipeline", id=source) for m, source in folders.items()}
    model.config = replace(model.config, decoders={**model.config.decoders, **named})
    return EvalContext(model)


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_words_alone_give_media_like_the_target(modality: str, folders: dict[str, str]) -> None:
    pipeline, like = load_text_pipeline(modality, folders[modality], CPU, torch.float32), [sound(0.5), sound(0.5)]
    if modality == "video":
        like = [clip(), clip()]  # type: ignore[list-item]
    call = type(pipeline).__call__
    with pytest.MonkeyPatch.context() as patch:  # its own 200 steps are many
        patch.setattr(
            type(pipeline), "__call__", lambda self, *a, **k: call(self, *a, **{"num_inference_steps": 2, **k})
        )
        made = from_words(pipeline, ["a dog", "rain"], like, [0, 0])
        (again,) = from_words(pipeline, ["rain"], like[:1], [0])
    for part, target in zip(made, like, strict=True):
        assert part.modality == modality
        if isinstance(part, Video):
            assert len(part.frames) == 3 and part.fps == 5.0
        else:
            assert isinstance(part, Audio) and isinstance(target, Audio)
            assert part.rate == 16_000 and part.seconds == pytest.approx(target.seconds, abs=0.01)
    a, b, c = (np.stack(p.frames) if isinstance(p, Video) else p.samples for p in (*made, again))
    assert np.array_equal(b, c) and not np.array_equal(a, b)


def test_a_suite_answers_captions_by_the_models_own_pipeline(
    context: EvalContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(
        "codi2.evaluate.suites.answers.from_words",
        lambda pipeline, texts, like, seeds: told.append((type(pipeline).__name__, texts)) or like,
    )
    asked = (Text("Make it "), clip(), Text(" dance."))
    words_alone(context, [Case("a", asked, "audio", {"target": sound(1)}, about={"words": "a dog"})])
    words_alone(context, [Case("b", asked, "video", {"target": clip()})])
    assert told == [("AudioLDM2Pipeline", ["a dog"]), ("TextToVideoSDPipeline", ["Make it dance."])]
    assert words_alone in systems().values() and words_alone in SYSTEMS.values()


def test_a_pipeline_that_is_none_is_told(folders: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="is a TextToVideoSDPipeline; for audio, name a AudioLDM2Pipeline"):
        load_text_pipeline("audio", folders["video"], CPU, torch.float32)
    case = [Case("a", (Text("x"),), "audio", {"target": sound(1)})]
    with pytest.raises(WeightsError, match="--text-pipeline"):
        words_alone(EvalContext(CoDi2.from_pretrained("debug")), case)
    with pytest.raises(WeightsError, match="for audio, name"):  # so the row is listed as absent, and the others stand
        words_alone(EvalContext(CoDi2.from_pretrained("debug"), text_pipeline=folders["video"]), case)

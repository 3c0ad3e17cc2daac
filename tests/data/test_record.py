"""Training records and their form in WebDataset shards."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image as PILImage

from codi2.data.record import SCHEMA, Medium, Record, from_sample, to_sample
from codi2.errors import DataError, MediaError
from codi2.prompt.parts import Phrase, Text


def jpeg() -> Medium:
    file = io.BytesIO()
    PILImage.effect_mandelbrot((20, 30), (-2, -1, 1, 1), 30).convert("RGB").save(file, "JPEG")
    return Medium("jpg", file.getvalue())


def flac() -> Medium:
    file = io.BytesIO()
    soundfile.write(file, np.sin(np.arange(8000) * 0.3) * 0.5, 16_000, format="FLAC")
    return Medium("flac", file.getvalue())


def record(**changes: Any) -> Record:
    turns = (
        ("user", (Text("Paint "), jpeg(), Text(" as "), Phrase("a red barn"), Text("."))),
        ("assistant", (jpeg(), Text("Done — ü."))),
        ("user", (Text("And its sound?"),)),
        ("assistant", (flac(),)),
    )
    return Record(**{"key": "a-1", "task": "edit", "turns": turns, "source": "made here", "licence": "CC0", **changes})


def test_a_record_comes_back_from_a_shard_byte_for_byte(tmp_path: Path) -> None:
    import webdataset as wds

    given = [record(key=f"r{i}", meta={"seed": i, "level_db": -3.5}, edits=(None, 0, 1)[i]) for i in range(3)]
    with wds.TarWriter(str(tmp_path / "shard.tar")) as writer:
        for one in given:
            writer.write(to_sample(one))
    read = [from_sample(sample) for sample in wds.WebDataset(str(tmp_path / "shard.tar"), shardshuffle=False)]
    assert read == given
    assert [m.modality for m in read[0].media] == ["image", "image", "audio"]


def test_messages_are_decoded_on_demand() -> None:
    messages = record().messages()
    assert [message.role for message in messages] == ["user", "assistant", "user", "assistant"]
    assert [part.modality for part in messages[0].parts] == ["text", "image", "text", "phrase", "text"]
    assert messages[0].parts[1].pixels.size == (20, 30)
    assert messages[3].parts[0].rate == 16_000
    broken = record(turns=(("user", (Medium("png", b"\x89PNG half"),)), ("assistant", (Text("?"),))))
    with pytest.raises(MediaError):
        broken.messages()
    wrong = record(turns=(("user", (Medium("wav", jpeg().data),)), ("assistant", (Text("?"),))))
    with pytest.raises(MediaError, match="image"):
        wrong.messages()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"key": "a.b"}, "cannot name a sample"),
        ({"turns": ()}, "turns are"),
        ({"turns": (("user", (Text("hi"),)),)}, "turns are"),
        ({"turns": (("user", (Text("hi"),)), ("assistant", (Text("  "),)))}, "assistant is empty"),
        ({"edits": 2}, r"its answer edits medium 2, but 2 media come before it; name the number of one of them"),
        ({"edits": -1}, "its answer edits medium -1"),
    ],
)
def test_a_record_that_teaches_nothing_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        record(**changes)


def test_a_damaged_sample_is_named() -> None:
    good = to_sample(record())
    about = json.loads(good["json"])
    damaged: list[tuple[dict[str, Any], str]] = [
        ({k: v for k, v in good.items() if k != "0.jpg"}, "medium 0 is missing"),
        ({k: v for k, v in good.items() if k != "json"}, "no 'json'"),
        ({**good, "json": b"{"}, "is not a record of codi2"),
        ({**good, "json": json.dumps({**about, "schema": SCHEMA - 1}).encode()}, "schema 1, expected 2: build its set"),
        ({**good, "json": json.dumps({**about, "edits": "0"}).encode()}, "edits is '0'; expected the number of a"),
        ({**good, "json": json.dumps({**about, "edits": True}).encode()}, "edits is True"),
        ({**good, "json": json.dumps({k: v for k, v in about.items() if k != "licence"}).encode()}, "'licence'"),
    ]
    for sample, words in damaged:
        with pytest.raises(DataError, match=words) as error:
            from_sample(sample)
        assert "a-1" in str(error.value)

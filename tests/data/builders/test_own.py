"""A user's own folder or list: captions, edits, conversations, and what is wrong with a line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from codi2.data.build import Settings, build
from codi2.data.record import Record
from codi2.errors import DataError
from codi2.prompt.parts import Phrase

from . import official
from .records import tasks, words

Built = Callable[..., list[Record]]


def lines(path: Path, *entries: dict) -> Path:
    return official.put(path, "".join(json.dumps(entry) + "\n" for entry in entries))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n, name in enumerate(("cat.jpg", "night.jpg", "dog.jpg")):
        official.put(tmp_path / "mine" / name, official.photo(n))
    official.put(tmp_path / "mine" / "bark.wav", official.tone(440))
    return tmp_path / "mine"


def test_captions_in_metadata(folder: Path, built: Built):
    lines(
        folder / "metadata.jsonl",
        {"file_name": "cat.jpg", "text": "a cat", "license": "CC0"},
        {"file_name": "bark.wav", "text": "a bark"},
    )
    records = built("folder", folder, licence="all rights reserved")
    assert tasks(records) == {"image_from_caption": 1, "caption_image": 1, "audio_from_caption": 1, "caption_audio": 1}
    assert [record.licence for record in records] == ["CC0"] * 2 + ["all rights reserved"] * 2
    (folder / "metadata.jsonl").unlink()
    official.put(folder / "metadata.csv", 'file_name,text\ncat.jpg,"a cat, sitting"\n')
    assert words(built("folder", folder)[1], 1) == "a cat, sitting"


def test_captions_beside_the_files(folder: Path, built: Built):
    official.put(folder / "cat.txt", "a cat\n")
    official.put(folder / "bark.txt", "a bark")
    assert sorted(words(record, 1) for record in built("folder", folder) if "caption_" in record.task) == [
        "a bark",
        "a cat",
    ]


def test_edits_and_conversations(folder: Path, built: Built):
    entries = lines(
        folder / "list.jsonl",
        {"source": "cat.jpg", "instruction": "Make it night.", "target": "night.jpg"},
        {
            "prompt": "Make [image1] look like [image0: the first], with [text0].",
            "answer": "Here: [image2]",
            "media": {"image0": "cat.jpg", "image1": "dog.jpg", "image2": "night.jpg", "text0": "a moon"},
            "task": "mine",
            "edits": "image1",
        },
        {
            "turns": [
                ["user", "Draw [image0]."],
                ["assistant", "[image1]"],
                ["user", "Its sound?"],
                ["assistant", "[audio0]"],
            ],
            "media": {"image0": "cat.jpg", "image1": "dog.jpg", "audio0": "bark.wav"},
        },
    )
    edit, own, rounds = built("jsonl", entries)
    assert edit.task == "edit_image" and "make it night" in words(edit).lower() and edit.turns[1][1] == (edit.media[1],)
    assert own.task == "mine" and words(own) == "Make @ look like @, with a moon." and words(own, 1) == "Here: @"
    assert [m.data for m in own.media] == [official.photo(n) for n in (2, 0, 1)]
    assert Phrase("a moon") in own.turns[0][1]
    assert len(rounds.turns) == 4 and rounds.phase == "image"
    assert [record.edits for record in (edit, own, rounds)] == [0, 0, None]
    assert own.media[own.edits].data == official.photo(2)  # [image1], which stands first


WRONG = {
    "no JSON": ("{", "malformed"),
    "a list": ("[1]", "malformed"),
    "nothing known": ('{"name": "cat.jpg"}', "malformed"),
    "an empty caption": ('{"file_name": "cat.jpg", "text": "  "}', "empty caption"),
    "no caption": ('{"file_name": "cat.jpg"}', "no caption"),
    "a missing file": ('{"file_name": "cow.jpg", "text": "a cow"}', "absent"),
    "an unknown kind": ('{"file_name": "cat.psd", "text": "a cat"}', "malformed"),
    "a broken picture": ('{"file_name": "broken.jpg", "text": "a cat"}', "undecodable"),
    "a speck": ('{"file_name": "speck.png", "text": "a cat"}', "absurd size"),
    "a strip": ('{"file_name": "strip.png", "text": "a cat"}', "absurd size"),
    "silence": ('{"file_name": "silent.wav", "text": "a cat"}', "silent"),
    "a wrong rate": ('{"file_name": "slow.wav", "text": "a cat"}', "wrong rate"),
    "a still": ('{"file_name": "still.mp4", "text": "a cat"}', "wrong rate"),
    "a click": ('{"file_name": "click.wav", "text": "a cat"}', "absurd size"),
    "a placeholder without a file": ('{"prompt": "Draw [image0].", "answer": "No."}', "malformed"),
    "an edit of nothing": ('{"prompt": "Draw.", "answer": "No.", "edits": "image3"}', "malformed"),
    "an edit of the answer": (
        '{"prompt": "A cat.", "answer": "[image0]", "media": {"image0": "cat.jpg"}, "edits": "image0"}',
        "malformed",
    ),
    "roles that do not alternate": ('{"turns": [["user", "a"], ["user", "b"]]}', "malformed"),
    "an answer that is empty": ('{"prompt": "Draw a cat.", "answer": " "}', "malformed"),
    "a caption of a book": (json.dumps({"file_name": "cat.jpg", "text": "word " * 1000}), "absurd size"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_bad_line_is_quarantined_with_its_reason(case: str, folder: Path, tmp_path: Path):
    official.put(folder / "broken.jpg", official.photo(0)[:200])
    official.put(folder / "speck.png", official.photo(0, (8, 8), "PNG"))
    official.put(folder / "strip.png", official.photo(0, (400, 20), "PNG"))
    official.put(folder / "silent.wav", official.tone(440, level=0))
    official.put(folder / "slow.wav", official.tone(440, rate=1_000))
    official.put(folder / "click.wav", official.tone(440, seconds=0.01))
    official.put(folder / "still.mp4", official.clip(0, frames=1))
    line, reason = WRONG[case]
    good = json.dumps({"file_name": "cat.jpg", "text": "a cat"})
    official.put(folder / "metadata.jsonl", f"{line}\n{good}\n")
    report = build(Settings("folder", str(folder), str(tmp_path / "out")), max_bad=0.5)
    assert report["bad"] | report["left_out"] == {reason: 1}
    assert report["records"] == 2
    (noted,) = map(json.loads, (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines())
    assert noted["source"] == "folder/line-1" and noted["reason"] == reason


def test_sources_that_are_none(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    official.put(tmp_path / "list.txt", "a")
    official.put(tmp_path / "csv" / "metadata.csv", "name,caption\na,b\n")
    for source, message in {
        "empty": r"holds no metadata.jsonl or metadata.csv, and no media file has a .txt beside it",
        "nowhere": "there is no .*nowhere",
        "list.txt": r"is not a .jsonl or .csv file",
        "csv": "needs the columns file_name and text; it has name, caption",
    }.items():
        with pytest.raises(DataError, match=message):
            build(Settings("folder", str(tmp_path / source), str(tmp_path / "out")))


def test_a_webp_that_moves_is_a_clip():
    from codi2.data.record import suffix_in_shards
    from codi2.demo import media_folder

    assert suffix_in_shards("webp", (media_folder() / "rabbit.webp").read_bytes()) == "awebp"
    assert suffix_in_shards("png", (media_folder() / "tiger.png").read_bytes()) == "png"

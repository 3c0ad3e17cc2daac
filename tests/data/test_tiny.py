import json
from pathlib import Path

import numpy as np
import pytest

from codi2.data.build import Settings, build
from codi2.data.items import load_corpus
from codi2.data.shards import open_shards
from codi2.data.sources import animated, emoji, games, gcompris, scratch, sonic_pi, stamps
from codi2.data.tiny import build_tiny
from codi2.errors import DataError
from codi2.prompt.parts import Text

FEW = (*emoji.SOURCES, stamps.SOURCE, scratch.SOURCE, gcompris.SOURCE, sonic_pi.SOURCE, animated.SOURCE)


@pytest.fixture
def built(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CODI2_HOME", str(tmp_path / "home"))
    return build_tiny(sources=FEW)


def test_the_corpus_is_read_as_it_was_built(built: Path):
    corpus = load_corpus()
    assert len({item.id for item in corpus.items}) == len(corpus)
    cats = corpus.select(concept="cat")
    assert {(cat.source, cat.modality) for cat in cats} == {
        *((style, "image") for style in ("openmoji", "google", "twitter", "fluent3d", "tuxpaint")),
        ("tuxpaint", "audio"),
        ("fluent-anim", "video"),
    }
    picture = corpus.image(corpus.select("image", style="photo", concept="cat")[0])
    assert (picture.size, picture.mode, picture.getpixel((0, 0))) == ((64, 64), "RGB", (255, 255, 255))
    sound = corpus.sound(corpus.select("audio", concept="cat")[0])
    assert sound.shape == (40_960,) and sound.dtype == np.float32 and 0.85 < np.abs(sound).max() <= 0.92
    clips = corpus.select("video")
    assert {clip.concept for clip in clips} == {"cat", "clock showing one o’clock"}  # what stands still is no clip
    frames = corpus.media(clips[0])
    assert frames.shape == (8, 64, 64, 3) and frames.dtype == np.uint8
    middles = [np.nonzero(frame.min(-1) < 128)[1].mean() for frame in frames]
    assert np.all(np.diff(middles) > 1)  # the disc goes to the right, and the crop stays
    assert len(corpus.select("audio", concept="tuba")) == 3  # clips of one long recording
    assert len({item.group for item in corpus.select("audio", concept="tuba")}) == 1
    assert [item.id for item in corpus.items if item.background] == ["scratch/background/beach-malibu"]


def test_two_builds_give_the_same_bytes(built: Path):
    files = sorted(path for path in built.rglob("*") if path.is_file())
    first = {path: path.read_bytes() for path in files}
    build_tiny(sources=FEW)
    assert {path for path in files if path.read_bytes() != first[path]} == set()


def test_the_items_become_records_of_the_common_schema(built: Path, tmp_path: Path):
    """Through the same engine as every other data set: each training item as a medium and as a caption."""
    out = tmp_path / "pairs"
    report = build(Settings("tiny", str(built), str(out), options={"splits": "train"}), max_bad=1)
    train = [item for item in load_corpus(built).items if item.split == "train"]
    records = [record for shard in open_shards(out, report) for record in shard]
    assert report["entries"] == len(train)
    assert len(records) == 2 * (len(train) - report["bad"].get("duplicate", 0))
    assert {record.licence for record in records} <= {item.licence for item in train}
    words = {"".join(p.text for _, turn in r.turns for p in turn if isinstance(p, Text)) for r in records}
    assert all(any(item.caption in text for text in words) for item in train)


def test_asking_for_the_wrong_modality(built: Path):
    corpus = load_corpus()
    with pytest.raises(DataError, match="is of modality audio, not image"):
        corpus.image(corpus.select("audio")[0])


def test_a_source_that_was_not_fetched(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CODI2_HOME", str(tmp_path / "home"))
    with pytest.raises(DataError, match=r"source wesnoth has no files under .*codi2 data fetch tiny"):
        build_tiny(sources=(*FEW, games.WESNOTH))


def test_a_corpus_that_is_missing_broken_or_of_another_version(built: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"no corpus in .*codi2 data fetch tiny && codi2 data build tiny"):
        load_corpus(tmp_path / "nowhere")
    about = json.loads((built / "build.json").read_text())
    (built / "build.json").write_text(json.dumps(about | {"schema": 99}))
    with pytest.raises(DataError, match="has schema 99"):
        load_corpus(built)
    (built / "build.json").write_text(json.dumps(about))
    (built / "items.jsonl").write_text('{"id": "half a li')
    with pytest.raises(DataError, match="is broken"):
        load_corpus(built)

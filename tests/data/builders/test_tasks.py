"""The tasks of training as a data set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from codi2.data.build import Settings, _open_builder, build
from codi2.data.items import load_corpus
from codi2.data.record import Record
from codi2.data.tasks import FAMILIES, WEIGHTS, TaskSampler, draw_record
from codi2.errors import ConfigError, DataError

Built = Callable[..., list[Record]]


@pytest.fixture
def corpus(rich_home: Path) -> Path:
    """The corpus, with answers of the base model to questions."""
    (rich_home / "cache").mkdir(exist_ok=True)
    lines = "".join(f'["Question {n}?", "Answer {n}."]\n' for n in range(16))
    (rich_home / "cache" / "chat.jsonl").write_text(lines)
    return rich_home / "data" / "tiny"


ALONE = [(family, {family: 1.0}) for family in FAMILIES]


@pytest.mark.parametrize(
    ("families", "weights"), [("", WEIGHTS), ("sounds, examples=2.5", {"sounds": 1, "examples": 2.5}), *ALONE]
)
def test_a_record_is_that_which_training_draws(families: str, weights: dict[str, float], corpus: Path, built: Built):
    records = built("tasks", corpus, seed=3, records=24, families=families)
    sampler = TaskSampler(load_corpus(corpus))
    by_source = {record.source: record for record in records}
    assert len(by_source) == 24
    for number in range(24):
        drawn = draw_record(sampler, 3, number, weights)
        record = by_source[drawn.source]
        assert (record.task, record.turns, record.edits) == (drawn.task, drawn.turns, drawn.edits)
        assert (record.licence, record.meta) == (drawn.licence, json.loads(json.dumps(drawn.meta)))


def test_only_the_named_splits_are_used(corpus: Path, built: Built):
    split = {item.id: item.split for item in load_corpus(corpus).items}
    for names in ("train", "test_family", "val,test_subject"):
        records = built("tasks", corpus, records=40, splits=names, families="pictures,instructions,texts")
        assert {split[item] for record in records for item in record.meta["items"]} == set(names.split(","))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"families": "weather"}, "no family of tasks 'weather'; the families are captions"),
        ({"families": "clips=often"}, "families is 'clips=often'; write each as NAME or NAME=NUMBER"),
        ({"families": "clips=-1,sounds"}, "expected numbers of 0 or more"),
    ],
)
def test_a_wrong_family_is_one_sentence(options: dict[str, str], message: str, corpus: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=message):
        build(Settings("tasks", str(corpus), str(tmp_path / "out"), options=options))
    assert not (tmp_path / "out").exists()


def test_a_split_without_items_is_refused(corpus: Path, tmp_path: Path):
    with pytest.raises(DataError, match="holds nothing for tasks"):
        build(Settings("tasks", str(corpus), str(tmp_path / "out"), options={"splits": "tests"}))


def test_a_corpus_that_was_built_again_is_another_source(corpus: Path, tmp_path: Path):
    settings = Settings("tasks", str(corpus), str(tmp_path / "out"), options={"records": 20})
    build(settings)
    about = corpus / "build.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"sha256_items": "another"}))
    _open_builder.cache_clear()
    with pytest.raises(DataError, match="holds a build with version of the source '', not 'another'"):
        build(settings)

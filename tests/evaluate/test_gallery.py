"""The gallery: what each row asks, when an answer is right, and the page of a whole run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from codi2.data.items import load_corpus
from codi2.data.tasks.sampler import TaskSampler
from codi2.evaluate.context import EvalContext
from codi2.evaluate.figure import mean
from codi2.evaluate.gallery import VERDICTS, right, run_entry, run_gallery, verdict
from codi2.evaluate.gallery_rows import ENTRIES, WRONG, Entry, Instance
from codi2.model import CoDi2


@pytest.fixture
def context(rich_home: Path, judge) -> EvalContext:
    return EvalContext(CoDi2.from_pretrained("debug"), quick=True)


def instances(context: EvalContext, entry: Entry, count: int = 6) -> list[Instance]:
    sampler = TaskSampler(context.corpus, entry.splits)
    return [entry.make(sampler, np.random.default_rng((7, i))) for i in range(count)]


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.title for entry in ENTRIES])
def test_true_answers_are_right_and_wrong_ones_are_wrong(entry: Entry, context: EvalContext):
    some = instances(context, entry)
    for modality in some[0].targets:
        truth = [[one.targets[modality]] for one in some]
        found = right(context, modality, some, truth)
        assert found.value >= 0.8  # the stub of a judge sees nine fields: it may take two alike
        assert 1 / (WRONG + 1) <= found.baselines["chance"].value <= 0.34
        anothers = [*truth[1:], truth[0]]
        assert right(context, modality, some, anothers).value <= 0.2
        if all(one.wrong.get(modality) for one in some):  # what was given is no answer
            copies = [[one.wrong[modality][0]] for one in some]
            assert right(context, modality, some, copies).value <= 0.2


def test_every_row_speaks_of_held_out_media_and_says_what_it_wants(context: EvalContext):
    wheres = {entry.where.split(",")[0] for entry in ENTRIES}
    assert wheres == {"Table 1", "Table 2", "Table 3", "Figure 1"}
    assert not any("train" in entry.splits for entry in ENTRIES)
    split = {item.split for item in load_corpus().items}
    assert {name for entry in ENTRIES for name in entry.splits} - {"val"} <= split


def test_verdicts():
    chance = [0.2] * 20
    by_share = {
        share: verdict(mean("right", [1.0] * round(20 * share) + [0.0] * round(20 * (1 - share)), {"chance": chance}))
        for share in (1.0, 0.5, 0.45, 0.2, 0.0)
    }
    assert by_share == {1.0: "works", 0.5: "works", 0.45: "partly", 0.2: "not yet", 0.0: "not yet"}


def test_what_a_model_does_not_make_is_said(context: EvalContext):
    del context.model.decoders["video"]
    (entry,) = (entry for entry in ENTRIES if entry.title == "A clip with its sound")
    shown = run_entry(context, entry)
    assert (shown.lacking, shown.verdict, list(shown.answer)) == ("debug makes no video yet", "not yet", [])


def test_a_run_shows_every_row_and_says_what_is_lacking(context: EvalContext, tmp_path: Path):
    shown = run_gallery(context, tmp_path)
    assert [one.entry for one in shown] == list(ENTRIES)
    report = json.loads((tmp_path / "report.json").read_text())
    page = (tmp_path / "index.html").read_text()
    assert len(report["rows"]) == len(ENTRIES) and page.count("<section>") == len(ENTRIES)
    for row in report["rows"]:
        assert row["verdict"] in VERDICTS and f"{row['row']}: {row['verdict']}" in page.replace("&#x27;", "'")
        assert bool(row["lacking"]) == (not row["right"])
    clip = next(one for one in shown if one.entry.title == "A clip with its sound")
    assert {figure.name for figure in clip.figures} == {"video: right answers", "audio: right answers"}
    rounds = shown[-1]
    assert len(rounds.first.later) == 2 and "image" in {part.modality for part in rounds.answer}

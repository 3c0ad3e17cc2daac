"""The suites of edits, answered by made-up systems: the true answers, copies of the source, answers of other cases."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from codi2.chat import Chat
from codi2.config import DEBUG
from codi2.evaluate.case import Case
from codi2.evaluate.closeness import level_difference
from codi2.evaluate.context import EvalContext
from codi2.evaluate.figure import Figure
from codi2.evaluate.suites import edit_cases, edits, rounds
from codi2.evaluate.suites.edit_figures import COPY, ROUND_TRIP, VISIBLE
from codi2.model import CoDi2
from codi2.prompt.parts import Audio, Image, Part, Text

COUNT = 2


@pytest.fixture
def context(rich_home: Path, judge: object, ears: None) -> EvalContext:
    return EvalContext(CoDi2.build(DEBUG), items=COUNT)


def asked(context: EvalContext, modality: str) -> list[Case]:
    return edit_cases.cases(modality)(context)


def scored(
    context: EvalContext, some: Sequence[Case], answers: Sequence[Part], system: str = "given"
) -> dict[str, Figure]:
    return {figure.name: figure for figure in edits.score(context, some, {system: answers}).figures}


def test_every_edit_is_asked_for_in_every_way(context: EvalContext) -> None:
    some = asked(context, "image")
    assert len({case.id for case in some}) == len(some) == COUNT * (3 * 5 + 4)
    for n in range(COUNT):
        mine = [case for case in some if case.about["edit"] == n and case.about["of"] == "known"]
        assert len({id(case.target) for case in mine}) == len({id(case.truth["source"]) for case in mine}) == 1
        given = {case.about["way"]: sum(part.modality == "image" for part in case.prompt) for case in mine}
        assert given == {
            "words": 1, "1": 3, "2": 5, "3": 7, "4": 9, "none": 1, "other": 9, "swapped": 9, "zeroed": 1
        }  # fmt: skip
        for case in mine:
            if case.about["pairs"] and case.about["way"] != "other":
                before, after = (np.asarray(part.pixels, int) for part in case.about["pairs"][0])
                assert np.abs(after - before).mean() > 2  # the first example shows the edit
    again = EvalContext(context.model, seed=1, items=COUNT)
    assert [case.about["ask"] for case in asked(again, "image")] != [case.about["ask"] for case in some]
    assert [case.about["ask"] for case in asked(context, "image")] == [case.about["ask"] for case in some]


def test_choices_are_made_on_items_that_no_figure_is_made_of(context: EvalContext) -> None:
    choices = EvalContext(context.model, items=COUNT, validation=True)
    held = {item.id: item for item in context.corpus.items}
    for one, split in ((context, "test_family"), (choices, "val")):
        pixels = {np.asarray(one.corpus.images[i.row]).tobytes() for i in held.values() if i.split == split
                  and i.modality == "image"}  # fmt: skip
        some = asked(one, "image")
        assert all(np.asarray(case.truth["source"].pixels).tobytes() in pixels for case in some)  # type: ignore[attr-defined]


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_true_answers_are_right_and_copies_are_not(modality: str, context: EvalContext) -> None:
    some = asked(context, modality)
    truth = scored(context, some, [case.target for case in some])
    copies = scored(context, some, [case.truth["source"] for case in some])
    others = scored(context, some, [case.about["others"][0] for case in some])
    for title in ("known edits, by instruction", "held-out values, 4 examples", "held-out kinds, 1 example"):
        right = f"{title}: right among 6"
        assert (truth[right].value, copies[right].value, others[right].value) == (1, 0, 0)
        assert truth[right].baselines["chance"].value == pytest.approx(1 / 6)
        if modality == "audio":
            lsd, apart, level, loud = (
                f"{title}: {name}" for name in ("LSD", "aiSFX-FD", "level within 3 dB", "difference in level")
            )
            assert truth[loud].value == 0 and copies[loud].value == copies[loud].baselines[COPY].value
            assert truth[lsd].value == 0 == pytest.approx(truth[apart].value, abs=1e-9) and truth[level].value == 1
            assert copies[lsd].value == copies[lsd].baselines[COPY].value > 0 and truth[lsd].passes
            assert copies[level].value == copies[level].baselines[COPY].value
            assert copies[apart].value == copies[apart].baselines[COPY].value and ROUND_TRIP in copies[apart].baselines
    seen = [name for name in truth if name.endswith("visible: EffNet-sim")]
    assert bool(seen) == (modality == "image")
    for name in seen:
        assert truth[name].value == pytest.approx(1, abs=1e-4) and truth[name].passes == (truth[name].n > 1)
        assert copies[name].value == pytest.approx(copies[name].baselines[COPY].value) and not copies[name].passes
        assert copies[name].value < VISIBLE
    assert any(name.startswith(tuple(set(edit_cases.FAMILIES.values()))) for name in seen) == (modality == "image")


def test_controls_tell_examples_that_are_used_from_those_that_are_not(context: EvalContext) -> None:
    """A system that does what four examples show, one that always copies, and one that takes any example."""
    some = asked(context, "image")

    def answered(used: Sequence[str]) -> dict[str, Figure]:
        return scored(context, some, [c.target if c.about["way"] in used else c.truth["source"] for c in some])

    names = (
        "gain of 4 examples over none, EffNet-sim", "gain of 3 examples over 1, EffNet-sim",
        "gain of 4 examples of another edit over none, EffNet-sim", "4 examples exchanged move the answer away",
        "by instruction: gain over a feature of zeros, EffNet-sim",
    )  # fmt: skip
    good, deaf = answered(["words", "3", "4"]), answered([])
    easy = answered(["words", "1", "3", "4", "other", "swapped", "zeroed"])
    assert [good[name].passes for name in names] == [True] * 5
    assert [deaf[name].passes for name in names] == [False, False, True, False, False]
    assert [easy[name].passes for name in names] == [True, False, False, False, False]
    assert good[names[3]].value == 1 and deaf[names[3]].value == easy[names[3]].value == 0


def test_features_are_compared_with_those_that_need_no_training(
    context: EvalContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = [case for case in asked(context, "image") if case.about["of"] == "known"]
    parts = edits.ours(context, some)
    found = scored(context, some, parts, "ours")
    shown, said = (
        found[f"known edits, {way}: cosine to the true features"] for way in ("3 examples", "by instruction")
    )
    assert set(shown.baselines) == {"copy", "feature arithmetic", "regression"}
    assert set(said.baselines) == {"copy", "regression"}
    monkeypatch.setattr(
        edits, "features", lambda context, some, regressed=False: edits.true_features(context, some)["target"]
    )
    best = scored(context, some, parts, "ours")["known edits, 3 examples: cosine to the true features"]
    assert best.value == pytest.approx(1) and best.passes and shown.value < 0.999


def test_an_answer_is_a_reply_of_the_model_and_a_zeroed_one_is_not(context: EvalContext) -> None:
    some = [case for case in asked(context, "image") if case.about["way"] in ("words", "zeroed")][:2]
    words, zeroed = edits.ours(context, some)
    reply = context.model.generate(some[0].prompt, want="image", seed=some[0].about["seed"], max_new_tokens=0)
    own, other, plain = (np.asarray(part.pixels, int) for part in (words, zeroed, reply.images[0]))  # type: ignore[attr-defined]
    assert np.abs(own - plain).max() <= 1 and (own != other).any()
    assert torch.equal(edits.features(context, some)[0], edits.features(context, some)[1])  # zeroed behind, not before


def test_levels_are_ratios_in_decibels() -> None:
    tone = np.sin(np.arange(1000)).astype(np.float32) * 0.5
    sounds = [Audio(tone * gain, 16_000) for gain in (1, 0.5, 0)]
    assert level_difference([sounds[0]] * 3, sounds) == pytest.approx([0, -6.02, -70.98], abs=0.05)


def test_rounds_are_five_different_edits_of_the_picture_before(context: EvalContext) -> None:
    context.items = 3
    some = rounds.cases(context)
    assert len(some) == 3 * rounds.ROUNDS
    for n in range(3):
        mine = [case for case in some if case.thread == f"{n:03d}"]
        looks = [np.asarray(mine[0].truth["source"].pixels, int)]  # type: ignore[attr-defined]
        looks += [np.asarray(case.target.pixels, int) for case in mine]  # type: ignore[attr-defined]
        assert all(np.abs(after - before).mean() > 2 for before, after in pairwise(looks))
        assert len({case.about["ask"] for case in mine}) == rounds.ROUNDS
    exact = rounds.score(context, some, {"ours": [case.target for case in some]}).figures
    copied = rounds.score(context, some, {"ours": [case.truth["source"] for case in some]}).figures
    assert [figure.value for figure in exact] == pytest.approx([1] * rounds.ROUNDS, abs=1e-4)
    assert exact[-1].passes and copied[-1].value < 1


def test_rounds_are_played_as_a_chat_plays_them(context: EvalContext) -> None:
    """One conversation at a time: the sums of a batch are rounded in another order, which adds up over the rounds."""
    some = rounds.cases(context)
    for thread in sorted({case.thread for case in some}):
        mine, chat = [case for case in some if case.thread == thread], Chat(context.model, want="image")
        for n, (case, answer) in enumerate(zip(mine, rounds.ours(context, mine), strict=True)):
            prompt = (Text(f"Now {case.about['ask']}."),) if n else case.prompt
            (image,) = chat.send(prompt, seed=context.seed + case.about["seed"]).images
            assert isinstance(answer, Image)
            assert np.array_equal(np.asarray(answer.pixels), np.asarray(image.pixels)), case.id

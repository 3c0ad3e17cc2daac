"""The suite `chat`: its requests, and what counts as right."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from codi2.data.tasks.rounds import PHRASES
from codi2.evaluate.context import EvalContext
from codi2.evaluate.suites import chats
from codi2.model import CoDi2
from codi2.prompt.parts import Text


@pytest.fixture
def context(rich_home: Path) -> EvalContext:
    return EvalContext(CoDi2.from_pretrained("debug"))


def test_there_are_two_hundred_requests_in_chats_of_three_rounds_with_true_replies(context: EvalContext):
    asked = chats.cases(context)
    assert len(asked) >= 200 and {case.about["round"] for case in asked} == {1, 2, 3}
    assert {case.group for case in asked} == chats.KINDS.keys()
    third = [case for case in asked if case.about["round"] == 3]
    assert all([m.role for m in case.about["messages"]] == ["user", "assistant"] * 2 + ["user"] for case in third)
    for case in third:
        first_reply = case.about["messages"][1].parts
        plan = chats.PLANS[int(case.id[:3]) % len(chats.PLANS)]
        assert tuple(part.modality for part in first_reply) == chats.KINDS[plan[0]].answer
    again = chats.cases(context)
    texts = [[part.text for part in case.prompt if isinstance(part, Text)] for case in asked]
    assert texts == [[part.text for part in case.prompt if isinstance(part, Text)] for case in again]


def test_no_wording_is_one_of_training(context: EvalContext):
    def bare(text: str) -> str:
        return re.sub(r"\{\w+\}|\W", "", text).lower()

    folder = files("codi2.data").joinpath("templates")
    lines = [line for file in folder.iterdir() if file.name.endswith(".txt") for line in file.read_text().splitlines()]
    drawn = [wording for wordings in PHRASES.values() for wording in wordings]
    known = {bare(line) for line in (*lines, *drawn)}
    assert len(known) > 1000
    wordings = [wording for kind in chats.KINDS.values() for wording in kind.wordings if wording != "{question}"]
    assert not known & {bare(wording) for wording in wordings}


def test_a_reply_is_right_that_has_exactly_what_is_asked_for(context: EvalContext):
    asked = chats.cases(EvalContext(context.model, items=2))
    true = [case.target for case in asked]
    wrong = [Text("video image") if case.target != Text("video image") else Text("text") for case in asked]
    figures = chats.score(context, asked, {"ours": true, "another": wrong}).figures
    assert all(figure.value == 1 and figure.baselines["another"].value == 0 for figure in figures)
    assert figures[0].passes and chats.score(context, asked, {"ours": wrong}).figures[0].passes is False

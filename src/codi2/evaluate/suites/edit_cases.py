"""The cases of `edits` and `sound-edits`.

Edits are drawn with continuous values (`data.edits`): of kinds and values that training has, of values that it never
has, of kinds that it never has. Each edit is requested in every one of `WAYS`, of the same item and with the same
noise. Those of the first group are also requested in the ways of `CONTROLS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from codi2.data.edits import Edit, HeldOut, colour, cover, draw_kind, geometry, ground, sound, texture
from codi2.data.tasks.sampler import TRIES, TaskSampler, encoded, is_visible
from codi2.data.templates import listing, write_prompt
from codi2.errors import DataError
from codi2.evaluate.case import Case
from codi2.evaluate.context import EvalContext
from codi2.prompt.grammar import join_text
from codi2.prompt.parts import Part, Prompt, Text

SHOTS = 4  # examples at most
WAYS = ("words", "1", "2", "3", "4")
"""By instruction, or by so many examples."""
CONTROLS = ("none", "other", "swapped", "zeroed")
"""No example, four of another edit, four with before and after exchanged; by instruction, the feature zeroed."""
GROUPS: dict[HeldOut, tuple[str, int]] = {"": ("known", 100), "values": ("values", 50), "kinds": ("kinds", 50)}
"""What is held out → name of the group, and its edits."""
SPLITS = {"image": ("test_family",), "audio": ("test_family", "test_rendering")}
"""Held-out families are few among sounds."""
FAMILIES = {
    kind.name: family.__name__.rpartition(".")[2]
    for family in (colour, ground, cover, geometry, texture, sound)
    for kind in family.KINDS
}
"""Kind of edit → its family."""
WRONG = 4  # other edits of the same item beside the true answer
DRAWS = 51  # part of the seed: other suites have other draws


def cases(modality: str) -> Callable[[EvalContext], list[Case]]:
    """The questions of one modality."""

    def make(context: EvalContext) -> list[Case]:
        return [
            case
            for held_out, (_, number) in GROUPS.items()
            for case in draw_cases(context, modality, held_out, context.count(number))
        ]

    return make


def draw_cases(context: EvalContext, modality: str, held_out: HeldOut, number: int) -> list[Case]:
    """`number` edits of one group, each requested in every way."""
    splits = context.splits(*SPLITS[modality])
    sampler, wrong = TaskSampler(context.corpus, splits, held_out), TaskSampler(context.corpus, splits)
    cases = []
    for i in range(number):
        draw = np.random.default_rng((context.seed, DRAWS, len(modality), list(GROUPS).index(held_out), i))
        cases += _of_one_edit(sampler, wrong, modality, draw, GROUPS[held_out][0], i)
    return cases


def _of_one_edit(
    sampler: TaskSampler, wrong: TaskSampler, modality: str, draw: np.random.Generator, group: str, number: int
) -> list[Case]:
    """One edit of one item, requested in each way. `wrong` draws the other edits of the item."""
    media = [sampler.array(item) for item in sampler.items(modality, draw, 1 + SHOTS)]
    edit, after = sampler.change(modality, media, draw)
    known, elsewhere = [media[0], after[0]], list[np.ndarray]()
    for n in range(WRONG):
        changed = unlike(wrong, modality, draw, known, media if n == 0 else media[:1])
        elsewhere = elsewhere or changed[1:]
        known.append(changed[0])
    source, target, *others = (encoded(array).decode() for array in known)
    # the first example shows the edit, so that one example is enough to know it
    order = sorted(range(SHOTS), key=lambda n: not is_visible(media[n + 1], after[n + 1]))
    pairs, other_pairs = (
        [(encoded(media[n + 1]).decode(), encoded(ends[n]).decode()) for n in order] for ends in (after[1:], elsewhere)
    )
    template = int(draw.integers(2**31))
    examples = {way: pairs[: int(way)] for way in WAYS if way != "words"}
    if group == GROUPS[""][0]:
        examples |= {"none": [], "other": other_pairs, "swapped": [(b, a) for a, b in pairs]}
    prompts = {way: prompt(shots, source, template) for way, shots in examples.items()}
    words = write_prompt("edit", np.random.default_rng(template), {"media": [source], "ask": edit.ask})
    prompts |= {"words": words, **({"zeroed": words} if group == GROUPS[""][0] else {})}
    about = {"seed": number, "others": others, "family": FAMILIES.get(edit.kind, "two edits in a row")}
    truth = {"target": target, "source": source}
    return [
        Case(
            f"{group}-{number:03d}-{way}",
            prompts[way],
            modality,
            truth,
            f"{group}, {way}",
            {**about, "way": way, "edit": number, "of": group, "pairs": examples.get(way, []), "ask": edit.ask},
        )
        for way in (*WAYS, *CONTROLS)
        if way in prompts
    ]


def unlike(
    sampler: TaskSampler,
    modality: str,
    draw: np.random.Generator,
    known: Sequence[np.ndarray],
    media: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """`media` under an edit that makes the first unlike all that is `known`."""
    for _ in range(TRIES):
        _, after = sampler.change(modality, media, draw)
        if all(is_visible(array, after[0]) for array in known):
            return after
    raise DataError(f"none of {TRIES} edits makes this {modality} unlike {len(known)} others; the corpus is too blank")


def prompt(pairs: Sequence[tuple[Part, Part]], source: Part, template: int) -> Prompt:
    """Examples and what to edit alike; without examples nothing says what to do."""
    if not pairs:
        return (Text("Apply an editing to "), source, Text("."))
    fields = {"pairs": listing(pairs, between=", "), "media": [source]}
    return join_text(write_prompt("analogy", np.random.default_rng(template), fields))


def changed_alike(
    kinds: Sequence[str], draw: np.random.Generator, media: Sequence[np.ndarray]
) -> tuple[Edit, list[np.ndarray]]:
    """An edit of one of `kinds` that changes each of `media`, and these edited. Raises DataError: there is none."""
    for _ in range(TRIES):
        edit = edit_of(kinds, draw)
        after = [edit(array) for array in media]
        if all(map(is_visible, media, after)):
            return edit, after
    raise DataError(f"none of {TRIES} edits of {', '.join(kinds)} changes all of {len(media)} media")


def edit_of(kinds: Sequence[str], draw: np.random.Generator) -> Edit:
    """An edit of one of `kinds`, with values that training has."""
    return draw_kind(str(draw.choice(list(kinds))), draw)

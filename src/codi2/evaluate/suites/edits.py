"""`edits` and `sound-edits`: held-out pictures and sounds edited as an instruction or one to four examples say.

Edits are drawn with continuous values (`data.edits`): of kinds and values that training sees, of values that it never
sees, of kinds that it never sees. Each edit is asked for in every one of `WAYS`, of the same item and with the same
noise. Those of the first group are also asked for in the ways of `CONTROLS`.

Letters: n cases, K features, D joint width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from codi2.data.edits import Edit, HeldOut, colour, cover, draw_kind, geometry, ground, sound, texture
from codi2.data.tasks.sampler import TRIES, TaskSampler, encoded, seen
from codi2.data.templates import listing, write_prompt
from codi2.errors import DataError
from codi2.evaluate import baselines
from codi2.evaluate.bench import Bench
from codi2.evaluate.case import CHUNK, Case
from codi2.evaluate.figure import Example, Findings
from codi2.evaluate.suites.edit_figures import control_figures, family_figures, way_figures
from codi2.prompt.grammar import join_text
from codi2.prompt.parts import Part, Prompt, Text

SHOTS = 4  # examples at most
WAYS = ("words", "1", "2", "3", "4")
"""By instruction, or by so many examples."""
CONTROLS = ("none", "other", "swapped", "zeroed")
"""No example, four of another edit, four with before and after exchanged; by instruction, the feature zeroed."""
GROUPS: dict[HeldOut, tuple[str, int]] = {"": ("known", 100), "values": ("values", 50), "kinds": ("kinds", 50)}
"""What is held out → name of the group, and its edits."""
TITLES = {"known": "known edits", "values": "held-out values", "kinds": "held-out kinds"}
NAMES = {"words": "by instruction", "1": "1 example", **{str(n): f"{n} examples" for n in range(2, SHOTS + 1)}}
SPLITS = {"image": ("test_family",), "audio": ("test_family", "test_rendering")}
"""Held-out families are few among sounds."""
FAMILIES = {
    kind.name: family.__name__.rpartition(".")[2]
    for family in (colour, ground, cover, geometry, texture, sound)
    for kind in family.KINDS
}
"""Kind of edit → its family."""
QUICK, EXAMPLES = 2, 12
WRONG = 4  # other edits of the same item that the true answer is told from
DRAWS = 51  # tells the draws from those of other suites


def cases(modality: str) -> Callable[[Bench, bool], list[Case]]:
    """The questions of one modality."""

    def make(bench: Bench, quick: bool) -> list[Case]:
        return [
            case
            for held_out, (_, number) in GROUPS.items()
            for case in drawn(bench, modality, held_out, bench.items or (QUICK if quick else number))
        ]

    return make


def drawn(bench: Bench, modality: str, held_out: HeldOut, number: int) -> list[Case]:
    """So many edits of one group, each asked for in every way."""
    splits = bench.splits(*SPLITS[modality])
    sampler, wrong = TaskSampler(bench.corpus, splits, held_out), TaskSampler(bench.corpus, splits)
    made = []
    for i in range(number):
        draw = np.random.default_rng((bench.seed, DRAWS, len(modality), list(GROUPS).index(held_out), i))
        made += _of_one_edit(sampler, wrong, modality, draw, GROUPS[held_out][0], i)
    return made


def _of_one_edit(
    sampler: TaskSampler, wrong: TaskSampler, modality: str, draw: np.random.Generator, group: str, number: int
) -> list[Case]:
    """One edit of one item, asked for in each way. `wrong` draws the edits that it is told from."""
    media = [sampler.array(item) for item in sampler.items(modality, draw, 1 + SHOTS)]
    edit, after = sampler.change(modality, media, draw)
    known, elsewhere = [media[0], after[0]], list[np.ndarray]()
    for n in range(WRONG):
        changed = unlike(wrong, modality, draw, known, media if n == 0 else media[:1])
        elsewhere = elsewhere or changed[1:]
        known.append(changed[0])
    source, target, *others = (encoded(one).decode() for one in known)
    # the first example shows the edit, so that one example is enough to know it
    order = sorted(range(SHOTS), key=lambda n: not seen(media[n + 1], after[n + 1]))
    pairs, other_pairs = (
        [(encoded(media[n + 1]).decode(), encoded(ends[n]).decode()) for n in order] for ends in (after[1:], elsewhere)
    )
    template = int(draw.integers(2**31))
    shown = {way: pairs[: int(way)] for way in WAYS if way != "words"}
    if group == GROUPS[""][0]:
        shown |= {"none": [], "other": other_pairs, "swapped": [(b, a) for a, b in pairs]}
    asked = {way: prompt(examples, source, template) for way, examples in shown.items()}
    words = write_prompt("edit", np.random.default_rng(template), {"media": [source], "ask": edit.ask})
    asked |= {"words": words, **({"zeroed": words} if group == GROUPS[""][0] else {})}
    about = {"seed": number, "others": others, "family": FAMILIES.get(edit.kind, "two edits in a row")}
    truth = {"target": target, "source": source}
    return [
        Case(
            f"{group}-{number:03d}-{way}",
            asked[way],
            modality,
            truth,
            f"{group}, {way}",
            {**about, "way": way, "edit": number, "of": group, "pairs": shown.get(way, []), "ask": edit.ask},
        )
        for way in (*WAYS, *CONTROLS)
        if way in asked
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
        if all(seen(one, after[0]) for one in known):
            return after
    raise DataError(f"none of {TRIES} edits makes this {modality} unlike {len(known)} others; the corpus is too blank")


def prompt(pairs: Sequence[tuple[Part, Part]], given: Part, template: int) -> Prompt:
    """Examples and what to edit alike; without examples nothing says what to do."""
    if not pairs:
        return (Text("Apply an editing to "), given, Text("."))
    fields = {"pairs": listing(pairs, between=", "), "media": [given]}
    return join_text(write_prompt("analogy", np.random.default_rng(template), fields))


def changed_alike(
    kinds: Sequence[str], draw: np.random.Generator, media: Sequence[np.ndarray]
) -> tuple[Edit, list[np.ndarray]]:
    """An edit of one of `kinds` that changes each of `media`, and these edited. Raises DataError: there is none."""
    for _ in range(TRIES):
        edit = edit_of(kinds, draw)
        after = [edit(one) for one in media]
        if all(map(seen, media, after)):
            return edit, after
    raise DataError(f"none of {TRIES} edits of {', '.join(kinds)} changes all of {len(media)} media")


def edit_of(kinds: Sequence[str], draw: np.random.Generator) -> Edit:
    """An edit of one of `kinds`, with values that training sees."""
    return draw_kind(str(draw.choice(list(kinds))), draw)


# answers


def ours(bench: Bench, some: Sequence[Case]) -> list[Part]:
    """The model's replies; where a case says so, drawn from features of zeros."""
    told = features(bench, some)
    zeroed = torch.tensor([case.about["way"] == "zeroed" for case in some], device=told.device)
    told = torch.where(zeroed[:, None, None], 0, told)
    return bench.decode(told, [case.prompt for case in some], some[0].want, _seeds(bench, some))


def _seeds(bench: Bench, some: Sequence[Case]) -> list[int]:
    return [bench.seed + case.about["seed"] for case in some]


SYSTEMS = {"ours": ours}


# features


def features(bench: Bench, some: Sequence[Case], regressed: bool = False) -> Tensor:
    """The features [n, K, D] that the decoder gets for the answers; each case is thought about once.

    Args:
        regressed: as the language model regresses them, without the prior. Raises WeightsError: there is no prior.
    """
    known: dict[str, Tensor] = bench.once(("edit features", some[0].want, regressed), dict)
    new = [case for case in some if case.id not in known]
    if new:
        prompts, want, seeds = [case.prompt for case in new], new[0].want, _seeds(bench, new)
        if regressed:
            with bench.without_prior():
                made = bench.think(prompts, want, seeds)
        else:
            made = bench.think(prompts, want, seeds)
        known.update(zip((case.id for case in new), made, strict=True))
    return torch.stack([known[case.id] for case in some])


def true_features(bench: Bench, some: Sequence[Case]) -> dict[str, Tensor]:
    """Features [n, K, D] of the true answers (`target`), and what can be guessed without training: a `copy` of the
    source's, and where all cases have examples, that plus their mean difference (`feature arithmetic`)."""
    slots = bench.num_slots(some[0].want)

    def encode(parts: Sequence[Part]) -> Tensor:
        return bench.encode(parts)[:, :slots].float()

    found = {"target": encode([case.target for case in some]), "copy": encode([c.truth["source"] for c in some])}
    if all(case.about["pairs"] for case in some):
        before, after = (
            torch.stack([encode([pair[side] for pair in case.about["pairs"]]).mean(0) for case in some])
            for side in (0, 1)
        )
        found["feature arithmetic"] = baselines.arithmetic(before, after, found["copy"])
    return found


def fed(bench: Bench, some: Sequence[Case]) -> dict[str, Tensor]:
    """The features of the answers (`ours`, and `regression` where there is a prior) beside `true_features`."""
    found = {"ours": features(bench, some), **true_features(bench, some)}
    if bench.model.prior is not None:
        found["regression"] = features(bench, some, regressed=True)
    return found


# figures


def score(bench: Bench, asked: Sequence[Case], outputs: Mapping[str, Sequence[Part]]) -> Findings:
    """By group and way: features, likeness, right answers among six; then families of kinds, and controls."""
    main, parts = next(iter(outputs.items()))
    answers = {case.id: part for case, part in zip(asked, parts, strict=True)}
    if main == "ours":  # in the batches in which cases are answered: what others answered is the same to the last bit
        for start in range(0, len(asked), CHUNK):
            features(bench, asked[start : start + CHUNK])
    figures = []
    for group in dict.fromkeys(case.about["of"] for case in asked):
        for way in WAYS:
            some = [case for case in asked if case.about["of"] == group and case.about["way"] == way]
            told = fed(bench, some) if main == "ours" else None  # another system has no features
            figures += way_figures(bench, title_of(some[0]), some, [answers[c.id] for c in some], told)
    figures += family_figures(bench, [case for case in asked if case.about["way"] == "words"], answers)
    figures += control_figures(bench, [case for case in asked if case.about["of"] == GROUPS[""][0]], answers)
    examples = [
        Example(f"{case.about['ask']} ({case.group})", case.prompt, {"target": case.target, "ours": answers[case.id]})
        for case in asked
        if case.about["way"] in ("words", "3") and case.about["edit"] < EXAMPLES // 4
    ]
    return Findings(figures, examples)


def title_of(case: Case) -> str:
    """The group and the way in words."""
    return f"{TITLES[case.about['of']]}, {NAMES[case.about['way']]}"

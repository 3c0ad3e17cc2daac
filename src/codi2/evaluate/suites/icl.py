"""`icl`: does quality grow with the number of examples? (the paper's claim in section 4.2)

Rules set two or three factors of a picture or sound, and one example often shows only a part of them. The items are
held out; the rules are of values that training has, and of values that it is kept from. As a control the same questions
are asked with examples of another rule, and feature arithmetic without a language model answers them too.

A third part has a *type* of task that no training data has (appendix C.2): two media are given and the examples show
that one is laid into the other, a thing on a scene or a sound over another. Training composes by words alone, and its
examples are pairs of one medium before and after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from codi2.data.mixes import LEVELS_DB, overlay
from codi2.data.scene import placed
from codi2.data.tables.changes import Changes
from codi2.data.tables.factors import HELD_OUT, shown
from codi2.data.tables.pictures import ASK_BARE
from codi2.data.tables.studio import Studio, pick, picture, sound
from codi2.data.templates import listing
from codi2.evaluate.bench import Bench
from codi2.evaluate.case import Case
from codi2.evaluate.closeness import MEASURES, Measure, closeness
from codi2.evaluate.figure import Example, Figure, Findings, mean
from codi2.evaluate.suites.answers import ours
from codi2.prompt.grammar import join_text
from codi2.prompt.parts import Part, Prompt, Text

SHOTS = (0, 1, 2, 4)
NUMBER, QUICK = 24, 2  # rules of a kind
SPLITS = {"image": ("test_family",), "audio": ("test_rendering", "test_family")}
EXAMPLES = 12  # shown on the page
HIDDEN = 0.4  # chance that an example is silent on a factor of the rule


def all_cases(bench: Bench, quick: bool) -> list[Case]:
    """Pictures and sounds, known rules and new ones."""
    count = QUICK if quick else NUMBER
    rules = [case for modality in SPLITS for new in (False, True) for case in cases(bench, modality, count, new)]
    return rules + [case for modality in SPLITS for case in unseen_type(bench, modality, count)]


def cases(bench: Bench, modality: str, n: int, held_out: bool) -> list[Case]:
    """For each of `n` rules the same question with 0, 1, 2 and 4 examples, and with another rule's examples."""
    studio, changes = Studio(bench.corpus, SPLITS[modality]), Changes(held_out)
    draw = np.random.default_rng((bench.seed, len(modality), held_out))
    kind, made = "new" if held_out else "known", []
    for i in range(n):
        items = studio.items(modality, draw, 1 + max(SHOTS))
        rule, other = (_rule(changes, modality, draw, held_out) for _ in range(2))
        asked = changes.before(modality, draw, rule, hidden=0.0)
        given, target = studio.part(items[0], asked), studio.part(items[0], asked | rule)
        looks = [changes.before(modality, draw, rule, HIDDEN) for _ in items[1:]]
        for name, change in (("own", rule), ("other", other)):
            pairs = [
                (studio.part(item, look), studio.part(item, look | change))
                for item, look in zip(items[1:], looks, strict=True)
            ]
            for shots in SHOTS if name == "own" else SHOTS[1:]:
                seen = set().union(*(shown(look, rule) for look in looks[:shots]))
                about = {"rule": rule, "shown": sorted(seen) if name == "own" else [], "examples": pairs[:shots]}
                made.append(
                    Case(
                        f"{modality}-{kind}-{i:03d}-{name}-{shots}",
                        prompt(pairs[:shots], given),
                        modality,
                        {"target": target, "source": given},
                        f"{modality}, {kind} rules, {name}, {shots}",
                        about,
                    )
                )
    return made


def unseen_type(bench: Bench, modality: str, n: int) -> list[Case]:
    """One medium laid into another, shown by 0, 1, 2 and 4 examples; as a control, by examples that keep the second."""
    studio = Studio(bench.corpus, SPLITS[modality])
    if modality == "image":  # scenes are few, and the things on them are what is new
        studio.scenes += [item for item in bench.corpus.select("image", "train") if item.background]
    draw, made = np.random.default_rng((bench.seed, len(modality), 2)), []
    for i in range(n):
        (thing, ground, target), *examples = (_laid(studio, modality, draw) for _ in range(1 + max(SHOTS)))
        for name in ("own", "other"):
            shown_ = [(a, b, whole if name == "own" else b) for a, b, whole in examples]
            for shots in SHOTS if name == "own" else SHOTS[1:]:
                made.append(
                    Case(
                        f"{modality}-type-{i:03d}-{name}-{shots}",
                        join_text(_typed_prompt(shown_[:shots], thing, ground)),
                        modality,
                        {"target": target, "source": ground},
                        f"{modality}, unseen type, {name}, {shots}",
                        {"rule": {}, "shown": [], "examples": [(b, whole) for _, b, whole in shown_[:shots]]},
                    )
                )
    return made


def _laid(studio: Studio, modality: str, draw: np.random.Generator) -> tuple[Part, Part, Part]:
    """A thing, a scene, and the thing on it; or two sounds and both at once."""
    if modality == "image":
        (thing,), scene = studio.things(draw, 1), pick(draw, studio.scenes)
        place = (float(draw.uniform(0.3, 0.7)), float(draw.uniform(0.8, 0.98)), float(draw.uniform(0.4, 0.6)))
        whole = placed(studio.pixels(scene), [studio.pixels(thing)], [place])
        return studio.part(thing), studio.part(scene), picture(whole).decode()
    one, base = studio.sounds(draw, 2)
    both = overlay(studio.clip(base), studio.clip(one), float(draw.uniform(*LEVELS_DB)))
    return studio.part(one), sound(studio.clip(base) // 2).decode(), sound(both).decode()


def _typed_prompt(examples: Sequence[tuple[Part, Part, Part]], thing: Part, ground: Part) -> list[Part]:
    parts: list[Part] = []
    for a, b, whole in examples:
        parts += [Text("From "), a, Text(" and "), b, Text(" comes "), whole, Text(". ")]
    return [*parts, Text("What comes from "), thing, Text(" and "), ground, Text("?")]


def _rule(changes: Changes, modality: str, draw: np.random.Generator, held_out: bool) -> dict[str, str]:
    """Of two or three factors where there are as many; with a value that training is kept from, where that is asked."""
    while True:
        rule = changes.rule(modality, draw)
        if len(rule) > 1 and (not held_out or HELD_OUT & set(rule.values())):
            return rule


def prompt(pairs: Sequence[tuple[Part, Part]], given: Part) -> Prompt:
    """The template of section 4.1; without examples nothing says what to do."""
    if not pairs:
        return (Text(ASK_BARE), given, Text("."))
    words = [Text(part) if isinstance(part, str) else part for part in listing(pairs, between=", ")]
    before = (Text("Given the transformation between "), *words, Text(", apply the same editing to "))
    return join_text([*before, given, Text(".")])


def arithmetic(bench: Bench, some: Sequence[Case]) -> list[Part]:
    """Given + the mean of (after − before), as features, through the same decoder and the same source."""
    features = []
    for case in some:
        slots = bench.num_slots(case.want)
        given = bench.encode([case.truth["source"]])[0, :slots]
        examples = case.about["examples"]
        if examples:
            before, after = (bench.encode([pair[k] for pair in examples])[:, :slots] for k in (0, 1))
            given = given + (after - before).mean(0)
        features.append(given)
    return bench.decode(torch.stack(features), [case.prompt for case in some], some[0].want)


SYSTEMS = {"ours": ours, "feature arithmetic": arithmetic}


def score(bench: Bench, asked: Sequence[Case], outputs: Mapping[str, Sequence[Part]]) -> Findings:
    """The measure against the number of examples; what four give over none, and what another rule's give."""
    by_name = {system: dict(zip((case.id for case in asked), parts, strict=True)) for system, parts in outputs.items()}
    figures: list[Figure] = []
    for modality, kind in dict.fromkeys((case.want, case.id.split("-")[1]) for case in asked):
        mine = [case for case in asked if case.id.startswith(f"{modality}-{kind}-")]
        title = f"{modality}, unseen type of task" if kind == "type" else f"{modality}, {kind} rules"
        figures += _curve(bench, MEASURES[modality], title, mine, by_name)
    examples = [
        Example(
            case.id, case.prompt, {"target": case.target, **{name: found[case.id] for name, found in by_name.items()}}
        )
        for case in asked
        if case.id.endswith("-own-4")
    ]
    return Findings(figures, examples[:EXAMPLES])


def _curve(
    bench: Bench, measure: Measure, title: str, asked: Sequence[Case], found: Mapping[str, Mapping[str, Part]]
) -> list[Figure]:
    def values(system: str, name: str, shots: int) -> np.ndarray:
        some = [case for case in asked if case.id.endswith(f"-{name}-{shots}")]
        return closeness(bench, [case.target for case in some], [found[system][case.id] for case in some])

    copied = [case for case in asked if case.id.endswith("-own-0")]
    copies = closeness(bench, [case.target for case in copied], [case.truth["source"] for case in copied])
    main = "ours" if "ours" in found else next(iter(found))
    own = {shots: values(main, "own", shots) for shots in SHOTS}
    other = {shots: values(main, "other", shots) for shots in SHOTS[1:]}
    figures = []
    for shots in SHOTS:
        beside = {"copy of the source": copies}
        if shots:
            beside["another rule's examples"] = other[shots]
        beside |= {name: values(name, "own", shots) for name in found if name != main}
        figures.append(mean(f"{title}, {shots} examples: {measure.name}", own[shots], beside, seed=bench.seed))
    gain = mean(f"{title}: gain of 4 examples over 0", measure.gain(own[4], own[0]), seed=bench.seed)
    figures.append(gain.judged("interval above 0", gain.low > 0))
    control = mean(f"{title}: gain of 4 examples of another rule", measure.gain(other[4], own[0]), seed=bench.seed)
    return [*figures, control.judged("interval not above 0", control.low <= 0)]

"""The figures of `edits` and `sound-edits`. Letters: n cases, K features, D joint width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from codi2.evaluate import baselines
from codi2.evaluate.case import Case
from codi2.evaluate.closeness import MEASURES, appearance_distance, closeness, first_is_nearest, level_difference
from codi2.evaluate.context import EvalContext
from codi2.evaluate.figure import Figure, group_means, known, mean
from codi2.evaluate.frechet import distance, projected
from codi2.heads.prior import cosine
from codi2.metrics.audio import fd
from codi2.prompt.parts import Part

VISIBLE = 0.9  # EffNet-sim of a copy, below which an edit of a picture can be seen
LEVEL_DB = 3.0  # by which the level of an answer may differ from that of the true one
HALVES = "true sounds, one half against the other"
COPY, ROUND_TRIP = "copy of the source", "codec round trip of the source"
RIGHT = {"known": (0.75, 0.65), "values": (0.5, 0.5)}
"""Group → the least share of right answers among six, by instruction and by examples."""


def way_figures(context: EvalContext, title: str, cases: Sequence[Case], parts: Sequence[Part]) -> list[Figure]:
    """Of the answers to cases of one group and way."""
    of_modality = visible_figures if cases[0].want == "image" else _sound_figures
    return [*of_modality(context, title, cases, parts), right_among(context, title, cases, parts)]


def cosine_figure(context: EvalContext, title: str, features: Mapping[str, Tensor]) -> Figure:
    """Of the decoder's features, and of rivals, to the true ones.

    Args:
        features: [n, K, D] each: `ours`, `target`, and rivals by name.
    """
    rivals = {
        name: cosine(x.float(), features["target"]).cpu().numpy() for name, x in features.items() if name != "target"
    }
    cosines = rivals.pop("ours")
    figure = mean(f"{title}: cosine to the true features", cosines, rivals, seed=context.seed)
    return _ahead(figure, "feature arithmetic" if "feature arithmetic" in rivals else "copy")


def example_gain(context: EvalContext, title: str, three: Figure, one: Figure) -> Figure:
    """How much higher the cosines are with three examples than with one."""
    gain = mean(title, np.subtract(three.values, one.values), seed=context.seed)
    return gain.judged("interval above 0", gain.low > 0)


def visible_figures(context: EvalContext, title: str, cases: Sequence[Case], parts: Sequence[Part]) -> list[Figure]:
    """EffNet-sim to the true pictures beside a copy's, over the edits that can be seen; none where there is none."""
    targets = [case.target for case in cases]
    copies = closeness(context, targets, [case.truth["source"] for case in cases])
    rows = copies < VISIBLE
    if not rows.any():
        return []
    likeness = closeness(context, targets, parts)[rows]
    return [_ahead(mean(f"{title}, visible: EffNet-sim", likeness, {COPY: copies[rows]}, seed=context.seed), COPY)]


def _sound_figures(context: EvalContext, title: str, cases: Sequence[Case], parts: Sequence[Part]) -> list[Figure]:
    """LSD, Fréchet distance and level, beside the source as it is and through the codec."""
    targets = [case.target for case in cases]
    rivals: dict[str, Sequence[Part]] = {
        ROUND_TRIP: [_round_trip(context, case) for case in cases],
        COPY: [case.truth["source"] for case in cases],
    }
    distances = {name: closeness(context, targets, sounds) for name, sounds in rivals.items()}
    lsd = mean(f"{title}: LSD", closeness(context, targets, parts), distances, seed=context.seed)

    def in_components(sounds: Sequence[Part]) -> np.ndarray:
        return projected(context, "audio", context.sound_embeddings(sounds)[0])

    truth, rows = in_components(targets), range(len(cases))
    of_set = distance(f"{title}: aiSFX-FD", in_components(parts), truth, rows, context.seed)
    of_set = of_set.beside(**{
        name: distance(name, in_components(sounds), truth, rows, context.seed) for name, sounds in rivals.items()
    })  # fmt: skip
    if len(truth) >= 4:
        of_set = of_set.beside(**{HALVES: known(HALVES, fd(truth[::2], truth[1::2]), len(truth) // 2)})
    bar = f"below the {ROUND_TRIP.removesuffix(' of the source')}"
    judged = [figure.judged(bar, figure.value < figure.baselines[ROUND_TRIP].value) for figure in (lsd, of_set)]
    return [*judged, *level_figures(context, title, targets, parts, rivals)]


def level_figures(
    context: EvalContext,
    title: str,
    targets: Sequence[Part],
    parts: Sequence[Part],
    rivals: Mapping[str, Sequence[Part]],
    groups: Sequence[int] | None = None,
) -> list[Figure]:
    """The absolute difference in level to the true sounds, and the share of sounds with a difference up to LEVEL_DB.

    Args:
        groups: [n], see `figure.group_means`; None: all sounds are independent.
    """
    groups = range(len(targets)) if groups is None else groups
    apart = {name: np.abs(level_difference(targets, sounds)) for name, sounds in {"": parts, **rivals}.items()}
    decibels = {name: group_means(values, groups) for name, values in apart.items()}
    within = {name: group_means((values <= LEVEL_DB).astype(float), groups) for name, values in apart.items()}
    difference = mean(f"{title}: difference in level", decibels.pop(""), decibels, unit="dB", seed=context.seed)
    return [
        difference.judged(f"≤ {LEVEL_DB:g} dB", difference.value <= LEVEL_DB),
        mean(f"{title}: level within {LEVEL_DB:g} dB", within.pop(""), within, seed=context.seed),
    ]


def _round_trip(context: EvalContext, case: Case) -> Part:
    """The source of a case through the codec, computed once for all cases that edit it."""
    source = case.truth["source"]
    trips: dict[int, tuple[Part, Part]] = context.cached("edit round trips", dict)
    if id(source) not in trips:  # the source is kept beside: an address must not come to mean another
        trips[id(source)] = source, baselines.round_trip(context.decoder(case.want), [source])[0]
    return trips[id(source)][1]


def right_among(context: EvalContext, title: str, cases: Sequence[Case], parts: Sequence[Part]) -> Figure:
    """The share of answers that are nearest to the true one, beside the source and other edits of it."""
    candidates = [[case.target, case.truth["source"], *case.about["others"]] for case in cases]
    right = [
        first_is_nearest(context, part, among, one_thing=True) for part, among in zip(parts, candidates, strict=True)
    ]
    chance = known("chance", 1 / len(candidates[0]))
    figure = mean(f"{title}: right among {len(candidates[0])}", right, seed=context.seed).beside(chance=chance)
    if cases[0].about["of"] not in RIGHT:
        return figure
    least = RIGHT[cases[0].about["of"]][cases[0].about["way"] != "words"]
    return figure.judged(f"≥ {least:g}", figure.value >= least)


def family_figures(context: EvalContext, cases: Sequence[Case], answers: Mapping[str, Part]) -> list[Figure]:
    """By families of kinds of edits, of pictures: likeness to the true answer where the edit can be seen."""
    figures = []
    for family in sorted({case.about["family"] for case in cases} if cases[0].want == "image" else ()):
        members = [case for case in cases if case.about["family"] == family]
        figures += visible_figures(
            context, f"{family}, by instruction", members, [answers[case.id] for case in members]
        )
    return figures


def control_figures(context: EvalContext, cases: Sequence[Case], answers: Mapping[str, Part]) -> list[Figure]:
    """What examples give over none and over fewer, what those of another edit give, and whether the answer depends on
    which end of an example comes first, and on the feature."""
    ways: dict[str, list[Case]] = {}
    for case in cases:
        ways.setdefault(case.about["way"], []).append(case)
    targets = [case.target for case in ways["4"]]
    outputs = {way: [answers[case.id] for case in members] for way, members in ways.items()}
    measure = MEASURES[cases[0].want]
    likeness = {
        way: closeness(context, targets, outputs[way]) for way in ("words", "none", "1", "3", "4", "other", "zeroed")
    }

    def gain(title: str, better: str, worse: str) -> Figure:
        return mean(f"{title}, {measure.name}", measure.gain(likeness[better], likeness[worse]), seed=context.seed)

    four = gain("gain of 4 examples over none", "4", "none")
    three = gain("gain of 3 examples over 1", "3", "1")
    other = gain("gain of 4 examples of another edit over none", "other", "none")
    features = gain("by instruction: gain over a feature of zeros", "words", "zeroed")
    distances = {way: appearance_distance(targets, outputs[way]) for way in ("4", "swapped")}
    exchanged = mean(
        "4 examples exchanged move the answer away", distances["swapped"] > distances["4"], seed=context.seed
    )
    return [
        *(figure.judged("interval above 0", figure.low > 0) for figure in (four, three)),
        other.judged("interval not above 0", other.low <= 0),
        exchanged.beside(chance=known("chance", 0.5)).judged("≥ 0.8", exchanged.value >= 0.8),
        features.judged("interval above 0", features.low > 0),
    ]


def _ahead(figure: Figure, rival: str) -> Figure:
    interval = figure.baselines[rival].ahead
    ahead = figure.n > 1 and interval is not None and interval[0] > 0  # one item has no interval
    return figure.judged(f"above {rival}, beyond the interval", ahead)

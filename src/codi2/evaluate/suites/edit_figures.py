"""The figures of `edits` and `sound-edits`. Letters: n cases, K features, D joint width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from codi2.evaluate import baselines
from codi2.evaluate.bench import Bench
from codi2.evaluate.case import Case
from codi2.evaluate.closeness import MEASURES, closeness, first_is_nearest, louder, seen_distance
from codi2.evaluate.figure import Figure, known, mean
from codi2.heads.prior import cosine
from codi2.metrics.audio import fd
from codi2.prompt.parts import Part

VISIBLE = 0.9  # EffNet-sim of a copy, below which an edit of a picture can be seen
LEVEL_DB = 3.0  # by which an answer may be louder or softer than the true one
HALVES = "true sounds, one half against the other"
COPY, ROUND_TRIP = "copy of the source", "codec round trip of the source"
RIGHT = {"known": (0.75, 0.65), "values": (0.5, 0.5)}
"""Group → the least share of right answers among six, by instruction and by examples."""


def way_figures(
    bench: Bench, title: str, some: Sequence[Case], parts: Sequence[Part], fed: Mapping[str, Tensor] | None
) -> list[Figure]:
    """Of cases of one group and way.

    Args:
        fed: features [n, K, D]: `ours`, `target`, and rivals by name; None: the answers come from elsewhere.
    """
    figures = [] if fed is None else [cosine_figure(bench, title, fed)]
    if some[0].want == "image":
        figures += visible_figures(bench, title, some, parts)
    else:
        figures += _sound_figures(bench, title, some, parts)
    return [*figures, right_among(bench, title, some, parts)]


def cosine_figure(bench: Bench, title: str, fed: Mapping[str, Tensor]) -> Figure:
    """Of the features fed to the decoder and of rivals to the true ones."""
    values = {name: cosine(x.float(), fed["target"]).cpu().numpy() for name, x in fed.items() if name != "target"}
    ours = values.pop("ours")
    figure = mean(f"{title}: cosine to the true features", ours, values, seed=bench.seed)
    return _ahead(figure, "feature arithmetic" if "feature arithmetic" in values else "copy")


def visible_figures(bench: Bench, title: str, some: Sequence[Case], parts: Sequence[Part]) -> list[Figure]:
    """EffNet-sim to the true pictures beside a copy's, over the edits that can be seen; none where there is none."""
    targets = [case.target for case in some]
    copies = closeness(bench, targets, [case.truth["source"] for case in some])
    rows = copies < VISIBLE
    if not rows.any():
        return []
    near = closeness(bench, targets, parts)[rows]
    return [_ahead(mean(f"{title}, visible: EffNet-sim", near, {COPY: copies[rows]}, seed=bench.seed), COPY)]


def _sound_figures(bench: Bench, title: str, some: Sequence[Case], parts: Sequence[Part]) -> list[Figure]:
    """LSD, Fréchet distance and level, beside the source as it is and through the codec."""
    targets = [case.target for case in some]
    rivals: dict[str, Sequence[Part]] = {
        ROUND_TRIP: [_round_trip(bench, case) for case in some],
        COPY: [case.truth["source"] for case in some],
    }
    far = {name: closeness(bench, targets, sounds) for name, sounds in rivals.items()}
    lsd = mean(f"{title}: LSD", closeness(bench, targets, parts), far, seed=bench.seed)
    truth, _ = bench.hear(targets)

    def apart(sounds: Sequence[Part]) -> float:
        return fd(bench.hear(sounds)[0], truth)

    of_set = known(f"{title}: aiSFX-FD", apart(parts), len(some))
    of_set = of_set.beside(**{name: known(name, apart(sounds), len(some)) for name, sounds in rivals.items()})
    if len(truth) >= 4:
        of_set = of_set.beside(**{HALVES: known(HALVES, fd(truth[::2], truth[1::2]), len(truth) // 2)})
    bar = f"below the {ROUND_TRIP.removesuffix(' of the source')}"
    judged = [figure.judged(bar, figure.value < figure.baselines[ROUND_TRIP].value) for figure in (lsd, of_set)]
    return [*judged, level_figure(bench, title, targets, parts, rivals)]


def level_figure(
    bench: Bench, title: str, targets: Sequence[Part], parts: Sequence[Part], rivals: Mapping[str, Sequence[Part]]
) -> Figure:
    """The share of sounds that are as loud as the true ones."""

    def as_loud(sounds: Sequence[Part]) -> np.ndarray:
        return np.abs(louder(targets, sounds)) <= LEVEL_DB

    beside = {name: as_loud(sounds) for name, sounds in rivals.items()}
    return mean(f"{title}: level within {LEVEL_DB:g} dB", as_loud(parts), beside, seed=bench.seed)


def _round_trip(bench: Bench, case: Case) -> Part:
    """The source of a case through the codec, made once for all cases that edit it."""
    source = case.truth["source"]
    known_: dict[int, tuple[Part, Part]] = bench.once("edit round trips", dict)
    if id(source) not in known_:  # the source is kept beside: an address must not come to mean another
        known_[id(source)] = source, baselines.round_trip(bench.decoder(case.want), [source])[0]
    return known_[id(source)][1]


def right_among(bench: Bench, title: str, some: Sequence[Case], parts: Sequence[Part]) -> Figure:
    """The share of answers that are nearest to the true one, beside the source and other edits of it."""
    candidates = [[case.target, case.truth["source"], *case.about["others"]] for case in some]
    right = [
        first_is_nearest(bench, part, among, one_thing=True) for part, among in zip(parts, candidates, strict=True)
    ]
    chance = known("chance", 1 / len(candidates[0]))
    figure = mean(f"{title}: right among {len(candidates[0])}", right, seed=bench.seed).beside(chance=chance)
    if some[0].about["of"] not in RIGHT:
        return figure
    least = RIGHT[some[0].about["of"]][some[0].about["way"] != "words"]
    return figure.judged(f"≥ {least:g}", figure.value >= least)


def family_figures(bench: Bench, asked: Sequence[Case], answers: Mapping[str, Part]) -> list[Figure]:
    """By families of kinds of edits, of pictures: likeness to the true answer where the edit can be seen."""
    figures = []
    for family in sorted({case.about["family"] for case in asked} if asked[0].want == "image" else ()):
        some = [case for case in asked if case.about["family"] == family]
        figures += visible_figures(bench, f"{family}, by instruction", some, [answers[case.id] for case in some])
    return figures


def control_figures(bench: Bench, asked: Sequence[Case], answers: Mapping[str, Part]) -> list[Figure]:
    """What examples give over none and over fewer, what those of another edit give, and whether the answer depends on
    which end of an example comes first, and on the feature."""
    ways: dict[str, list[Case]] = {}
    for case in asked:
        ways.setdefault(case.about["way"], []).append(case)
    targets = [case.target for case in ways["4"]]
    given = {way: [answers[case.id] for case in some] for way, some in ways.items()}
    measure = MEASURES[asked[0].want]
    near = {way: closeness(bench, targets, given[way]) for way in ("words", "none", "1", "3", "4", "other", "zeroed")}

    def gain(title: str, better: str, worse: str) -> Figure:
        return mean(f"{title}, {measure.name}", measure.gain(near[better], near[worse]), seed=bench.seed)

    shown = gain("gain of 4 examples over none", "4", "none")
    more = gain("gain of 3 examples over 1", "3", "1")
    other = gain("gain of 4 examples of another edit over none", "other", "none")
    fed = gain("by instruction: gain over a feature of zeros", "words", "zeroed")
    far = {way: seen_distance(targets, given[way]) for way in ("4", "swapped")}
    moved = mean("4 examples exchanged move the answer away", far["swapped"] > far["4"], seed=bench.seed)
    return [
        *(figure.judged("interval above 0", figure.low > 0) for figure in (shown, more)),
        other.judged("interval not above 0", other.low <= 0),
        moved.beside(chance=known("chance", 0.5)).judged("≥ 0.8", moved.value >= 0.8),
        fed.judged("interval above 0", fed.low > 0),
    ]


def _ahead(figure: Figure, rival: str) -> Figure:
    interval = figure.baselines[rival].ahead
    ahead = figure.n > 1 and interval is not None and interval[0] > 0  # one item has no interval
    return figure.judged(f"above {rival}, beyond the interval", ahead)

"""The rows of the paper's Tables 1 to 3 and Figure 1, each as something that runs, with a verdict that is measured.

Of every row 24 instances are drawn from held-out media. An answer is *right* where it is nearer to the true one than
to five wrong ones: what was given and answers to other requests about the same thing, and answers of other instances.
A row *works* where at least half of its answers are right, *partly* where more are than chance explains (the 95 %
interval is above it), and else does *not yet*.

Pictures and clips are told from those of other instances by EfficientNet-Lite2, which sees what is shown, and from
other requests about the same thing by the colours of their places, since that network hardly sees light and colour
(of true answers in another light, seen through the codec, it knows .42 again, colours .96). Sounds are told from those
of other instances by aiSFX, which hears what sounds, and from other requests about the same one by log-spectral
distance, which knows a sound and not what it is of: of a thing's other recordings, beside five other things, it knows
.45 again, aiSFX .72. Colours, EfficientNet-Lite2 and the distance are no part of the model; aiSFX is the trunk that
`tiny` hears through.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from codi2.data.builders.contract import Draft
from codi2.data.record import decode_pieces
from codi2.data.tables import both, clips, factors, pictures
from codi2.data.tables.factors import asks
from codi2.data.tables.studio import Row, Studio, draft
from codi2.data.templates import write_prompt
from codi2.errors import DataError
from codi2.evaluate.bench import BATCH, Bench
from codi2.evaluate.closeness import first_is_nearest
from codi2.evaluate.figure import Figure, mean
from codi2.evaluate.processes import ALONE, Processes
from codi2.model import Options
from codi2.prompt.layout import Message
from codi2.prompt.parts import Audio, Image, Part, Prompt, Text, Video

NUMBER, QUICK = 24, 4  # instances of a row
WRONG = 5  # answers that the true one is told from
WORKS = 0.5  # share of right answers
TRIES = 1000
THINGS, SUBJECTS = ("test_family", "test_rendering"), ("test_subject",)


@dataclass(frozen=True)
class Instance:
    """One prompt, and by modality its true answer and wrong ones."""

    prompt: Prompt
    targets: Mapping[str, Part]
    wrong: Mapping[str, Sequence[Part]] = field(default_factory=dict)
    later: Sequence[Prompt] = ()
    """Rounds that follow; the last one's answer is judged."""


@dataclass(frozen=True)
class Entry:
    """A row of the paper."""

    title: str
    where: str
    make: Callable[[Studio, np.random.Generator], Instance]
    splits: Sequence[str] = THINGS


@dataclass(frozen=True)
class Shown:
    """What became of an entry: its first instance, and how many answers were right, by modality."""

    entry: Entry
    first: Instance
    answer: Sequence[Part]
    figures: Sequence[Figure] = ()
    lacking: str = ""
    """Why it could not be run."""

    @property
    def verdict(self) -> str:
        """Of several modalities, that of the worst."""
        return min((verdict(figure) for figure in self.figures), key=VERDICTS.index, default=VERDICTS[0])


VERDICTS = ("not yet", "partly", "works")


def verdict(right: Figure) -> str:
    """Of a share of right answers beside chance."""
    if right.value >= WORKS:
        return "works"
    return "partly" if right.low > right.baselines["chance"].value else "not yet"


# what is asked


def from_row(row: Row, last: int = 1) -> Callable[[Studio, np.random.Generator], Instance]:
    """Any row of the data: the `last` media that were given are wrong, and the answers of other instances are."""

    def make(studio: Studio, draw: np.random.Generator) -> Instance:
        made = row(studio, draw)
        prompt, answer = (decode_pieces(pieces) for _, pieces in made.turns)
        targets = {part.modality: part for part in answer}
        given = {m: [part for part in prompt if part.modality == m][-last:] for m in targets}
        return Instance(prompt, targets, given)

    return make


def of_kind(row: Row, fits: Callable[[Draft], bool]) -> Row:
    """Draws of a row until one fits. Raises DataError: none of many does."""

    def drawn(studio: Studio, draw: np.random.Generator) -> Draft:
        for _ in range(TRIES):
            if fits(made := row(studio, draw)):
                return made
        raise DataError(f"none of {TRIES} draws of a row is of the kind that the gallery shows; build the corpus anew")

    return drawn


def changed(
    modality: str, factor: str, values: Sequence[str], shots: int | None = None
) -> Callable[[Studio, np.random.Generator], Instance]:
    """One factor of a medium set by instruction, or (`shots`) as examples show it. Wrong: as it was, other changes."""

    def make(studio: Studio, draw: np.random.Generator) -> Instance:
        items = studio.items(modality, draw, 1 + (shots or 0))
        look = {factor: str(draw.choice(list(values)))}
        given = studio.medium(items[0])
        prompt: Sequence[Any]
        if shots is None:
            prompt = write_prompt("edit", draw, {"media": [given], "ask": asks(modality, look)})
        else:
            pairs = [[studio.medium(item), studio.medium(item, look)] for item in items[1:]]
            prompt = pictures.analogy_prompt(draw, pairs, given)
        wrong = [studio.part(items[0]), *(studio.part(items[0], other) for other in others(modality, look, draw))]
        parts = decode_pieces(draft("", prompt, [given], items).turns[0][1])
        return Instance(parts, {modality: studio.part(items[0], look)}, {modality: wrong})

    return make


def others(modality: str, look: Mapping[str, str], draw: np.random.Generator) -> list[dict[str, str]]:
    """Single values of other kinds, or of the same factor."""
    pool = [
        {factor: value}
        for factor, values in factors.FACTORS[modality].items()
        for value in values
        if look.get(factor) != value
    ]
    return [pool[int(i)] for i in draw.permutation(len(pool))[: WRONG - 1]]


def subject_in(factor: str) -> Callable[[Studio, np.random.Generator], Instance]:
    """Pictures of one individual → it in another light or place. Wrong: the true answer in others."""
    row = of_kind(pictures.poses, lambda d: factor in d.meta.get("look", ()))

    def make(studio: Studio, draw: np.random.Generator) -> Instance:
        made = row(studio, draw)
        prompt, (target,) = (decode_pieces(pieces) for _, pieces in made.turns)
        item = next(item for item in studio.world.images if item.id == made.meta["items"][0])
        wrong = [studio.part(item, look) for look in others("image", made.meta["look"], draw)]
        return Instance(prompt, {"image": target}, {"image": [studio.part(item), *wrong]})

    return make


def conversation(studio: Studio, draw: np.random.Generator) -> Instance:
    """Three rounds, each with one more change of one picture. Wrong: the picture after fewer of them, and others."""
    (item,) = studio.things(draw, 1)
    steps = [{"geometry": "mirrored"}, {"background": str(draw.choice(["blue", "green", "yellow"]))}]
    steps = [steps[int(i)] for i in draw.permutation(2)] + [{"light": str(draw.choice(["night", "winter", "sea"]))}]
    looks: list[dict[str, str]] = [{}]
    for step in steps:
        looks.append(looks[-1] | step)
    first = write_prompt("edit", draw, {"media": [studio.medium(item)], "ask": asks("image", steps[0])})
    prompt = decode_pieces(draft("", first, [studio.medium(item)], [item]).turns[0][1])
    later = [(Text(f"Now {asks('image', step)}."),) for step in steps[1:]]
    wrong = [studio.part(item, look) for look in looks[:-1]]
    wrong += [studio.part(item, looks[2] | {"light": light}) for light in ("rain", "bright")]
    return Instance(prompt, {"image": studio.part(item, looks[-1])}, {"image": wrong}, later)


_POSE = of_kind(pictures.poses, lambda d: d.task == "subject_pose")
_PATTERN = of_kind(pictures.concept, lambda d: d.meta["kind"] == "pattern")
_ADDED = of_kind(both.overlaid, lambda d: d.meta["edit"] == "add")
_SOUNDED = of_kind(both.crossed, lambda d: d.task == "analogy_cross_audio")
LIGHTS = ("winter", "night", "rain", "bright", "sea")
ENTRIES = (
    Entry("A picture in another style", "Table 1, zero-shot", changed("image", "style", ["pencil", "grey"])),
    Entry("Two pictures become one scene", "Table 1, zero-shot", from_row(pictures.composition), (*THINGS, "val")),
    Entry("The next picture of a sequence", "Table 1, zero-shot", from_row(pictures.following)),
    Entry("Season and light, from one example", "Table 1, exemplar", changed("image", "light", LIGHTS, shots=1)),
    Entry("Season and light, from three examples", "Table 1, exemplars", changed("image", "light", LIGHTS, shots=3)),
    Entry("A pattern that examples share", "Table 1, concept", from_row(_PATTERN)),
    Entry("The same individual in another pose", "Table 1, subject", from_row(_POSE, last=2), SUBJECTS),
    Entry("The same individual in another light", "Table 1, subject", subject_in("light"), SUBJECTS),
    Entry("The same individual elsewhere", "Table 1, subject", subject_in("background"), SUBJECTS),
    Entry("An echo", "Table 2, zero-shot", changed("audio", "space", ["echo"])),
    Entry("One sound over another, learnt from pairs", "Table 2, exemplar", from_row(_ADDED)),
    Entry("A picture in the mood of a sound", "Table 3, zero-shot", from_row(both.by_mood), (*THINGS, "val")),
    Entry("The next frame with its sound", "Table 3, zero-shot", from_row(both.next_with_sound)),
    Entry("A picture's sound, as examples sound", "Table 3, exemplars", from_row(_SOUNDED)),
    Entry("The same individual, with its sound", "Table 3, subject", from_row(both.alive), THINGS),
    Entry("A clip with its sound", "Table 3, subject", from_row(clips.with_sound), THINGS),
    Entry("Three rounds of edits", "Figure 1", conversation),
)  # fmt: skip


# what is answered


def run_entry(bench: Bench, entry: Entry) -> Shown:
    """Draws, answers and judges a row, or says why not."""
    studio = Studio(bench.corpus, entry.splits)
    if not studio.scenes:  # they are few, and the things on them are what is new
        studio.scenes += [item for item in bench.corpus.select("image", "train") if item.background]
    count = QUICK if bench.quick else NUMBER
    instances = [entry.make(studio, np.random.default_rng((bench.seed, 31, i))) for i in range(count)]
    if missing := [m for m in instances[0].targets if m not in bench.model.decoders]:
        return Shown(entry, instances[0], (), lacking=f"{bench.model.config.name} makes no {missing[0]} yet")
    answers = answer(bench, instances)
    return Shown(entry, instances[0], answers[0], [right(bench, m, instances, answers) for m in instances[0].targets])


def answer(bench: Bench, instances: Sequence[Instance]) -> list[list[Part]]:
    """The model's answers, of the last round where there are several."""
    made: list[list[Part]] = []
    for start in range(0, len(instances), BATCH):
        some = instances[start : start + BATCH]
        talks = [[Message("user", one.prompt)] for one in some]
        options = [Options(want=tuple(one.targets), seed=bench.seed, max_new_tokens=1) for one in some]
        replies = bench.model.answer(talks, options)
        for n in range(len(some[0].later)):
            for talk, one, reply in zip(talks, some, replies, strict=True):
                (edited,) = (part for part in reply.parts if part.modality in one.targets)
                talk[:] = [Message("user", (*one.later[n], edited))]
            replies = bench.model.answer(talks, options)
        made += [list(reply.parts) for reply in replies]
    return made


def right(bench: Bench, modality: str, instances: Sequence[Instance], answers: Sequence[Sequence[Part]]) -> Figure:
    """The share of answers that are nearer to the true one than to every wrong one, of which at least one is the true
    answer of another instance: what is asked is to be done, and to the thing that was given.
    """
    found, chance = [], []
    for i, (instance, parts) in enumerate(zip(instances, answers, strict=True)):
        truth = instance.targets[modality]
        elsewhere = (one.targets[modality] for one in (*instances[i + 1 :], *instances[:i]))
        # two instances may be about one thing, and what was given may be the answer
        asked, rest = (
            [p for p in some if not same(p, truth)] for some in (instance.wrong.get(modality, ()), elsewhere)
        )
        asked = asked[: WRONG - 1]
        rest = rest[: WRONG - len(asked)]
        ours = next(part for part in parts if part.modality == modality)
        done, of_this = (first_is_nearest(bench, ours, [truth, *wrong], wrong is asked) for wrong in (asked, rest))
        found.append(float(done and of_this))
        chance.append(1 / (1 + len(asked) + len(rest)))
    return mean(f"{modality}: right answers", found, {"chance": chance}, seed=bench.seed)


def same(one: Part, other: Part) -> bool:
    """Whether two media are the same, number by number."""
    if isinstance(one, Video) and isinstance(other, Video):
        return all(map(np.array_equal, *([np.asarray(f) for f in clip.frames] for clip in (one, other))))
    if isinstance(one, Image) and isinstance(other, Image):
        return np.array_equal(np.asarray(one.pixels), np.asarray(other.pixels))
    return isinstance(one, Audio) and isinstance(other, Audio) and np.array_equal(one.samples, other.samples)


def run_gallery(bench: Bench, folder: Path, processes: Processes = ALONE) -> list[Shown]:
    """Every row, as `index.html` and `report.json` in `folder`.

    Args:
        processes: divide the rows; the first one writes.
    Raises:
        OutputError: it cannot be written.
    """
    from codi2.hub import write_atomic
    from codi2.report import Row as Section
    from codi2.report import write_page

    shown = _rows(bench, processes)
    if not processes.first:
        return shown
    counted = ", ".join(f"{sum(one.verdict == kind for one in shown)} {kind}" for kind in reversed(VERDICTS))
    sections = [
        Section(
            f"{one.entry.title}: {one.verdict}",
            one.first.prompt,
            [*one.answer, *one.first.targets.values()],
            note=f"{one.entry.where}. {one.lacking or said(one)}",
            heading="Answer, and the true one" if one.answer else "The true answer",
        )
        for one in shown
    ]
    intro = (
        f"{len(shown)} rows: {counted}. The first instance drawn of each, not the best. An answer is right where it is "
        f"nearer to the true one than to {WRONG} wrong ones; a row works where half of its answers are right."
    )
    write_page(folder / "index.html", f"Gallery of {bench.model.config.name}", sections, intro)
    about = [
        {
            "row": one.entry.title,
            "where": one.entry.where,
            "verdict": one.verdict,
            "lacking": one.lacking,
            "right": {figure.name: [figure.value, figure.low, figure.high, figure.n] for figure in one.figures},
        }
        for one in shown
    ]
    write_atomic(
        folder / "report.json", json.dumps({"schema": 1, "seed": bench.seed, "rows": about}, indent=1).encode()
    )
    return shown


def _rows(bench: Bench, processes: Processes) -> list[Shown]:
    from rich.progress import track

    def mine() -> dict[int, tuple[Instance, Sequence[Part], Sequence[Figure], str]]:
        """What a process finds, by number: the entries themselves are functions, which do not travel."""
        numbers = processes.share(range(len(ENTRIES)))
        followed = track(numbers, description="rows", disable=not processes.first)
        shown = [(n, run_entry(bench, ENTRIES[n])) for n in followed]
        return {n: (one.first, one.answer, one.figures, one.lacking) for n, one in shown}

    found = {n: row for rows in processes.gather(mine) for n, row in rows.items()}
    return [Shown(ENTRIES[n], *found[n]) for n in sorted(found)]


def said(shown: Shown) -> str:
    """The figures of a row in words."""
    return "; ".join(
        f"{figure.name} {figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}] of {figure.n}, "
        f"chance {figure.baselines['chance'].value:.2f}"
        for figure in shown.figures
    )

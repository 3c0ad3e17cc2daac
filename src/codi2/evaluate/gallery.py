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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codi2.chat import Chat
from codi2.data.tasks.sampler import TaskSampler
from codi2.evaluate.bench import BATCH, Bench
from codi2.evaluate.closeness import first_is_nearest
from codi2.evaluate.copied import nearest_training
from codi2.evaluate.figure import Figure, mean
from codi2.evaluate.gallery_rows import ENTRIES, WRONG, Entry, Instance
from codi2.evaluate.processes import ALONE, Processes
from codi2.model import Options
from codi2.prompt.layout import Message
from codi2.prompt.parts import Audio, Image, Part, Video

NUMBER, QUICK = 24, 4  # instances of a row
WORKS = 0.5  # share of right answers


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


# what is answered


def run_entry(bench: Bench, entry: Entry) -> Shown:
    """Draws, answers and judges a row, or says why not."""
    sampler = TaskSampler(bench.corpus, bench.splits(*entry.splits))
    if not sampler.scenes:  # they are few, and the things on them are what is new
        sampler.scenes += [item for item in bench.corpus.select("image", "train") if item.background]
    count = QUICK if bench.quick else NUMBER
    instances = [entry.make(sampler, np.random.default_rng((bench.seed, 31, i))) for i in range(count)]
    if missing := [m for m in instances[0].targets if m not in bench.model.decoders]:
        return Shown(entry, instances[0], (), lacking=f"{bench.model.config.name} makes no {missing[0]} yet")
    answers = answer(bench, instances)
    return Shown(entry, instances[0], answers[0], [right(bench, m, instances, answers) for m in instances[0].targets])


def answer(bench: Bench, instances: Sequence[Instance]) -> list[list[Part]]:
    """The model's answers; of an instance with later rounds, the last reply of its chat."""
    if instances[0].later:
        return [_last_reply(bench, instance) for instance in instances]
    answers: list[list[Part]] = []
    for start in range(0, len(instances), BATCH):
        batch = instances[start : start + BATCH]
        options = [Options(**_options(bench, instance)) for instance in batch]
        replies = bench.model.answer([[Message("user", instance.prompt)] for instance in batch], options)
        answers += [list(reply.parts) for reply in replies]
    return answers


def _last_reply(bench: Bench, instance: Instance) -> list[Part]:
    chat = Chat(bench.model, **_options(bench, instance))
    replies = [chat.send(prompt) for prompt in (instance.prompt, *instance.later)]
    return list(replies[-1].parts)


def _options(bench: Bench, instance: Instance) -> dict[str, Any]:
    return {"want": tuple(instance.targets), "seed": bench.seed, "max_new_tokens": 1}


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
            [near.picture for near in nearest_training(bench, [p for p in one.answer if isinstance(p, Image)])],
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

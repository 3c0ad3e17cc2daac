"""The rows of the paper's Tables 1 to 3 and Figure 1, each as something that runs, with a verdict that is measured.

Of every row 24 instances are drawn from held-out media. An answer is *right* where it is nearer to the true one than
to five wrong ones: what was given and answers to other requests about the same thing, and answers of other instances.
A row *works* where at least half of its answers are right, *partly* where more are than chance explains (the 95 %
interval is above it), and else does *not yet*.

Which measure compares an answer with a wrong one depends on what is wrong. Pictures and clips of other instances differ
in what they show: EfficientNet-Lite2. Other edits of the same thing differ in light and colour, which that network
hardly represents: mean colours of 16 × 16 cells. Sounds of other instances differ in what is heard: aiSFX, which is
also the trunk of `tiny`'s encoder. Other edits of the same sound: log-spectral distance.
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
from codi2.evaluate.closeness import first_is_nearest
from codi2.evaluate.context import BATCH, EvalContext
from codi2.evaluate.copied import nearest_training
from codi2.evaluate.figure import Figure, mean
from codi2.evaluate.gallery_rows import ENTRIES, WRONG, Entry, Instance
from codi2.model import Options
from codi2.processes import ALONE, Processes
from codi2.prompt.layout import Message
from codi2.prompt.parts import Audio, Image, Part, Video

NUMBER, QUICK = 24, 4  # instances of a row
WORKS = 0.5  # share of right answers


@dataclass(frozen=True)
class RowResult:
    """The result of an entry: its first instance, and how many answers were right, by modality."""

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


def run_entry(context: EvalContext, entry: Entry) -> RowResult:
    """Draws, answers and judges a row, or says why not."""
    sampler = TaskSampler(context.corpus, context.splits(*entry.splits))
    if not sampler.scenes:  # they are few, and the things on them are what is new
        sampler.scenes += [item for item in context.corpus.select("image", "train") if item.background]
    count = QUICK if context.quick else NUMBER
    instances = [entry.make(sampler, np.random.default_rng((context.seed, 31, i))) for i in range(count)]
    if missing := [m for m in instances[0].targets if m not in context.model.decoders]:
        return RowResult(entry, instances[0], (), lacking=f"{context.model.config.name} makes no {missing[0]} yet")
    answers = answer(context, instances)
    return RowResult(
        entry, instances[0], answers[0], [right(context, m, instances, answers) for m in instances[0].targets]
    )


def answer(context: EvalContext, instances: Sequence[Instance]) -> list[list[Part]]:
    """The model's answers; of an instance with later rounds, the last reply of its chat."""
    if instances[0].later:
        return [_last_reply(context, instance, i) for i, instance in enumerate(instances)]
    answers: list[list[Part]] = []
    for start in range(0, len(instances), BATCH):
        batch = instances[start : start + BATCH]
        options = [Options(**_options(context, instance, start + i)) for i, instance in enumerate(batch)]
        replies = context.model.answer([[Message("user", instance.prompt)] for instance in batch], options)
        answers += [list(reply.parts) for reply in replies]
    return answers


def _last_reply(context: EvalContext, instance: Instance, number: int) -> list[Part]:
    chat = Chat(context.model, **_options(context, instance, number))
    replies = [chat.send(prompt) for prompt in (instance.prompt, *instance.later)]
    return list(replies[-1].parts)


def _options(context: EvalContext, instance: Instance, number: int) -> dict[str, Any]:
    return {"want": tuple(instance.targets), "seed": context.seed + number, "max_new_tokens": 1}


def right(
    context: EvalContext, modality: str, instances: Sequence[Instance], answers: Sequence[Sequence[Part]]
) -> Figure:
    """The share of answers that are nearer to the true one than to every wrong one, of which at least one is the true
    answer of another instance: the request is to be fulfilled, on the item of the prompt.
    """
    verdicts, chance = [], []
    for i, (instance, parts) in enumerate(zip(instances, answers, strict=True)):
        truth = instance.targets[modality]
        elsewhere = (other.targets[modality] for other in (*instances[i + 1 :], *instances[:i]))
        # two instances may be about one thing, and what was given may be the answer
        other_requests, other_instances = (
            [p for p in wrong if not same(p, truth)] for wrong in (instance.wrong.get(modality, ()), elsewhere)
        )
        other_requests = other_requests[: WRONG - 1]
        other_instances = other_instances[: WRONG - len(other_requests)]
        output = next(part for part in parts if part.modality == modality)
        done, of_this = (
            first_is_nearest(context, output, [truth, *wrong], wrong is other_requests)
            for wrong in (other_requests, other_instances)
        )
        verdicts.append(float(done and of_this))
        chance.append(1 / (1 + len(other_requests) + len(other_instances)))
    return mean(f"{modality}: right answers", verdicts, {"chance": chance}, seed=context.seed)


def same(part: Part, other: Part) -> bool:
    """Whether two media are the same, number by number."""
    if isinstance(part, Video) and isinstance(other, Video):
        return all(map(np.array_equal, *([np.asarray(f) for f in clip.frames] for clip in (part, other))))
    if isinstance(part, Image) and isinstance(other, Image):
        return np.array_equal(np.asarray(part.pixels), np.asarray(other.pixels))
    return isinstance(part, Audio) and isinstance(other, Audio) and np.array_equal(part.samples, other.samples)


def run_gallery(context: EvalContext, folder: Path, processes: Processes = ALONE) -> list[RowResult]:
    """Every row, as `index.html` and `report.json` in `folder`.

    Args:
        processes: divide the rows; the first one writes.
    Raises:
        OutputError: it cannot be written.
    """
    from codi2.hub import write_atomic
    from codi2.report import Row as Section
    from codi2.report import write_page

    rows = _rows(context, processes)
    if not processes.first:
        return rows
    counted = ", ".join(f"{sum(row.verdict == kind for row in rows)} {kind}" for kind in reversed(VERDICTS))
    sections = [
        Section(
            f"{row.entry.title}: {row.verdict}",
            row.first.prompt,
            [*row.answer, *row.first.targets.values()],
            [nearest.picture for nearest in nearest_training(context, [p for p in row.answer if isinstance(p, Image)])],
            note=f"{row.entry.where}. {row.lacking or summary(row)}",
            heading="Answer, and the true one" if row.answer else "The true answer",
        )
        for row in rows
    ]
    intro = (
        f"{len(rows)} rows: {counted}. The first instance drawn of each, not the best. An answer is right where it is "
        f"nearer to the true one than to {WRONG} wrong ones; a row works where half of its answers are right."
    )
    write_page(folder / "index.html", f"Gallery of {context.model.config.name}", sections, intro)
    about = [
        {
            "row": row.entry.title,
            "where": row.entry.where,
            "verdict": row.verdict,
            "lacking": row.lacking,
            "right": {figure.name: [figure.value, figure.low, figure.high, figure.n] for figure in row.figures},
        }
        for row in rows
    ]
    write_atomic(
        folder / "report.json", json.dumps({"schema": 1, "seed": context.seed, "rows": about}, indent=1).encode()
    )
    return rows


def _rows(context: EvalContext, processes: Processes) -> list[RowResult]:
    from rich.progress import track

    def rows_of_process() -> dict[int, tuple[Instance, Sequence[Part], Sequence[Figure], str]]:
        """The results of this process, by number: the entries are functions, which cannot be sent."""
        numbers = processes.share(range(len(ENTRIES)))
        followed = track(numbers, description="rows", disable=not processes.first)
        rows = [(n, run_entry(context, ENTRIES[n])) for n in followed]
        return {n: (row.first, row.answer, row.figures, row.lacking) for n, row in rows}

    results = {n: result for rows in processes.gather(rows_of_process) for n, result in rows.items()}
    return [RowResult(ENTRIES[n], *results[n]) for n in sorted(results)]


def summary(row: RowResult) -> str:
    """The figures of a row in words."""
    return "; ".join(
        f"{figure.name} {figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}] of {figure.n}, "
        f"chance {figure.baselines['chance'].value:.2f}"
        for figure in row.figures
    )

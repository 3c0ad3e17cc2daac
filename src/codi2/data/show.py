"""A page of a data set, to check it before training: samples of each task as the model reads them, and its contents."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from codi2.data.record import Record
from codi2.data.sets import load_report
from codi2.data.shards import open_shards
from codi2.errors import PromptError, WeightsError
from codi2.prompt.parts import Audio, Image, Media, Part, Text, Video
from codi2.report import Row, write_page

MEASURED = 400  # records whose lengths and media are measured
_QUARANTINED = 20  # shown


def write_show(folder: Path, out: Path, samples: int, preset: str) -> Path:
    """Write the page of the data set in `folder` to `out`.

    Args:
        samples: records of each task.
        preset: its tokenizer and layout show the prompt.

    Raises:
        DataError: the folder holds no finished data set, or a damaged shard.
    """
    report = load_report(folder)
    read, note = _reader(preset)
    shown: dict[str, list[Record]] = defaultdict(list)
    measured: list[Record] = []
    interval = max(1, report["records"] // MEASURED)
    for n, record in enumerate(record for shard in open_shards(folder, report) for record in shard):
        if len(shown[record.task]) < samples:
            shown[record.task].append(record)
        if n % interval == 0 and len(measured) < MEASURED:
            measured.append(record)
    rows = [_row(record, read) for task in sorted(shown) for record in shown[task]]
    title = f"{report['records']:,} records of {report['builder']}"
    tables = "".join(
        _table(name, counts)
        for name, counts in (
            ("Records by task", report["tasks"]),
            ("Records by phase", report["phases"]),
            ("Records by licence", report["licences"]),
            ("Quarantined entries", report["bad"]),
            ("Entries left out", report["left_out"]),
            (f"Sizes, of {len(measured)} records evenly drawn", _sizes(measured, read)),
        )
        if counts
    )
    write_page(out, title, rows, note, tables + _quarantine(folder))
    return out


def _reader(preset: str) -> tuple[Callable[[Record], tuple[str, int]] | None, str]:
    """The function from a record to the model's text and its number of positions, and a note on it; None without
    weights."""
    from codi2.config import preset as named
    from codi2.llm.backbone import load_tokenizer
    from codi2.prompt.layout import layout_for

    config = named(preset)
    try:
        tokenizer = load_tokenizer(config.llm)
    except WeightsError as error:
        return None, f"Without the model's view of a prompt: {error}."
    layout = layout_for(config, tokenizer)

    def read(record: Record) -> tuple[str, int]:
        sequence = layout(record.messages())
        filled = {slot.position for slot in sequence.slots}
        pieces: list[str] = []
        words: list[int] = []
        for position, token in enumerate(sequence.ids.tolist()):
            if position in filled:
                pieces += [tokenizer.decode(words), "·"]
                words = []
            else:
                words.append(token)
        return "".join([*pieces, tokenizer.decode(words)]), len(sequence.ids)

    return read, f"Prompts as the preset {preset} reads them; each · is a slot that a feature fills."


def _row(record: Record, read: Callable[[Record], tuple[str, int]] | None) -> Row:
    messages = record.messages()
    note = f"{record.key} · {record.source} · {record.licence}"
    if record.meta:
        note += f" · {json.dumps(dict(record.meta), ensure_ascii=False)}"
    model_text = ""
    if read is not None:
        try:
            model_text = read(record)[0]
        except PromptError as error:
            model_text = f"(the preset cannot read it: {error})"
    prompt: list[Part] = []
    for message in messages[:-1]:
        prompt += [Text(f"{message.role}: "), *message.parts, Text("\n")] if len(messages) > 2 else [*message.parts]
    return Row(record.task, tuple(prompt), messages[-1].parts, note=note, heading="Target", code=model_text)


def _sizes(records: list[Record], read: Callable[[Record], tuple[str, int]] | None) -> dict[str, str]:
    """Kind of size → least, median and most."""
    sizes: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if read is not None:
            try:
                sizes["positions of the language model"].append(read(record)[1])
            except PromptError:
                sizes["records that the preset cannot read"].append(1)
        for medium in record.media:
            for name, value in _measures(medium.decode()):
                sizes[name].append(value)
    ranges = {name: f"{min(v):,.6g} – {float(np.median(v)):,.6g} – {max(v):,.6g}" for name, v in sorted(sizes.items())}
    return {f"{name} (least – median – most)": text for name, text in ranges.items()}


def _measures(media: Media) -> Iterator[tuple[str, float]]:
    match media:
        case Image():
            yield "picture, longer side in pixels", max(media.pixels.size)
        case Audio():
            yield "sound, seconds", media.seconds
            yield "sound, Hz", media.rate
        case Video():
            yield "clip, frames", len(media.frames)
            yield "clip, frames a second", media.fps


def _table(name: str, counts: Mapping[str, Any]) -> str:
    lines = "".join(
        f"<tr><td>{escape(str(key))}</td><td>{value if isinstance(value, str) else f'{value:,}'}</td></tr>"
        for key, value in counts.items()
    )
    return f"<h2>{escape(name)}</h2><table>{lines}</table>"


def _quarantine(folder: Path) -> str:
    """The first entries that were left out."""
    try:
        with open(folder / "quarantine.jsonl", encoding="utf-8") as file:
            lines = [json.loads(line) for line, _ in zip(file, range(_QUARANTINED), strict=False)]
    except FileNotFoundError:
        return ""
    shown = {f"{line['source']}": f"{line['reason']}: {line['detail']}" for line in lines}
    return _table("First of the quarantine", {key: escape(text) for key, text in shown.items()}) if shown else ""

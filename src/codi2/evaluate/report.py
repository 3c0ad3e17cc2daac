"""What a run leaves: `report.json`, `index.html`, and a table in the terminal."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from codi2 import __version__
from codi2.checkpoint import locate
from codi2.errors import DataError
from codi2.evaluate import is_run
from codi2.evaluate.context import EvalContext
from codi2.evaluate.figure import Example, Figure, Section
from codi2.hub import WHEELS, sha256_of, write_atomic
from codi2.placement import ON_CPU, Placement
from codi2.prompt.parts import Audio, Image, Part, Text
from codi2.report import Row, write_page

SCHEMA = 1
"""Version of report.json."""
PRECISION = ("dtype", "bits")
PACKAGES = ("torch", "transformers", "diffusers", "peft", "numpy", "pillow", "soxr", "soundfile")


def write_report(
    out: Path,
    suite: str,
    model: str | Path,
    context: EvalContext,
    sections: Sequence[Section],
    placement: Placement = ON_CPU,
    beside: str | Path | None = None,
) -> dict[str, Any]:
    """Writes both files and returns what report.json holds. Raises OutputError where they cannot be written.

    Args:
        beside: the model whose values stand beside the figures.
    """
    report = {
        "schema": SCHEMA,
        "suite": suite,
        "quick": context.quick,
        "model": str(model),
        "seed": context.seed,
        "split": "validation" if context.validation else "test",
        "versions": {"codi2": __version__, "python": platform.python_version(), **_versions()},
        "cores": os.cpu_count(),
        "placement": {**asdict(placement), "hardware": hardware(placement.device)},
        "corpus_sha256": _corpus_hash(context),
        "weights_sha256": _weights(model),
        "beside": beside and {"model": str(beside), "weights_sha256": {} if is_run(beside) else _weights(beside)},
        "sections": [
            {
                "title": section.title,
                "about": section.about,
                "unavailable": section.unavailable,
                "absent": dict(section.absent),
                "networks": dict(section.networks),
                "quoted": dict(section.quoted),
                "figures": [plain(figure) for figure in section.findings.figures],
            }
            for section in sections
        ],
    }
    rows = [row for section in sections for row in _rows(section)]
    other = f" beside {beside}" if beside else ""
    few = ", quick" if context.quick else ""
    intro = f"codi2 {__version__}, model {model}{other}, suite {suite}{few}, seed {context.seed}."
    write_page(out / "index.html", "Measured on held-out items", rows, f"{intro} Intervals are 95 % bootstrap.")
    write_atomic(
        out / "report.json", (json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    )
    return report


def plain(figure: Figure) -> dict[str, Any]:
    """A figure as report.json holds it: without the values of its items."""
    about = {name: value for name, value in vars(figure).items() if name not in ("values", "baselines")}
    return about | {"baselines": {name: plain(other) for name, other in figure.baselines.items()}}


def hardware(device: str) -> str:
    """The name of a GPU; of the CPU, that of its architecture."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()


def provenance(model: str | Path, context: EvalContext, placement: Placement = ON_CPU) -> dict[str, Any]:
    """What outputs depend on: weights, corpus, seed, precision. A change of any makes them another system's."""
    instructed = [path for m in context.model.decoders for path in context.instructed_folder(m).rglob("*.safetensors")]
    return {
        "instructed_sha256": sorted(sha256_of(path) for path in instructed),
        "model": str(model),
        "weights_sha256": _weights(model),
        "corpus_sha256": _corpus_hash(context),
        "seed": context.seed,
        "quick": context.quick,
        # only values that are not the default: outputs of a version without one of these options stay valid
        **({"validation": True} if context.validation else {}),
        **({"items": context.items} if context.items is not None else {}),
        **{name: value for name in PRECISION if (value := getattr(placement, name)) != getattr(ON_CPU, name)},
    }


def print_table(sections: Sequence[Section]) -> None:
    """The figures, a table for each section."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for section in sections:
        if section.unavailable:
            console.print(f"[bold]{section.title}[/bold]: not available: {escape(section.unavailable)}\n")
            continue
        table = Table("figure", "value", "n", "beside it", "bar", title=section.title, title_justify="left")
        for figure in section.findings.figures:
            verdict = {True: "[green]met[/green]", False: "[red]not met[/red]", None: ""}[figure.passes]
            bar = f"{figure.bar}: {verdict}" if figure.bar else ""
            table.add_row(figure.name, shown(figure), str(figure.n or ""), "\n".join(_beside(figure)), bar)
        console.print(table)
        for name, text in section.absent.items():
            console.print(f"  not measured: {escape(name)}: {escape(text)}")
        for name, text in section.quoted.items():
            console.print(f"  quoted, not measured here: {escape(name)}: {escape(text)}")


def shown(figure: Figure) -> str:
    """`0.42 [0.31, 0.53]`, with its unit."""
    interval = f" [{figure.low:.3g}, {figure.high:.3g}]" if figure.low != figure.high else ""
    return f"{figure.value:.3g}{interval}{' ' + figure.unit if figure.unit else ''}"


def _beside(figure: Figure) -> list[str]:
    return [f"{name} {shown(other)}" for name, other in figure.baselines.items()]


def _rows(section: Section) -> list[Row]:
    if section.unavailable:
        return [Row(section.title, (Text(f"Not available: {section.unavailable}"),), ())]
    quoted = "; ".join(f"{name}: {text}" for name, text in section.quoted.items())
    absent = " ".join(f"Not measured: {name}: {text}." for name, text in section.absent.items())
    beneath = " ".join(filter(None, [absent, f"Quoted from the paper, not measured here: {quoted}" if quoted else ""]))
    judged = "; ".join(f"{name}: {which}" for name, which in section.networks.items())
    about = f"{section.about} Networks: {judged}." if judged else section.about
    rows = [Row(section.title, (Text(about),), (), note=beneath, table=_table(section.findings.figures))]
    return rows + [_example(example) for example in section.findings.examples]


def _table(figures: Sequence[Figure]) -> list[list[str]]:
    """A line for each figure, a column for each system."""
    names = list(dict.fromkeys(name for figure in figures for name in figure.baselines))
    judged = any(figure.bar for figure in figures)
    lines = [["", "ours", *names, "n", *(["bar"] if judged else [])]]
    for figure in figures:
        beside = [shown(figure.baselines[name]) if name in figure.baselines else "" for name in names]
        verdict = {True: "met", False: "not met", None: ""}[figure.passes]
        bar = [f"{figure.bar}: {verdict}" if figure.bar else ""] if judged else []
        lines.append([figure.name, shown(figure), *beside, str(figure.n or ""), *bar])
    return lines


def _example(example: Example) -> Row:
    parts = [_named(part, name) for name, part in example.shown.items()]
    return Row(example.title, example.prompt, parts, heading="Side by side")


def _named(part: Part, name: str) -> Part:
    return replace(part, name=name) if isinstance(part, Image | Audio) else part


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions


def _corpus_hash(context: EvalContext) -> str | None:
    """The hash that the corpus's own record has of its items; None without a corpus."""
    try:
        about = json.loads((context.corpus.folder / "build.json").read_text(encoding="utf-8"))
    except DataError:
        return None
    digest: str | None = about.get("sha256_items")
    return digest


def _weights(model: str | Path) -> dict[str, str]:
    """SHA-256 of each trained file, and of the pinned packages beside them."""
    folder = locate(model)[1]
    trained = sorted(folder.rglob("*.safetensors")) if folder else []
    hashes = {path.relative_to(folder).as_posix(): sha256_of(path) for path in trained if folder}
    return hashes | {wheel.requirement.split()[0]: wheel.inner_sha256 for wheel in WHEELS.values()}

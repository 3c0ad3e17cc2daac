"""Measuring a model: metrics, baselines, a judge that is not the model's encoder, and suites of figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi2.errors import CoDi2Error, ConfigError
from codi2.placement import ON_CPU, Placement

if TYPE_CHECKING:
    from rich.console import Console

    from codi2.evaluate.bench import Bench
    from codi2.evaluate.figure import Section
    from codi2.evaluate.processes import Processes
    from codi2.evaluate.suite import Suite

NAMES = (
    "edits",
    "sound-edits",
    "pictures",
    "sounds",
    "audio-edit",
    "rounds",
    "chat",
    "caption",
    "perceive",
    "subject",
    "compose",
    "clips",
    "together",
)
"""Suites on the embedded corpus; `all` is all of them."""
SOURCED = ("dreambench", "coco-edit")
"""Suites on data and networks that the user has."""
COUNTED = ("edits", "sound-edits", "pictures", "sounds", "rounds", "audio-edit", "coco-edit")
"""Suites whose number of cases can be chosen."""
PLANNED = ("smoke", "prior")
"""Suites whose sections are measured one by one, without cases that another system could answer."""
BESIDE = "beside"
"""Folder of the outputs of the model that is measured beside another one."""
SUITES = (*PLANNED, *NAMES, *SOURCED, "all")


def run(
    suite: str,
    model: str | Path,
    out: Path,
    quick: bool = False,
    outputs: Path | None = None,
    export: Path | None = None,
    source: Path | None = None,
    backbones: Mapping[str, str] | None = None,
    instructed: Path | None = None,
    text_pipeline: str = "",
    placement: Placement = ON_CPU,
    items: int | None = None,
    seed: int = 0,
    validation: bool = False,
    beside: str | Path | None = None,
) -> dict[str, Any]:
    """Measures a model, prints the figures, and writes `report.json` and `index.html` into `out`.

    A section whose decoder or weights are absent says so in the report; the others are measured all the same.
    Outputs are kept under `out`, so a run that was stopped goes on. Processes that a launcher started together divide
    the work (`evaluate.processes`).

    Args:
        suite: one of `SUITES`.
        model: a preset or the folder of a model.
        quick: few items a figure; for a first look, not for a comparison.
        outputs: folder of another system's answers to the suite's cases; they are scored in place of the model's.
        export: folder that the cases are written to, so that another system can answer them.
        source: the data that a suite of `SOURCED` is measured on; with `audio-edit`, a folder of AudioSet in place of
            the embedded corpus.
        backbones: hub id or path of `dino`, `clip`, `inception` and `panns`; see `backbones.Backbones`.
        instructed: folder of a decoder that was trained to edit by instruction, for the rows without a language model;
            by default that of the training run `<modality>_instructed`.
        text_pipeline: hub id or folder of AudioLDM2 or a text-to-video pipeline, for the rows of captions alone; by
            default that of the model's own decoder.
        placement: where the model and the networks that judge run.
        items: cases that a suite of `COUNTED` has (of each kind): a Fréchet distance is less biased the more there are.
        seed: of what is drawn, and of the answers.
        validation: whether items come from the validation split, for choices; else from the test splits.
        beside: another model, that answers the same draws: each figure gets its value and, item by item, the
            difference. What it makes, and a report of its own, lie in `beside` under `out`.

    Returns:
        What report.json holds; of several processes, in the first one only.

    Raises:
        ConfigError: no such suite, preset or folder; outputs for a suite that keeps none; no such device.
        DataError: the embedded corpus, on which the suite is measured, is not there.
        WeightsError: the model itself cannot be loaded.
        OutputError: the results cannot be written.
    """
    if suite not in SUITES:
        raise ConfigError(f"There is no suite {suite!r}; choose {', '.join(SUITES)}.")
    if (outputs or export) and suite not in (*NAMES, *SOURCED):
        raise ConfigError(f"--outputs and --export take one suite of {', '.join((*NAMES, *SOURCED))}, not {suite!r}.")
    if suite in SOURCED and source is None:
        raise ConfigError(f"The suite {suite} is measured on data that you have: name it with --source.")
    if source is not None and suite not in (*SOURCED, "audio-edit"):
        raise ConfigError(f"--source is for {', '.join(SOURCED)} and audio-edit; the suite is {suite!r}.")
    if validation and suite in SOURCED:
        raise ConfigError(f"--val draws from the embedded corpus; {suite} is measured on your data: leave --val out.")
    if items is not None and (suite not in COUNTED or items < 2):
        raise ConfigError(f"--items is {items} for the suite {suite!r}; it takes 2 or more, with {', '.join(COUNTED)}.")

    if source is None:
        from codi2.data.cache import corpus

        corpus()  # says now that it is missing: the model takes long to load

    from rich.console import Console

    from codi2.evaluate.bench import Bench
    from codi2.evaluate.pairs import paired
    from codi2.evaluate.processes import join
    from codi2.evaluate.report import print_table, provenance, write_report
    from codi2.evaluate.suite import run_suite
    from codi2.model import CoDi2

    def measured(name: str | Path, folder: Path, outputs: Path | None, export: Path | None) -> list[Section]:
        """The sections of one model, reported in `folder`; of several processes, in the first one only."""
        bench = Bench(
            CoDi2.from_pretrained(name, **vars(placement)),
            seed=seed,
            quick=quick,
            instructed=instructed,
            text_pipeline=text_pipeline,
            items=items,
            validation=validation,
        )
        if suite in PLANNED:
            sections = _planned(suite, bench, console, processes)
        else:
            settings, sections = provenance(name, bench, placement), []
            networks = {**(backbones or {}), "device": placement.device}
            for made in _suites(suite, bench, source, networks):
                with console.status(made.title):
                    section = run_suite(made, bench, folder, settings, outputs, export, processes)
                sections += [section] if section else []
        bench.release()
        reports.append(partial(write_report, folder, suite, name, bench, placement=placement))
        return sections

    reports: list[Callable[..., dict[str, Any]]] = []
    with join() as processes:
        placement = processes.placed(placement)
        console = Console(stderr=True, quiet=not processes.first)
        sections = measured(model, out, outputs, export)
        if beside is not None:
            theirs = measured(beside, out / BESIDE, None, None)
            if processes.first:
                reports[1](theirs)
                sections = paired(sections, theirs, Path(beside).name, seed)
        if not processes.first:
            return {}
        report = reports[0](sections, beside=beside)
        print_table(sections)
        return report


def _suites(name: str, bench: Bench, source: Path | None, backbones: Mapping[str, str]) -> list[Suite]:
    """The suites of a name. Raises DataError: the source is not what a suite is measured on."""
    from codi2.evaluate.backbones import Backbones
    from codi2.evaluate.suites import EMBEDDED, audio_edit, coco_edit, dreambench

    if source is None:
        return [EMBEDDED[each] for each in (NAMES if name == "all" else (name,))]
    networks = Backbones(**backbones)
    if name == "dreambench":
        return [dreambench.suite(source, networks)]
    if name == "coco-edit":
        return [coco_edit.suite(source, networks, bench.quick, bench.seed, bench.items)]
    return [audio_edit.sourced(source, bench.quick, bench.seed, networks, bench.items)]


def _planned(suite: str, bench: Bench, console: Console, processes: Processes) -> list[Section]:
    """Its sections in their order, divided over the processes."""
    from codi2.evaluate.figure import Section
    from codi2.evaluate.suites.prior import PRIOR
    from codi2.evaluate.suites.smoke import SMOKE

    plans = {"smoke": SMOKE, "prior": PRIOR}[suite]

    def measured() -> dict[str, Section]:
        sections = {}
        for plan in processes.share(plans):
            with console.status(plan.title):
                try:
                    sections[plan.title] = Section(plan.title, plan.about, plan.measure(bench))
                except CoDi2Error as error:
                    sections[plan.title] = Section(plan.title, plan.about, unavailable=str(error))
        return sections

    found: dict[str, Section] = {}
    for sections in processes.gather(measured):
        found |= sections
    return [found[plan.title] for plan in plans]

"""Measuring a model: suites of figures, baselines, and judges that are not the model's encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi2.errors import ConfigError
from codi2.placement import ON_CPU, Placement

if TYPE_CHECKING:
    from rich.console import Console

    from codi2.evaluate.backbones import Backbones
    from codi2.evaluate.context import EvalContext
    from codi2.evaluate.figure import Section
    from codi2.evaluate.suite import Suite
    from codi2.processes import Processes

NAMES = (
    "cost",
    "retrieval",
    "true-pictures",
    "vocoder",
    "language",
    "prior",
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
"""Suites on the corpus of `tiny`."""
SOURCED = ("dreambench", "coco-edit")
"""Suites on data and networks that the user has."""
GROUPS = {"smoke": NAMES[:5], "all": NAMES}
"""Suites that one name stands for: `smoke` measures the parts of a model, each by itself."""
SUITES = ("smoke", *NAMES, *SOURCED, "all")
BESIDE = "beside"
"""Folder of the outputs of the model that is measured beside another one."""


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

    Where a decoder or weights are absent, the section says so; the others are measured all the same. Outputs are kept
    under `out`, so a run that was stopped continues. Processes that a launcher started together divide the outputs
    (`codi2.processes`).

    Args:
        suite: one of `SUITES`.
        model: a preset or the folder of a model.
        quick: few items a figure; for a first look, not for a comparison.
        outputs: folder of another system's answers to the suite's cases; they are scored in place of the model's.
        export: folder that the cases are written to, so that another system can answer them.
        source: the data that a suite of `SOURCED` is measured on; with `audio-edit`, a folder of AudioSet in place of
            the corpus of `tiny`.
        backbones: hub id or path of `dino`, `clip`, `inception` and `panns`; see `backbones.Backbones`.
        instructed: folder of a decoder that was trained to edit by instruction, for the rows without a language model;
            by default that of the training run `<modality>_instructed`.
        text_pipeline: hub id or folder of AudioLDM2 or a text-to-video pipeline, for the rows of captions alone; by
            default that of the model's own decoder.
        placement: where the model and the networks that judge run.
        items: cases of each kind, in place of the suite's own number: a Fréchet distance is less biased the more there
            are.
        seed: of what is drawn, and of the answers.
        validation: whether items come from the validation split, for choices; else from the test splits.
        beside: another model that answers the same cases, or the folder of an earlier run, whose outputs are scored:
            each figure gets its value and, item by item, the difference. The outputs of a model, and a report of its
            own, lie in `beside` under `out`.

    Returns:
        What report.json holds; of several processes, in the first one only.

    Raises:
        ConfigError: no such suite, preset or folder; outputs for several suites; no such device.
        DataError: the corpus of `tiny`, on which the suite is measured, is not there.
        WeightsError: the model itself cannot be loaded.
        OutputError: the results cannot be written.
    """
    _check(suite, outputs is not None or export is not None, source, items, validation)
    if source is None:
        from codi2.data.cache import corpus

        corpus()  # a missing corpus is reported before the model is loaded, which takes long

    from rich.console import Console

    from codi2.evaluate.backbones import Backbones
    from codi2.evaluate.context import EvalContext
    from codi2.evaluate.pairs import paired
    from codi2.evaluate.report import print_table, write_report
    from codi2.evaluate.suite import score_run
    from codi2.model import CoDi2
    from codi2.processes import join

    with join() as processes:
        placement = processes.placed(placement)
        networks = Backbones(**{**(backbones or {}), "device": placement.device})
        console = Console(stderr=True, quiet=not processes.first)

        def load(name: str | Path) -> EvalContext:
            model = CoDi2.from_pretrained(name, **vars(placement))
            return EvalContext(model, seed, quick, instructed, text_pipeline, items, validation)

        context = load(model)
        suites = _suites(suite, context, source, networks)
        sections = _measure(suites, context, model, placement, out, outputs, export, processes, console)
        others: list[Section] = []
        if beside is not None and is_run(beside):
            if processes.first:
                scored = (score_run(one, context, Path(beside)) for one in suites)
                others = [section for section in scored if section is not None]
        elif beside is not None:
            context.release()
            other = load(beside)
            suites = _suites(suite, other, source, networks)
            others = _measure(suites, other, beside, placement, out / BESIDE, None, None, processes, console)
            if processes.first:
                write_report(out / BESIDE, suite, beside, other, others, placement)
        if not processes.first:
            return {}
        if beside is not None:
            sections = paired(sections, others, Path(beside).name, seed)
        report = write_report(out, suite, model, context, sections, placement, beside)
        print_table(sections)
        return report


def is_run(folder: str | Path) -> bool:
    """Whether a folder holds the report and the outputs of a run."""
    return (Path(folder) / "report.json").is_file() and (Path(folder) / "outputs").is_dir()


def _check(suite: str, files: bool, source: Path | None, items: int | None, validation: bool) -> None:
    """Raises ConfigError: the options do not fit together."""
    if suite not in SUITES:
        raise ConfigError(f"there is no suite {suite!r}; choose {', '.join(SUITES)}")
    if files and suite in GROUPS:
        raise ConfigError(f"--outputs and --export take one suite of {', '.join((*NAMES, *SOURCED))}, not {suite!r}")
    if suite in SOURCED and source is None:
        raise ConfigError(f"the suite {suite} is measured on data that you have: name it with --source")
    if source is not None and suite not in (*SOURCED, "audio-edit"):
        raise ConfigError(f"--source is for {', '.join(SOURCED)} and audio-edit; the suite is {suite!r}")
    if validation and suite in SOURCED:
        raise ConfigError(f"--val draws from the corpus of `tiny`; {suite} is measured on your data: leave --val out")
    if items is not None and items < 2:
        raise ConfigError(f"--items is {items}; it takes 2 or more")


def _suites(name: str, context: EvalContext, source: Path | None, networks: Backbones) -> list[Suite]:
    """The suites of a name. Raises DataError: the source is not what a suite is measured on."""
    from codi2.evaluate.suites import CORPUS_SUITES, SOURCE_SUITES

    if source is not None:
        return [SOURCE_SUITES[name](source, networks, context)]
    return [CORPUS_SUITES[each] for each in GROUPS.get(name, (name,))]


def _measure(
    suites: Sequence[Suite],
    context: EvalContext,
    model: str | Path,
    placement: Placement,
    out: Path,
    outputs: Path | None,
    export: Path | None,
    processes: Processes,
    console: Console,
) -> list[Section]:
    """The sections of one model; of several processes, in the first one only."""
    from codi2.evaluate.report import provenance
    from codi2.evaluate.suite import run_suite

    settings, sections = provenance(model, context, placement), []
    for suite in suites:
        with console.status(suite.title):
            section = run_suite(suite, context, out, settings, outputs, export, processes)
        sections += [section] if section else []
    return sections

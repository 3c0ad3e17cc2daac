"""A suite: its cases, the systems that answer them, and how the answers are scored, in two steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from codi2.errors import CoDi2Error, DataError, WeightsError
from codi2.evaluate.backbones import identity
from codi2.evaluate.case import SETTINGS, Case, Outputs, System, export
from codi2.evaluate.context import EvalContext
from codi2.evaluate.figure import Findings, Section
from codi2.processes import ALONE, Processes
from codi2.prompt.parts import Part

OTHER = "given"  # name of a system whose outputs were read from a folder


@dataclass(frozen=True)
class Suite:
    """Questions, answers, figures."""

    name: str
    title: str
    about: str
    """The exact protocol, for the report."""
    score: Callable[[EvalContext, Sequence[Case], Mapping[str, Sequence[Part]]], Findings]
    """(context, cases, outputs by system) → figures."""
    cases: Callable[[EvalContext], list[Case]] = lambda context: []
    systems: Mapping[str, System] = field(default_factory=dict)
    """By the names that figures have; the first is the one that the figures are about. Without systems no outputs are
    kept: `score` measures the model itself.
    """
    absent: Mapping[str, str] = field(default_factory=dict)
    """Figures that cannot be measured with what was named, and why."""
    networks: Mapping[str, str] = field(default_factory=dict)
    """Published networks that judge, by name: hub id, folder or file."""
    quoted: Mapping[str, str] = field(default_factory=dict)
    """Published figures that stand beside the measured ones, as quoted."""


def run_suite(
    suite: Suite,
    context: EvalContext,
    out: Path,
    settings: Mapping[str, Any],
    other: Path | None = None,
    cases_folder: Path | None = None,
    processes: Processes = ALONE,
) -> Section | None:
    """Answers what is not answered yet, and scores it. The section names what cannot be measured.

    Args:
        out: of the report; outputs lie in `outputs/<suite>/<system>` below it.
        settings: what outputs depend on: model, seed, versions.
        other: folder of another system's outputs, `<case>.png` and so on; it is scored in place of the model.
        cases_folder: folder that the cases are written to, for another system to answer.
        processes: divide the answers; only the first scores them, for the others there is no section.
    """
    try:
        cases = suite.cases(context)
        if cases_folder is not None and processes.first:
            export(cases, cases_folder)
        outputs = Outputs(out / "outputs" / suite.name)
        parts: dict[str, Sequence[Part]] = {}
        if other is not None:
            if not suite.systems:
                raise DataError(f"the suite {suite.name} keeps no outputs")
            parts[OTHER] = Outputs(other.parent).load_all(other.name, cases)
        absent = dict(suite.absent)
        main = next(iter(suite.systems), "")
        for name, system in suite.systems.items():
            if other is not None and name == main:
                continue
            try:
                parts[name] = outputs.produce(name, system, context, cases, settings, processes)
            except WeightsError as error:
                if name == main:
                    raise
                absent[name] = str(error)
        if not processes.first:
            return None
        findings = suite.score(context, cases, parts)
        networks = {name: identity(source) for name, source in suite.networks.items() if source}
        return Section(suite.title, suite.about, findings, "", absent, networks, suite.quoted)
    except CoDi2Error as error:
        return Section(suite.title, suite.about, unavailable=str(error))


def _check_same_cases(outputs: Path, context: EvalContext) -> None:
    """Raises DataError: the outputs of an earlier run answer other cases, which have the same names."""
    if not (outputs / SETTINGS).is_file():
        return  # other systems keep no settings
    settings = json.loads((outputs / SETTINGS).read_text(encoding="utf-8"))
    expected = {"seed": context.seed, "quick": context.quick, "validation": context.validation}
    for name, value in expected.items():
        if settings.get(name, False) != value:
            raise DataError(
                f"{outputs} was made with {name} = {settings.get(name)}, not {value}; give the same options"
            )


def score_run(suite: Suite, context: EvalContext, folder: Path) -> Section | None:
    """The outputs that the model of an earlier run left in its folder, scored alone."""
    main = dict(list(suite.systems.items())[:1])
    outputs = folder / "outputs" / suite.name / next(iter(main), "")
    try:
        _check_same_cases(outputs, context)
    except DataError as error:
        return Section(suite.title, suite.about, unavailable=str(error))
    return run_suite(replace(suite, systems=main), context, folder, {}, outputs)

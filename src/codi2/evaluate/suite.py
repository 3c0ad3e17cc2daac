"""A suite: its cases, the systems that answer them, and how the answers are scored, in two steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codi2.errors import CoDi2Error, WeightsError
from codi2.evaluate.backbones import identity
from codi2.evaluate.bench import Bench
from codi2.evaluate.case import Case, Outputs, System, export
from codi2.evaluate.figure import Findings, Section
from codi2.evaluate.processes import ALONE, Processes
from codi2.prompt.parts import Part

GIVEN = "given"  # what a system whose outputs were brought along is called


@dataclass(frozen=True)
class Suite:
    """Questions, answers, figures."""

    name: str
    title: str
    about: str
    """The exact protocol, for the report."""
    cases: Callable[[Bench, bool], list[Case]]
    """The questions; few of them where the second argument, `quick`, is true."""
    systems: Mapping[str, System]
    """By the names that figures have; the first is the one that the figures are about."""
    score: Callable[[Bench, Sequence[Case], Mapping[str, Sequence[Part]]], Findings]
    absent: Mapping[str, str] = field(default_factory=dict)
    """Figures that cannot be measured with what was named, and why."""
    networks: Mapping[str, str] = field(default_factory=dict)
    """Published networks that judge, by name: hub id, folder or file."""
    quoted: Mapping[str, str] = field(default_factory=dict)
    """Published figures that stand beside ours, as quoted."""


def run_suite(
    suite: Suite,
    bench: Bench,
    out: Path,
    settings: Mapping[str, Any],
    given: Path | None = None,
    exported: Path | None = None,
    processes: Processes = ALONE,
) -> Section | None:
    """Answers what is not answered yet, and scores it. What cannot be measured is said in the section.

    Args:
        out: of the report; outputs lie in `outputs/<suite>/<system>` below it.
        settings: what outputs depend on: model, seed, versions.
        given: folder of another system's outputs, `<case>.png` and so on; it is scored in place of the model.
        exported: folder that the cases are written to, for another system to answer.
        processes: divide the answers; only the first scores them, for the others there is no section.
    """
    try:
        cases = suite.cases(bench, bench.quick)
        if exported is not None and processes.first:
            export(cases, exported)
        outputs = Outputs(out / "outputs" / suite.name)
        found: dict[str, Sequence[Part]] = {}
        if given is not None:
            found[GIVEN] = Outputs(given.parent).load_all(given.name, cases)
        absent = dict(suite.absent)
        main = next(iter(suite.systems))
        for name, system in suite.systems.items():
            if given is not None and name == main:
                continue
            try:
                found[name] = outputs.produce(name, system, bench, cases, settings, processes)
            except WeightsError as error:
                if name == main:
                    raise
                absent[name] = str(error)
        if not processes.first:
            return None
        findings = suite.score(bench, cases, found)
        networks = {name: identity(source) for name, source in suite.networks.items() if source}
        return Section(suite.title, suite.about, findings, "", absent, networks, suite.quoted)
    except CoDi2Error as error:
        return Section(suite.title, suite.about, unavailable=str(error))

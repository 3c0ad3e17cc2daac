"""Measuring a model: metrics, baselines, a judge that is not the model's encoder, and suites of figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codi2.errors import CoDi2Error, ConfigError

SUITES = ("smoke",)


def run(suite: str, model: str | Path, out: Path, quick: bool = False) -> dict[str, Any]:
    """Measures a model, prints the figures, and writes `report.json` and `index.html` into `out`.

    A section whose corpus, decoder or weights are absent says so in the report; the others are measured all the same.

    Args:
        suite: `smoke`.
        model: a preset or the folder of a model.
        quick: few items a figure; for a first look, not for a comparison.

    Returns:
        What report.json holds.

    Raises:
        ConfigError: no such suite, preset or folder.
        WeightsError: the model itself cannot be loaded.
        OutputError: the results cannot be written.
    """
    if suite not in SUITES:
        raise ConfigError(f"There is no suite {suite!r}; choose {', '.join(SUITES)}.")

    from rich.console import Console

    from codi2.evaluate.bench import Bench
    from codi2.evaluate.figure import Section
    from codi2.evaluate.report import print_table, write_report
    from codi2.evaluate.suites.smoke import SMOKE
    from codi2.model import CoDi2

    console = Console(stderr=True)
    bench = Bench(CoDi2.from_pretrained(model), quick=quick)
    sections = []
    for plan in SMOKE:
        with console.status(plan.title):
            try:
                sections.append(Section(plan.title, plan.about, plan.measure(bench)))
            except CoDi2Error as error:
                sections.append(Section(plan.title, plan.about, unavailable=str(error)))
    report = write_report(out, suite, model, bench, sections)
    print_table(sections)
    return report

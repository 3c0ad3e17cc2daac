"""The columns of every progress bar: what, how far, for how long, and how long still."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import ProgressColumn


def columns() -> tuple[ProgressColumn, ...]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    says = TextColumn("{task.description}")
    return says, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()

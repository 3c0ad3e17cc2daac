"""Distinguish data sets built by `codi2 data build` from folders of raw files, and read their reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codi2.data.builders import load_builder
from codi2.data.record import SCHEMA
from codi2.errors import DataError
from codi2.untrusted import inside, parse_json, read_inside

RAW = (".tar", ".parquet", ".json", ".jsonl", ".csv", ".zip")  # of sources
OURS = ("units.json", "settings.json", "build.json", "quarantine.jsonl")  # of a build


def is_set(folder: Path) -> bool:
    """Whether the folder is the output of a build, finished or not, and not the raw files of a source."""
    return (folder / "settings.json").is_file() and (folder / "parts").is_dir()


def _raw_file(folder: Path) -> str:
    """Name of a file or folder that looks like a download; empty: there is none."""
    names = (path.name for path in sorted(folder.glob("[!.]*")) if path.suffix in RAW or path.name.isdecimal())
    return next((name for name in names if name not in OURS), "")


def _state(folder: Path) -> str:
    """The state of a folder without a report, with a remedy."""
    if is_set(folder):
        return "is not finished: run its command again"
    if raw := _raw_file(folder):
        return (
            f"is not a data set but a folder of raw files, {raw} among them: run `codi2 data build NAME --source "
            f"{folder} --out FOLDER` and name that FOLDER"
        )
    return "is not a data set: name a folder that `codi2 data build` has written"


def check_source(builder: str, source: Path, out: Path) -> None:
    """Raises DataError: the source is a built data set, or `out` is a folder of raw files."""
    folder = source.parent if source.name == "shards" else source
    if is_set(folder):
        raise DataError(
            f"{source} is a data set built by `codi2 data build`, not the raw files that {builder} "
            f"reads ({load_builder(builder).reads}); name the folder of those"
        )
    if not is_set(out) and (raw := _raw_file(out)):
        raise DataError(f"--out {out} is a folder of raw files, {raw} among them; choose another folder for the shards")


def load_report(folder: Path) -> dict[str, Any]:
    """The report of a finished build. Raises DataError: it is missing or of another version, or the build has not
    finished."""
    path = folder / "build.json"
    try:
        report: dict[str, Any] = parse_json(read_inside(folder, path.name))
    except FileNotFoundError as error:
        raise DataError(f"there is no {path}: the folder {_state(folder)}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); run the build again") from error
    if not isinstance(report, dict) or report.get("schema") != SCHEMA or "shards" not in report:
        schema = report.get("schema") if isinstance(report, dict) else None
        raise DataError(
            f"{folder} holds records of schema {schema}, expected {SCHEMA}: build it again with `codi2 data build`"
        )
    try:
        for shard in report["shards"]:
            inside(folder, "" + shard["file"])
            _ = "" + shard["phase"], 0 + shard["records"]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} lists a shard without its file, phase or records; run the build again") from error
    return report

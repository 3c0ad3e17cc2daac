"""Data sets that `codi2 data build` has made, and the raw files of sources: neither is taken for the other."""

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
    """Whether a build writes, or has written, to the folder: raw files of a source are none."""
    return (folder / "settings.json").is_file() and (folder / "parts").is_dir()


def _raw_file(folder: Path) -> str:
    """Name of a file or folder as downloads have them; empty: there is none."""
    names = (path.name for path in sorted(folder.glob("[!.]*")) if path.suffix in RAW or path.name.isdecimal())
    return next((name for name in names if name not in OURS), "")


def _state(folder: Path) -> str:
    """What a folder without a report is."""
    if is_set(folder):
        return "is not finished: run its command again"
    if raw := _raw_file(folder):
        return (
            f"is no data set but a folder of raw files, {raw} among them: run `codi2 data build NAME --source {folder} "
            "--out FOLDER` and name that FOLDER"
        )
    return "is no data set"


def check_source(builder: str, source: Path, out: Path) -> None:
    """Raises DataError: the source was built by us, or the shards are to lie among raw files."""
    folder = source.parent if source.name == "shards" else source
    if is_set(folder):
        raise DataError(
            f"{source} is a data set that `codi2 data build` has made, not the raw files that {builder} "
            f"reads ({load_builder(builder).reads}); name the folder of those"
        )
    if not is_set(out) and (raw := _raw_file(out)):
        raise DataError(f"--out {out} is a folder of raw files, {raw} among them; choose another folder for the shards")


def load_report(folder: Path) -> dict[str, Any]:
    """The report of a finished build. Raises DataError: there is none, or it is of another version or not finished."""
    path = folder / "build.json"
    try:
        report: dict[str, Any] = parse_json(read_inside(folder, path.name))
    except FileNotFoundError as error:
        raise DataError(f"{folder} {_state(folder)} (there is no {path.name})") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); run the build again") from error
    if not isinstance(report, dict) or report.get("schema") != SCHEMA or "shards" not in report:
        found = report.get("schema") if isinstance(report, dict) else None
        raise DataError(
            f"{folder} holds records of schema {found}, this version reads {SCHEMA}: build it again with "
            "`codi2 data build`"
        )
    try:
        for shard in report["shards"]:
            inside(folder, "" + shard["file"])
            _ = "" + shard["phase"], 0 + shard["records"]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} lists a shard without its file, phase or records; run the build again") from error
    return report

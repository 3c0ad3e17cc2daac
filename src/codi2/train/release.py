"""The part `model`: assembles the exports of a recipe's parts to the folder from which a model is loaded.

Nothing is trained and no weight is changed: the files are copied, `config.json` is that of `options.model`, and
`training.json` has the report of every part on which the model depends, with the hashes of the files that each part
started from and wrote.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codi2.errors import ConfigError, DataError
from codi2.folders import atomic_folder, disk_errors, locked
from codi2.hub import sha256_of
from codi2.train.assemble import MODELS
from codi2.train.config import TrainConfig, options_of, recorded

MODEL = "model"
LARGEST, LARGEST_FILE = 100_000_000, 50_000_000  # most bytes of a model, and of one of its files
REPORT = "training.json"


@dataclass(frozen=True)
class ModelOptions:
    parts: dict[str, str] = field(default_factory=dict)  # subfolder of the model → `@part`; `.`: the folder itself
    model: str = "tiny"  # a key of `MODELS`, for config.json


def release(config: TrainConfig, runs: Path, out: Path) -> dict[str, float]:
    """Writes `out`/export from the exports below `runs`; returns its size.

    Raises:
        ConfigError: the model is unknown, or no part is named.
        DataError: a part has no export, or the model is too large.
    """
    options = options_of(ModelOptions, config)
    if not options.parts:
        raise ConfigError('[options.parts] of the part model is empty; name the part of each folder: image = "@name"')
    if options.model not in MODELS:
        raise ConfigError(f"options.model is {options.model!r}; expected one of {', '.join(MODELS)}")
    with locked(out, "another recipe"), disk_errors(out), atomic_folder(out / "export") as folder:
        for place, part in options.parts.items():
            _copy(export_of(part, runs), folder / place)
        (folder / "config.json").write_text(MODELS[options.model].to_json(), encoding="utf-8")
        sizes = {str(path.relative_to(folder)): path.stat().st_size for path in _files(folder)}
        _check_sizes(sizes)
        report = {"config": recorded(config), "steps": config.steps, "parts": parts_below(config, runs)}
        report["sha256"] = {name: sha256_of(folder / name) for name in sorted(sizes) if name.endswith(".safetensors")}
        (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return {"bytes": float(sum(sizes.values()))}


def is_current(report: Mapping[str, Any], config: TrainConfig, runs: Path) -> bool:
    """Whether a model was assembled from the present exports."""
    return bool(report["parts"] == json.loads(json.dumps(parts_below(config, runs))))


def parts_below(config: TrainConfig, runs: Path) -> dict[str, Any]:
    """Name → report of every part on which `config` depends, directly or through another: its config, steps and
    figures, and the hashes of the files that it started from and wrote. Raises DataError: a part has no export."""
    reports: dict[str, Any] = {}
    waiting = list(named_parts(vars(config)))
    while waiting:
        name = waiting.pop()
        if name not in reports:
            reports[name] = _report(name, export_of(f"@{name}", runs))
            waiting += named_parts(reports[name].get("config", {}))
    return dict(sorted(reports.items()))


def export_of(part: str, runs: Path) -> Path:
    """The export of `@name`. Raises DataError: it is missing; ConfigError: `part` is not the name of a part."""
    if not part.startswith("@"):
        raise ConfigError(f"[options.parts] has {part!r}; expected a part of the recipe, as @01_encoder")
    export = runs / part[1:] / "export"
    if not export.is_dir():
        raise DataError(f"the model needs the export of {part[1:]}, but {export} is missing; train it first")
    return export


def _copy(export: Path, folder: Path) -> None:
    """Copies the files of an export except its reports, over files of the same name."""
    for path in _files(export):
        name = path.relative_to(export)
        if name.name != REPORT:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)


def _report(name: str, export: Path) -> dict[str, Any]:
    reports = sorted(export.rglob(REPORT))
    if not reports:
        raise DataError(f"the export of {name} in {export} has no {REPORT}; train it again")
    report: dict[str, Any] = json.loads(reports[0].read_text(encoding="utf-8"))
    return report | {
        "sha256": {str(p.relative_to(export)): sha256_of(p) for p in _files(export) if p.suffix == ".safetensors"}
    }


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def named_parts(value: Any) -> Iterator[str]:
    """The parts that a config's values name as `@part`."""
    if isinstance(value, (Mapping, list)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from named_parts(inner)
    elif isinstance(value, str) and value.startswith("@"):
        yield value[1:]


def _check_sizes(sizes: Mapping[str, int]) -> None:
    """Raises DataError: the model, or one of its files, is too large to be shipped."""
    name, most = max(sizes.items(), key=lambda item: item[1])
    for subject, size, limit in (("the model", sum(sizes.values()), LARGEST), (name, most, LARGEST_FILE)):
        if size > limit:
            raise DataError(
                f"{subject} has {size / 1e6:.1f} MB, at most {limit / 1e6:.0f} are shipped; train smaller parts"
            )

"""Makes a model's folder from another model's config, with other components; see `codi2 new`.

Trained parts of the other model that still fit are copied; the config names the other parts as untrained.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from codi2.config import LANGUAGE, CoDi2Config
from codi2.diffuse.load import TRAINED
from codi2.errors import ConfigError, OutputError
from codi2.folders import atomic_folder
from codi2.hub import write_atomic
from codi2.weight_files import WEIGHTS

MAPPINGS = (
    ("decoders",),
    ("encoder", "num_features"),
    ("encoder", "towers"),
    ("heads", "num_slots"),
    ("heads", "groups"),
)
"""Fields in which `key=null` removes an entry."""
JOINT = "joint"
"""The joint attention between decoders."""
COPIED = ("adapter", "heads.safetensors", "prior")
"""The files of LANGUAGE: the prior is trained on its hidden states."""


def derived(base: CoDi2Config, settings: Sequence[str], name: str) -> CoDi2Config:
    """`base` with other values of fields, such as `decoders.image.id=owner/name`; a value is JSON or plain text.

    Raises ConfigError: a setting is malformed, or the result is no model config; it names the key.
    """
    data: dict[str, Any] = {**json.loads(base.to_json()), "name": name}
    for setting in settings:
        path, sign, value = setting.partition("=")
        keys = path.strip().split(".")
        if not sign or not all(keys):
            raise ConfigError(f"--set {setting!r} is no setting; write it as llm.id=owner/name")
        _set(data, keys, _value(value.strip()))
    return CoDi2Config.from_json(json.dumps(data))


def _set(data: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    place, *last = keys[:-1], keys[-1]
    inner: Any = data
    for i, key in enumerate(place):
        known = ", ".join(inner)
        if inner.get(key) is None and tuple(keys[:i]) not in MAPPINGS:
            field = ".".join(keys[: i + 1])
            raise ConfigError(f"--set {'.'.join(keys)}: the config has no {field}; its fields are {known}")
        inner = inner.setdefault(key, {})
        if not isinstance(inner, dict):
            field = ".".join(keys[: i + 1])
            raise ConfigError(f"--set {'.'.join(keys)}: {field} is a value without fields; set {field} itself")
    if value is None and tuple(place) in MAPPINGS:
        inner.pop(last[0], None)
    else:
        inner[last[0]] = value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def kept_parts(base: CoDi2Config, config: CoDi2Config) -> list[str]:
    """The trained parts of `base` that fit `config`: LANGUAGE, modalities of decoders, `encoder`, `joint`."""
    same_space = (
        _same(base.encoder, config.encoder, ("kind", "id", "tokenizer", "towers", "norm"))
        and base.heads.feature_dim == config.heads.feature_dim
    )
    trained = [part for part in (LANGUAGE, *config.decoders) if part not in base.untrained]
    same_language = _same(base.llm, config.llm, ("kind", "id", "file", "senses", "lora_rank", "lora_targets"))
    kept = []
    if LANGUAGE in trained and same_space and same_language and base.heads == config.heads:
        kept.append(LANGUAGE)
    for modality in [part for part in trained if part in base.decoders]:
        slots = base.heads.num_slots.get(modality) == config.heads.num_slots.get(modality)
        if same_space and slots and _same(base.decoders[modality], config.decoders[modality], ("kind", "id", "size")):
            kept.append(modality)
    if same_space:
        kept.append("encoder")
    if base.joint and config.joint and set(config.joint.modalities) <= set(kept):
        kept.append("joint")
    return kept


def _same(a: Any, b: Any, names: Sequence[str]) -> bool:
    """Whether two configs have the same values of these fields."""
    return all(getattr(a, name) == getattr(b, name) for name in names)


def with_untrained(base: CoDi2Config, config: CoDi2Config, weights: bool) -> tuple[CoDi2Config, list[str]]:
    """`config` that names the parts which are not copied as untrained, and the parts that are copied of `base`.

    Args:
        weights: whether `base` has weights; some presets have none.
    Raises ConfigError: a part can only be copied, and does not fit.
    """
    kept = kept_parts(base, config) if weights else []
    if config.encoder.kind == "tiny" and "encoder" not in kept:
        raise ConfigError(
            "the encoder 'tiny' is part of the model 'tiny': give --from tiny, and set neither encoder.* nor "
            "heads.feature_dim"
        )
    for modality, decoder in config.decoders.items():
        if decoder.kind == "tiny" and modality not in kept:
            raise ConfigError(
                f"the {modality} decoder of kind 'tiny' has no weights for these features; leave encoder and heads as "
                f"they are, or set decoders.{modality}.kind=pipeline and its id"
            )
    untrained = tuple(part for part in (LANGUAGE, *config.decoders) if part not in kept)
    return replace(config, untrained=untrained), kept


def exports_of(config: CoDi2Config, settings: Sequence[str]) -> dict[str, Path]:
    """`["audio=runs/audio/export"]` → the folders of trained decoders by modality, and of `joint`.

    Raises ConfigError: the config has no such published decoder, or the folder has no trained weights of one.
    """
    folders = {}
    for setting in settings:
        modality, _, folder = setting.partition("=")
        if modality == JOINT and config.joint is not None:
            if not (Path(folder) / WEIGHTS).is_file():
                raise ConfigError(f"--part {setting!r}: {folder} holds no {WEIGHTS}; name the export of the part joint")
            folders[JOINT] = Path(folder)
            continue
        if modality not in config.decoders or config.decoders[modality].kind != "pipeline":
            known = [name for name, decoder in config.decoders.items() if decoder.kind == "pipeline"]
            raise ConfigError(f"--part {setting!r}: write MODALITY=FOLDER for one of {', '.join(known) or 'none'}")
        if not (Path(folder) / TRAINED).is_file():
            raise ConfigError(f"--part {setting!r}: {folder} holds no {TRAINED}; name the export of a decoder's run")
        folders[modality] = Path(folder)
    return folders


def write_model(
    config: CoDi2Config, out: Path, source: Path | None, kept: Sequence[str], exports: Mapping[str, Path]
) -> None:
    """Writes a folder with the config, the parts `kept` of the folder `source`, and the decoders of `exports`.

    Raises OutputError: `out` exists, or cannot be written.
    """
    if out.exists():
        raise OutputError(f"{out} exists; choose a folder that does not, or delete it")
    with atomic_folder(out) as aside:
        for part in kept if source is not None else ():
            for name in COPIED if part == LANGUAGE else (part,):
                _copy(source / name, aside / name)  # type: ignore[operator]
        for modality, folder in exports.items():
            shutil.copytree(folder, aside / modality, dirs_exist_ok=True)
        write_atomic(aside / "config.json", config.to_json().encode())


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.is_file():
        shutil.copy2(source, target)

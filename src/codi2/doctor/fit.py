"""Checks whether the components of a config fit together, by their own configs on this machine.

Nothing is downloaded, and no weights are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codi2.config import CoDi2Config
from codi2.doctor.find import local_file
from codi2.errors import ConfigError, WeightsError
from codi2.hub import hub_errors

NOT_CHECKED = "is not on this machine and was not checked"
REPO = re.compile(r"[\w.-]+(/[\w.-]+)?")  # names of repos on the hub; the oldest have no owner
ABSENT = f"{{part}} {{source!r}} {NOT_CHECKED} (`hf download {{source}}`)"


def check_fit(config: CoDi2Config) -> Iterator[str]:
    """One sentence for each adaptation of a component that does not fit by itself, and for each that was not checked.

    Raises:
        ConfigError: a component cannot be used; the message names it and the field to set.
        PromptError: the language model's chat template cannot be used.
        WeightsError: a component's own config is damaged.
    """
    yield from _language(config)
    yield from _encoder(config)
    for modality in config.decoders:
        yield from _decoder(config, modality)


def _find_config(field: str, source: str, name: str) -> Path | None:
    """A component's own config; None: it is not on this machine. Raises ConfigError: `source` cannot have one."""
    path = local_file(source, (name,))
    if path is None and (Path(source).expanduser().is_dir() or not REPO.fullmatch(source)):
        fault = f"a folder without {name}" if Path(source).expanduser().is_dir() else "neither a folder nor owner/name"
        raise ConfigError(f"{field} is {source!r}, {fault}; name the folder or repo that holds {name}")
    return path


def _language(config: CoDi2Config) -> Iterator[str]:
    from codi2.llm.backbone import load_tokenizer
    from codi2.prompt.turns import check_template

    if config.llm.kind != "hub":
        return
    source = config.llm.id
    path = _find_config("llm.id", source, "config.json")
    if path is None or local_file(source, ("tokenizer.json", "tokenizer_config.json")) is None:
        yield ABSENT.format(part="the language model", source=source)
        return
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    with hub_errors(f"the language model {source!r}"):
        llm_config = AutoConfig.from_pretrained(path.parent, trust_remote_code=False)
    if type(llm_config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        kind = llm_config.model_type
        raise ConfigError(f"llm.id is {source!r}, a {kind}, which is no causal language model; name one")
    yield from check_template(load_tokenizer(config.llm), system=config.llm.system_prompt is not None)


def _encoder(config: CoDi2Config) -> Iterator[str]:
    from codi2.encode.towers import check_counts, tower_class

    encoder, width = config.encoder, config.heads.feature_dim
    if encoder.kind == "imagebind":
        from codi2.encode.imagebind.network import HUGE

        _check_width("imagebind", HUGE.dim, width)
    if encoder.kind != "towers":
        return
    towers = encoder.towers.items()
    absent = [source for m, source in towers if _find_config(f"encoder.towers.{m}", source, "config.json") is None]
    if absent:
        yield ABSENT.format(part="the encoder", source=absent[0])
        return
    check_counts([tower_class(m, source) for m, source in encoder.towers.items()], encoder.num_features)
    _check_width("towers", sum(_tower_width(source) for source in encoder.towers.values()), width)


def _tower_width(source: str) -> int:
    """The width of a tower's vectors."""
    from transformers import AutoConfig

    path = local_file(source, ("config.json",))
    assert path is not None
    with hub_errors(f"the tower {source!r}"):
        tower_config: Any = AutoConfig.from_pretrained(path.parent, trust_remote_code=False)
    if tower_config.model_type.startswith("siglip"):
        return int(tower_config.vision_config.hidden_size)
    return int(tower_config.projection_dim)


def _check_width(kind: str, width: int, expected: int) -> None:
    if width != expected:
        raise ConfigError(
            f"the encoder {kind!r} gives vectors of {width} numbers, and heads.feature_dim is {expected}; "
            f"set heads.feature_dim={width}"
        )


def _decoder(config: CoDi2Config, modality: str) -> Iterator[str]:
    from codi2.diffuse.families import family_of

    decoder = config.decoders[modality]
    if decoder.kind != "pipeline":
        return
    index = _find_config(f"decoders.{modality}.id", decoder.id, "model_index.json")
    if index is None:
        yield ABSENT.format(part=f"the {modality} decoder", source=decoder.id)
        return
    family, width = family_of(modality, str(index.parent), decoder.id), config.heads.feature_dim
    name = f"the {modality} decoder {decoder.id!r}"
    if modality not in config.untrained:
        return
    if family != "unclip":
        yield f"{name} is conditioned through a head of {width} numbers to its states, which training must teach"
    elif (own := _embedding_width(index.parent)) != width:
        yield f"{name} takes embeddings of {own} numbers, and features of {width} reach it through a linear map, " \
            "which training must teach"  # fmt: skip


def _embedding_width(folder: Path) -> int:
    """The width of unCLIP's embeddings. Raises WeightsError."""
    path = folder / "image_normalizer" / "config.json"
    try:
        return int(json.loads(path.read_text())["embedding_dim"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} does not say how wide embeddings are; fetch the decoder again") from error

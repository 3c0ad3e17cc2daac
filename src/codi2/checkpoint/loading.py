"""Loads the parts of a model from a checkpoint folder, or makes them with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from codi2.checkpoint.language import load_language
from codi2.checkpoint.placing import place_decoder, place_joint
from codi2.config import LANGUAGE, CoDi2Config
from codi2.diffuse.codec import Codec
from codi2.encode.contract import Encoder
from codi2.errors import ConfigError
from codi2.heads.load import load_prior, prior_on_demand
from codi2.hub import is_ours
from codi2.llm.backbone import load_backbone
from codi2.llm.mllm import MLLM
from codi2.placement import ON_CPU, Placement
from codi2.progress import quiet_loading
from codi2.sizes import check_fresh, check_rank, check_size
from codi2.tensors import OnDemand, undrawn_weights

if TYPE_CHECKING:
    from codi2.diffuse.decoder import Decoder
    from codi2.diffuse.joint import JointAttention
    from codi2.heads.prior import Prior


@quiet_loading()
def load_parts(
    config: CoDi2Config, folder: Path | None, placement: Placement = ON_CPU, on_demand: bool = False
) -> dict[str, Any]:
    """The arguments of `CoDi2` except the config, with the trained parts in `folder`; None: with random weights.

    Args:
        on_demand: as for `CoDi2.from_pretrained`; parts with random weights are always made at once.
    Raises as `CoDi2.from_pretrained`.
    """
    trained = LANGUAGE not in config.untrained
    on_demand = on_demand and folder is not None and not config.untrained
    foreign = folder is not None and not is_ours(folder)
    if folder is not None and foreign:
        check_rank(config.llm.lora_rank, folder / "adapter" / "adapter_model.safetensors" if trained else None)
    torch.manual_seed(0)  # random weights, as in `debug`, are the same each time
    encoder = load_encoder(config, folder, on_demand)
    has_weights = folder is not None and trained
    with undrawn_weights() if has_weights and config.llm.kind != "random" else nullcontext():
        backbone = load_backbone(config.llm, placement)  # its adapter is loaded below
    if folder is not None and foreign:
        description = f"the config of {folder}"
        if trained:
            check_size(lambda: MLLM(backbone, config.heads), [folder / "heads.safetensors"], description)
        else:
            check_fresh(lambda: MLLM(backbone, config.heads), description)
    with undrawn_weights() if has_weights else nullcontext():
        mllm = MLLM(backbone, config.heads)
    if folder is not None and trained:
        load_language(mllm, folder)
    load_decoders = _decoders_on_demand if on_demand else _decoders
    decoders, joint = load_decoders(config, folder, placement)
    prior: Prior | OnDemand[Prior] | None
    if on_demand and folder is not None:
        prior = prior_on_demand(config, backbone.width, folder, placement.device)
    else:
        prior = load_prior(config, backbone.width, folder if trained else None)  # it is a part of LANGUAGE
    return {"encoder": encoder, "mllm": mllm, "decoders": decoders, "joint": joint, "prior": prior}


DecoderParts = tuple[Mapping[str, "Decoder"], "JointAttention | OnDemand[JointAttention] | None"]
"""Decoders, and the joint attention between them."""


def _decoders(config: CoDi2Config, folder: Path | None, placement: Placement) -> DecoderParts:
    decoders = {m: load_one_decoder(m, config, folder and folder / m) for m in config.decoders}
    return decoders, load_joint(config, decoders, folder)


def _decoders_on_demand(config: CoDi2Config, folder: Path | None, placement: Placement) -> DecoderParts:
    """The same; each part is loaded and placed when it is first used."""

    def placed(load: Callable[[str], Any], place: Callable[..., None] = place_decoder) -> Callable[[str], Any]:
        def load_and_place(name: str) -> Any:
            with quiet_loading():
                part = load(name).eval().requires_grad_(False)
            place(part, placement)
            return part

        return load_and_place

    decoders = OnDemand(config.decoders, placed(lambda m: load_one_decoder(m, config, folder and folder / m)))
    joint = OnDemand(["joint"], placed(lambda _: load_joint(config, decoders, folder), place_joint))
    return decoders, joint if config.joint else None


DEBUG_NUMBERS = 1_000_000  # most numbers in the features of an encoder of random weights


def load_encoder(config: CoDi2Config, folder: Path | None, on_demand: bool = False) -> Encoder:
    """The frozen encoder, with the trained heads that the folder holds; its trunks may be loaded `on_demand`.

    Raises:
        ConfigError: its vectors have another width than the heads.
        WeightsError: it is missing, damaged, or of another shape.
    """
    encoder = _encoder(config, folder, on_demand)
    if encoder.dim != config.heads.feature_dim:
        raise ConfigError(
            f"the encoder {config.encoder.kind!r} gives vectors of {encoder.dim} numbers, but heads.feature_dim is "
            f"{config.heads.feature_dim}; set heads.feature_dim to {encoder.dim}"
        )
    return encoder


def _encoder(config: CoDi2Config, folder: Path | None, on_demand: bool) -> Encoder:
    if config.encoder.kind == "debug":
        from codi2.encode.debug import DebugEncoder

        if (numbers := config.heads.feature_dim * sum(config.encoder.num_features.values())) > DEBUG_NUMBERS:
            raise ConfigError(
                f"the debug encoder has {numbers:,} numbers, at most {DEBUG_NUMBERS:,} are allowed; lower "
                "heads.feature_dim"
            )
        return DebugEncoder(config.heads.feature_dim, config.encoder.num_features)
    if config.encoder.kind == "tiny" and folder is not None:
        from codi2.encode.tiny import load_tiny

        return load_tiny(folder / "encoder", config.heads.feature_dim, on_demand)
    if config.encoder.kind == "imagebind":
        from codi2.encode import imagebind

        options = config.encoder
        return imagebind.load_encoder(options.id, options.tokenizer, options.num_features, options.norm)
    if config.encoder.kind == "towers":
        from codi2.encode.towers import load_towers

        return load_towers(config.encoder)
    raise ConfigError(
        f"there is no encoder of kind {config.encoder.kind!r} without a checkpoint folder; name a folder or a kind"
    )


def load_joint(config: CoDi2Config, decoders: Mapping[str, Decoder], folder: Path | None) -> JointAttention | None:
    """The layers between the decoders; untrained layers add zero. None: the config has none."""
    if config.joint is None:
        return None
    from codi2.diffuse.joint import JointAttention, joint_attention
    from codi2.weight_files import load_part

    if folder is not None and (folder / "joint").is_dir():
        joint: JointAttention = load_part(JointAttention, folder / "joint")
        return joint
    return joint_attention({m: decoders[m] for m in config.joint.modalities}).eval()


def load_one_decoder(modality: str, config: CoDi2Config, folder: Path | None, codec: Codec | None = None) -> Decoder:
    """The decoder of one modality.

    Args:
        folder: of the decoder, with its trained weights. If it is None or `config.untrained` names the modality: a
            published decoder without training, or random weights.
        codec: replaces the folder's codec, which a training run does not export.
    Raises:
        WeightsError: a part is missing or does not fit.
    """
    options = config.decoders[modality]
    folder = None if modality in config.untrained else folder
    dim = config.heads.feature_dim
    match options.kind:
        case "debug" | "tiny" if folder is not None:
            from codi2.diffuse.load import load_decoder

            return load_decoder(modality, folder, options, codec)
        case "debug":
            from codi2.diffuse.build import debug_decoder

            return debug_decoder(modality, dim, config.heads.num_slots[modality], options)
        case "pipeline":
            from codi2.diffuse.families import load_pipeline
            from codi2.diffuse.load import TRAINED, load_trained

            decoder = load_pipeline(modality, options, dim)
            if folder is not None:
                load_trained(decoder, folder / TRAINED)
            return decoder
    raise ConfigError(
        f"there is no {modality} decoder of kind {options.kind!r} without a checkpoint folder; name a folder or "
        "another kind"
    )

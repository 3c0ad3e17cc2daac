"""What a checkpoint is: a folder with `config.json`, the PEFT adapter, and one safetensors file per trained part.

```
config.json  adapter/  heads.safetensors  prior/  encoder/heads.safetensors  encoder/recall.safetensors
image/…  audio/…  video/…
joint/  joint/video/unet/
```
The folders of decoders are those of `diffuse.load`; a network under `joint/` draws in its decoder's place where several
media are drawn together. Frozen parts are named by the config and fetched by `codi2.hub`. No
pickle is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from codi2.config import LANGUAGE, PRESETS, CoDi2Config, preset
from codi2.diffuse.codec import Codec
from codi2.diffuse.decoder import Decoder, Sampling
from codi2.encode.contract import Encoder
from codi2.errors import ConfigError, WeightsError
from codi2.folders import filled_folder
from codi2.heads.projection import kept_in_bytes
from codi2.heads.recall import FILE, Recall
from codi2.hub import fetch_repo, is_ours, shipped, write_atomic
from codi2.llm.backbone import load_backbone
from codi2.llm.mllm import MLLM
from codi2.placement import ON_CPU, Placement, full, out_of_memory
from codi2.sizes import check_fresh, check_rank, check_size
from codi2.tensors import in_half, read_tensors
from codi2.untrusted import check_folder

if TYPE_CHECKING:
    from codi2.diffuse.joint import JointAttention
    from codi2.heads.prior import Prior
    from codi2.model import CoDi2


def load_parts(config: CoDi2Config, folder: Path | None, placement: Placement = ON_CPU) -> dict[str, Any]:
    """The arguments of `CoDi2` beside the config, with the trained parts in `folder`; None: with random weights.

    Raises as `CoDi2.from_pretrained`.
    """
    taught = LANGUAGE not in config.untrained
    foreign = folder is not None and not is_ours(folder)
    if folder is not None and foreign:
        check_rank(config.llm.lora_rank, folder / "adapter" / "adapter_model.safetensors" if taught else None)
    torch.manual_seed(0)  # fresh parts, as in `debug`, are the same each time
    encoder = load_encoder(config, folder)
    backbone = load_backbone(config.llm, placement)
    if folder is not None and foreign:
        what = f"the config of {folder}"
        if taught:
            check_size(lambda: MLLM(backbone, config.heads), [folder / "heads.safetensors"], what)
        else:
            check_fresh(lambda: MLLM(backbone, config.heads), what)
    mllm = MLLM(backbone, config.heads)
    if folder is not None and taught:
        load_language(mllm, folder)
    decoders = {m: load_one_decoder(m, config, folder and folder / m) for m in config.decoders}
    return {
        "encoder": encoder,
        "mllm": mllm,
        "decoders": decoders,
        "joint": load_joint(config, decoders, folder),
        "joint_networks": load_joint_networks(decoders, folder),
        "recall": load_recall(config, folder),
        "prior": load_prior(config, backbone.width, folder),
    }


def place(model: CoDi2, placement: Placement) -> None:
    """Moves a model where it is to run. With `offload` its big parts stay in main memory until they work.

    Raises:
        DeviceMemoryError: the memory of the device is full. ConfigError: the device cannot hold this model.
    """
    try:
        _move(model, placement)
    except (RuntimeError, AssertionError, AttributeError) as error:
        if out_of_memory(error):
            advice = "load it with --dtype bfloat16, --bits 4 or --offload, or end what else uses the device"
            raise full(error, placement.device, f"{model.config.name} was loaded", advice) from None
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"the model cannot run on device {placement.device!r} with dtype {placement.dtype!r}: {reason}"
        ) from error


def _move(model: CoDi2, placement: Placement) -> None:
    device, dtype = torch.device(placement.device), getattr(torch, placement.dtype)
    model.offload = placement.offload
    for part in (*model.decoders.values(), model.joint_networks):
        part.to(dtype)
    if model.joint is not None:
        torch.nn.Module.to(model.joint, device, dtype)  # diffusers' own warns of what does not concern it
    if model.encoder.in_half:
        model.encoder.to(dtype)
    model.mllm.enter.to(device)
    model.mllm.leave.to(device)
    if model.prior is not None:
        torch.nn.Module.to(model.prior, device)  # in float32, as the projections are
    if not placement.offload:
        for part in (*model.decoders.values(), model.joint_networks):
            part.to(device)
        model.encoder.to(device)
    if not placement.bits and not placement.device_map:  # those are where their loader put them
        model.mllm.backbone.to("cpu" if placement.offload else device)
    if placement.compile:
        for decoder in model.decoders.values():
            decoder.unet.compile()


DEBUG_NUMBERS = 1_000_000  # of the features of an encoder of random weights
REPO = re.compile(r"[\w.-]+/[\w.-]+")  # owner and name on the hub


def locate(name_or_path: str | Path) -> tuple[CoDi2Config, Path | None]:
    """The config that a name or folder stands for, and the folder of its trained parts (None: random weights).

    A name of the form `owner/name` that is no folder is a repo of the hub, as `push_to_hub` wrote it; its files are
    fetched into the hub's own cache.

    Raises:
        ConfigError: neither a preset nor a folder with a config.json.
        OutsideError: the folder holds what is no plain file, or links that lead out of it.
        WeightsError: the hub has no such repo, or cannot be reached.
    """
    name = str(name_or_path)
    folder = shipped(name) if name in PRESETS else Path(name_or_path)
    if not folder.exists() and REPO.fullmatch(name):
        folder = fetch_repo(name)
    if name in ("debug", "paper"):  # all frozen parts are random or come from elsewhere
        return preset(name), None
    if (folder / "config.json").is_file():
        if not is_ours(folder):
            check_folder(folder)
        return CoDi2Config.from_json((folder / "config.json").read_bytes()), folder
    if name in PRESETS:
        raise WeightsError(f"the trained parts of {name!r} are not in this installation: {folder} is missing")
    raise ConfigError(f"{name!r} is neither a preset ({', '.join(PRESETS)}) nor a folder with a config.json")


def load_encoder(config: CoDi2Config, folder: Path | None) -> Encoder:
    """The frozen encoder, with the trained heads that the folder holds.

    Raises:
        ConfigError: its vectors have another width than the heads.
        WeightsError: it is missing, damaged, or of another shape.
    """
    encoder = _encoder(config, folder)
    if encoder.dim != config.heads.feature_dim:
        raise ConfigError(
            f"the encoder {config.encoder.kind!r} gives vectors of {encoder.dim} numbers, and heads.feature_dim is "
            f"{config.heads.feature_dim}; set heads.feature_dim to {encoder.dim}"
        )
    return encoder


def _encoder(config: CoDi2Config, folder: Path | None) -> Encoder:
    if config.encoder.kind == "debug":
        from codi2.encode.debug import DebugEncoder

        if (numbers := config.heads.feature_dim * sum(config.encoder.num_features.values())) > DEBUG_NUMBERS:
            raise ConfigError(
                f"a debug encoder of {numbers:,} numbers is asked for, at most {DEBUG_NUMBERS:,} are made; "
                "lower heads.feature_dim"
            )
        return DebugEncoder(config.heads.feature_dim, config.encoder.num_features)
    if config.encoder.kind == "tiny" and folder is not None:
        from codi2.encode.tiny import TinyEncoder, load_heads, load_trunk

        trunks = {modality: load_trunk(modality) for modality in TinyEncoder.modalities}
        return TinyEncoder(trunks, load_heads(folder / "encoder" / "heads.safetensors", config.heads.feature_dim))
    if config.encoder.kind == "embedded" and folder is not None:
        from codi2.encode.embedded import load_embedded

        return load_embedded(folder / "encoder", config.heads.feature_dim)
    if config.encoder.kind == "imagebind":
        from codi2.encode import imagebind

        chosen = config.encoder
        return imagebind.load_encoder(chosen.id, chosen.tokenizer, chosen.num_features, chosen.norm)
    if config.encoder.kind == "towers":
        from codi2.encode.towers import load_towers

        return load_towers(config.encoder)
    raise ConfigError(f"there is no encoder of kind {config.encoder.kind!r} in this version")


def load_language(mllm: MLLM, folder: Path) -> None:
    """Adapter and projections from a checkpoint folder.

    Raises:
        WeightsError: a file is missing or holds other tensors.
    """
    mllm.backbone.load_adapter(folder / "adapter")
    state = {name: value.float() for name, value in read_tensors(folder / "heads.safetensors").items()}
    fresh = {
        f"{part}.{name}": value
        for part in ("enter", "leave")
        for name, value in getattr(mllm, part).state_dict().items()
    }
    odd = sorted(state.keys() ^ fresh.keys()) or [n for n in state if state[n].shape != fresh[n].shape]
    if odd:
        raise WeightsError(f"{folder / 'heads.safetensors'} does not fit the config: the tensor {odd[0]} differs")
    for part in ("enter", "leave"):
        tensors = {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}
        getattr(mllm, part).load_state_dict(tensors)


def save_language(mllm: MLLM, folder: Path) -> None:
    """Adapter and projections, fp16, as `load_language` reads them."""
    from safetensors.torch import save

    mllm.backbone.save_adapter(folder / "adapter")
    state = {f"{part}.{n}": v for part in ("enter", "leave") for n, v in getattr(mllm, part).state_dict().items()}
    write_atomic(folder / "heads.safetensors", save(in_half(state, kept_in_bytes(state, mllm.leave))))
    adapter = folder / "adapter" / "adapter_model.safetensors"
    write_atomic(adapter, save(in_half(read_tensors(adapter))))


def load_recall(config: CoDi2Config, folder: Path | None) -> Recall | None:
    """Features of training items; None: no decoder asks for them, or nothing was trained.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    if folder is None or not any(decoder.recall for decoder in config.decoders.values()):
        return None
    return Recall.load(folder / "encoder" / FILE)


def load_prior(config: CoDi2Config, width: int, folder: Path | None) -> Prior | None:
    """The prior in `folder`, or a small one of random weights; None: the config has none.

    Args:
        width: W of the language model.
    Raises:
        WeightsError: it is missing, damaged, or of another model.
    """
    if config.heads.prior is None:
        return None
    from codi2.heads.prior import Prior, random_prior

    dim, slots = config.heads.feature_dim, max(config.encoder.num_features.values())
    if folder is None:
        return random_prior(dim, width, slots)
    from codi2.weight_files import load_part

    prior: Prior = load_part(Prior, folder / "prior")
    own = prior.config
    if (own["dim"], own["state_dim"]) != (dim, width) or own["num_slots"] < slots:
        raise WeightsError(
            f"the prior in {folder} is for features of width {own['dim']}, states of {own['state_dim']} and "
            f"{own['num_slots']} slots; the model has {dim}, {width} and {slots}"
        )
    return prior


def save(model: CoDi2, folder: Path) -> None:
    """See `CoDi2.save_pretrained`. Raises OutputError: the disk is full; a model that was there is as it was."""
    with filled_folder(folder, "config.json") as aside:
        _save(model, aside)


def _save(model: CoDi2, folder: Path) -> None:
    from codi2.diffuse.load import save_decoder

    save_language(model.mllm, folder)
    if model.config.encoder.kind == "tiny":
        from codi2.encode.tiny import TinyEncoder
        from codi2.weight_files import export_tensors

        assert isinstance(model.encoder, TinyEncoder)
        export_tensors(model.encoder.heads.state_dict(), folder / "encoder" / "heads.safetensors", {})
    if model.config.encoder.kind == "embedded":
        from codi2.encode.embedded import EmbeddedEncoder, save_embedded

        assert isinstance(model.encoder, EmbeddedEncoder)
        save_embedded(model.encoder, folder / "encoder")
    if model.recall is not None:
        model.recall.save(folder / "encoder" / FILE)
    for modality, decoder in model.decoders.items():
        save_decoder(decoder, folder / modality)
    if model.prior is not None:
        from codi2.weight_files import export_module

        export_module(model.prior, folder / "prior", {})
    if model.joint is not None:
        from codi2.weight_files import export_module

        export_module(model.joint, folder / "joint", {})
        for modality, network in model.joint_networks.items():
            export_module(network, folder / "joint" / modality / "unet", {})
    write_atomic(folder / "config.json", model.config.with_trained(*model.config.untrained).to_json().encode())


def load_joint(config: CoDi2Config, decoders: Mapping[str, Decoder], folder: Path | None) -> JointAttention | None:
    """The layers between the decoders; before they are trained they add nothing. None: the config has none."""
    if config.joint is None:
        return None
    from codi2.diffuse.joint import JointAttention, joint_attention
    from codi2.weight_files import load_part

    if folder is not None and (folder / "joint").is_dir():
        joint: JointAttention = load_part(JointAttention, folder / "joint")
        return joint
    return joint_attention({m: decoders[m] for m in config.joint.modalities}).eval()


def load_joint_networks(decoders: Mapping[str, Decoder], folder: Path | None) -> dict[str, torch.nn.Module]:
    """Modality → the network that draws in its decoder's place where several media are drawn together, if it has one.

    Raises:
        WeightsError: its weights are damaged, or of another network.
    """
    from codi2.weight_files import load_part

    folders = {m: folder / "joint" / m / "unet" for m in decoders} if folder is not None else {}
    return {m: load_part(type(decoders[m].unet), path) for m, path in folders.items() if path.is_dir()}


def load_one_decoder(modality: str, config: CoDi2Config, folder: Path | None, codec: Codec | None = None) -> Decoder:
    """The decoder of one modality.

    Args:
        folder: its own, with what was trained of it; None, or named by `config.untrained`: a published decoder as it
            is, or random weights.
        codec: in place of the folder's, which a training run does not export.
    Raises:
        WeightsError: a part is missing or does not fit.
    """
    chosen = config.decoders[modality]
    folder = None if modality in config.untrained else folder
    sampling = Sampling(
        chosen.num_inference_steps,
        chosen.guidance_scale,
        chosen.source_guidance_scale,
        chosen.noise_level,
        chosen.feature_norm,
        chosen.negative_in_both,
        chosen.detail,
        chosen.motion_scale,
        chosen.first_frame,
        chosen.kept,
    )
    dim = config.heads.feature_dim
    match chosen.kind:
        case "debug" | "tiny" if folder is not None:
            from codi2.diffuse.load import load_decoder

            return load_decoder(modality, folder, sampling, codec)
        case "debug":
            from codi2.diffuse.build import debug_decoder

            return debug_decoder(modality, dim, config.heads.num_slots[modality], sampling)
        case "pipeline":
            from codi2.diffuse.families import load_pipeline
            from codi2.diffuse.load import TRAINED, load_trained

            decoder = load_pipeline(modality, chosen, dim, sampling)
            if folder is not None:
                load_trained(decoder, folder / TRAINED)
            return decoder
    raise ConfigError(f"there is no {modality} decoder of kind {chosen.kind!r} in this version")

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

import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from codi2.config import LANGUAGE, CoDi2Config
from codi2.diffuse.codec import Codec
from codi2.encode.contract import Encoder
from codi2.errors import ConfigError, WeightsError
from codi2.folders import filled_folder
from codi2.heads.load import load_prior, loaded_prior, prior_on_demand
from codi2.heads.projection import kept_in_bytes
from codi2.heads.recall import FILE, Recall
from codi2.hub import is_ours, push_folder, write_atomic
from codi2.llm.backbone import load_backbone
from codi2.llm.mllm import MLLM
from codi2.locate import locate as locate  # whoever loads parts asks here where they are
from codi2.placement import ON_CPU, Placement, full, out_of_memory
from codi2.progress import quiet_loading
from codi2.sizes import check_fresh, check_rank, check_size
from codi2.tensors import OnDemand, in_half, read_tensors, undrawn_weights

if TYPE_CHECKING:
    from codi2.diffuse.decoder import Decoder
    from codi2.diffuse.joint import JointAttention
    from codi2.heads.prior import Prior
    from codi2.model import CoDi2


@quiet_loading()
def load_parts(
    config: CoDi2Config, folder: Path | None, placement: Placement = ON_CPU, on_demand: bool = False
) -> dict[str, Any]:
    """The arguments of `CoDi2` beside the config, with the trained parts in `folder`; None: with random weights.

    Args:
        on_demand: as for `CoDi2.from_pretrained`; parts of random weights are always made at once.
    Raises as `CoDi2.from_pretrained`.
    """
    taught = LANGUAGE not in config.untrained
    on_demand = on_demand and folder is not None and not config.untrained
    foreign = folder is not None and not is_ours(folder)
    if folder is not None and foreign:
        check_rank(config.llm.lora_rank, folder / "adapter" / "adapter_model.safetensors" if taught else None)
    torch.manual_seed(0)  # fresh parts, as in `debug`, are the same each time
    encoder = load_encoder(config, folder, on_demand)
    loads = folder is not None and taught
    with undrawn_weights() if loads and config.llm.kind != "random" else nullcontext():
        backbone = load_backbone(config.llm, placement)  # its adapter is loaded below
    if folder is not None and foreign:
        what = f"the config of {folder}"
        if taught:
            check_size(lambda: MLLM(backbone, config.heads), [folder / "heads.safetensors"], what)
        else:
            check_fresh(lambda: MLLM(backbone, config.heads), what)
    with undrawn_weights() if loads else nullcontext():
        mllm = MLLM(backbone, config.heads)
    if folder is not None and taught:
        load_language(mllm, folder)
    decoders, networks, joint = (_drawing_on_demand if on_demand else _drawing)(config, folder, placement)
    prior: Prior | OnDemand[Prior] | None
    if on_demand and folder is not None:
        prior = prior_on_demand(config, backbone.width, folder, placement.device)
    else:
        prior = load_prior(config, backbone.width, folder)
    return {
        "encoder": encoder,
        "mllm": mllm,
        "decoders": decoders,
        "joint": joint,
        "joint_networks": networks,
        "recall": load_recall(config, folder),
        "prior": prior,
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
    for parts in (model.decoders, model.joint_networks):
        if not isinstance(parts, OnDemand):  # which places what it loads
            for part in parts.values():
                _place_decoder(part, placement)
    if model.joint is not None and not isinstance(model.joint, OnDemand):
        _place_joint(model.joint, placement)
    if model.encoder.in_half:
        model.encoder.to(dtype)
    model.mllm.input_projection.to(device)
    model.mllm.output_projection.to(device)
    if model.prior is not None and not isinstance(model.prior, OnDemand):
        torch.nn.Module.to(model.prior, device)  # in float32, as the projections are
    if not placement.offload:
        model.encoder.to(device)
    if not placement.bits and not placement.device_map:  # those are where their loader put them
        model.mllm.backbone.to("cpu" if placement.offload else device)


def _place_decoder(part: torch.nn.Module, placement: Placement) -> None:
    """Of a decoder, or of a network that draws in its place."""
    torch.nn.Module.to(part, getattr(torch, placement.dtype))  # diffusers' own warns of what does not concern it
    if not placement.offload:
        torch.nn.Module.to(part, torch.device(placement.device))
    unet = getattr(part, "unet", None)
    if placement.compile and isinstance(unet, torch.nn.Module):
        unet.compile()


def _place_joint(joint: torch.nn.Module, placement: Placement) -> None:
    """Of the layers between decoders, which are small."""
    torch.nn.Module.to(joint, torch.device(placement.device), getattr(torch, placement.dtype))


DecoderParts = tuple[
    Mapping[str, "Decoder"], Mapping[str, torch.nn.Module], "JointAttention | OnDemand[JointAttention] | None"
]
"""What draws: decoders, the networks that draw in their place beside others, and the layers between these."""


def _drawing(config: CoDi2Config, folder: Path | None, placement: Placement) -> DecoderParts:
    decoders = {m: load_one_decoder(m, config, folder and folder / m) for m in config.decoders}
    return decoders, load_joint_networks(decoders, folder), load_joint(config, decoders, folder)


def _drawing_on_demand(config: CoDi2Config, folder: Path | None, placement: Placement) -> DecoderParts:
    """Each part is loaded and placed when it is first used."""

    def ready(load: Callable[[str], Any], place: Callable[..., None] = _place_decoder) -> Callable[[str], Any]:
        def part(name: str) -> Any:
            with quiet_loading():
                loaded = load(name).eval().requires_grad_(False)
            place(loaded, placement)
            return loaded

        return part

    decoders = OnDemand(config.decoders, ready(lambda m: load_one_decoder(m, config, folder and folder / m)))
    beside = [m for m in config.decoders if folder and (folder / "joint" / m / "unet").is_dir()]
    networks = OnDemand(beside, ready(lambda m: load_joint_networks({m: decoders[m]}, folder)[m]))
    joint = OnDemand(["joint"], ready(lambda _: load_joint(config, decoders, folder), _place_joint))
    return decoders, networks, joint if config.joint else None


DEBUG_NUMBERS = 1_000_000  # of the features of an encoder of random weights


def load_encoder(config: CoDi2Config, folder: Path | None, on_demand: bool = False) -> Encoder:
    """The frozen encoder, with the trained heads that the folder holds; its trunks may be loaded `on_demand`.

    Raises:
        ConfigError: its vectors have another width than the heads.
        WeightsError: it is missing, damaged, or of another shape.
    """
    encoder = _encoder(config, folder, on_demand)
    if encoder.dim != config.heads.feature_dim:
        raise ConfigError(
            f"the encoder {config.encoder.kind!r} gives vectors of {encoder.dim} numbers, and heads.feature_dim is "
            f"{config.heads.feature_dim}; set heads.feature_dim to {encoder.dim}"
        )
    return encoder


def _encoder(config: CoDi2Config, folder: Path | None, on_demand: bool) -> Encoder:
    if config.encoder.kind == "debug":
        from codi2.encode.debug import DebugEncoder

        if (numbers := config.heads.feature_dim * sum(config.encoder.num_features.values())) > DEBUG_NUMBERS:
            raise ConfigError(
                f"a debug encoder of {numbers:,} numbers is asked for, at most {DEBUG_NUMBERS:,} are made; "
                "lower heads.feature_dim"
            )
        return DebugEncoder(config.heads.feature_dim, config.encoder.num_features)
    if config.encoder.kind == "tiny" and folder is not None:
        from codi2.encode.tiny import TinyEncoder, load_heads, trunks_on_demand

        trunks: Mapping[str, Any] = trunks_on_demand() if on_demand else dict(trunks_on_demand())
        return TinyEncoder(trunks, load_heads(folder / "encoder" / "heads.safetensors", config.heads.feature_dim))
    if config.encoder.kind == "embedded" and folder is not None:
        from codi2.encode.embedded import load_embedded

        return load_embedded(folder / "encoder", config.heads.feature_dim, on_demand)
    if config.encoder.kind == "imagebind":
        from codi2.encode import imagebind

        chosen = config.encoder
        return imagebind.load_encoder(chosen.id, chosen.tokenizer, chosen.num_features, chosen.norm)
    if config.encoder.kind == "towers":
        from codi2.encode.towers import load_towers

        return load_towers(config.encoder)
    raise ConfigError(f"there is no encoder of kind {config.encoder.kind!r} in this version")


PROJECTIONS = ("input_projection", "output_projection")
EARLIER = {"enter.": "input_projection.", "leave.": "output_projection."}
"""Names of projections in earlier checkpoints, which load."""


def _renamed(name: str) -> str:
    earlier = next((prefix for prefix in EARLIER if name.startswith(prefix)), "")
    return EARLIER.get(earlier, "") + name.removeprefix(earlier)


def load_language(mllm: MLLM, folder: Path) -> None:
    """Adapter and projections from a checkpoint folder.

    Raises:
        WeightsError: a file is missing or holds other tensors.
    """
    mllm.backbone.load_adapter(folder / "adapter")
    state = {_renamed(name): value.float() for name, value in read_tensors(folder / "heads.safetensors").items()}
    fresh = {
        f"{part}.{name}": value for part in PROJECTIONS for name, value in getattr(mllm, part).state_dict().items()
    }
    odd = sorted(state.keys() ^ fresh.keys()) or [n for n in state if state[n].shape != fresh[n].shape]
    if odd:
        raise WeightsError(f"{folder / 'heads.safetensors'} does not fit the config: the tensor {odd[0]} differs")
    for part in PROJECTIONS:
        tensors = {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}
        getattr(mllm, part).load_state_dict(tensors)


def save_language(mllm: MLLM, folder: Path) -> None:
    """Adapter and projections, fp16, as `load_language` reads them."""
    from safetensors.torch import save

    mllm.backbone.save_adapter(folder / "adapter")
    state = {f"{part}.{n}": v for part in PROJECTIONS for n, v in getattr(mllm, part).state_dict().items()}
    write_atomic(folder / "heads.safetensors", save(in_half(state, kept_in_bytes(state, mllm.output_projection))))
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
    if (prior := loaded_prior(model.prior)) is not None:
        from codi2.weight_files import export_module

        export_module(prior, folder / "prior", {})
    joint = model.joint["joint"] if isinstance(model.joint, OnDemand) else model.joint
    if joint is not None:
        from codi2.weight_files import export_module

        export_module(joint, folder / "joint", {})
        for modality, network in model.joint_networks.items():
            export_module(network, folder / "joint" / modality / "unet", {})
    write_atomic(folder / "config.json", model.config.with_trained(*model.config.untrained).to_json().encode())


def push(model: CoDi2, repo: str, private: bool, message: str) -> str:
    """`CoDi2.push_to_hub`."""
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder))
        return push_folder(Path(folder), repo, private, message)


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
    from codi2.diffuse.decoder import Sampling

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

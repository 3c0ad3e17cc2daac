"""Loads and saves decoders as folders in diffusers' layout.

```
image/ unet/ vae/ conditioner/ scheduler/
audio/ unet/ vae/ conditioner/ scheduler/ vocoder/
video/ unet/ conditioner/ scheduler/
```
A decoder of clips without a vae uses that of `image/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from codi2.config import DecoderConfig
from codi2.diffuse.build import FPS, FRAMES, SIZES
from codi2.diffuse.clip import ClipCodec
from codi2.diffuse.codec import AudioCodec, Codec, ImageCodec
from codi2.diffuse.conditioner import Conditioner
from codi2.diffuse.decoder import Decoder
from codi2.errors import WeightsError
from codi2.sizes import check_layers, check_numbers, check_size
from codi2.tensors import read_tensors
from codi2.untrusted import check_folder, one_sentence, parse_json
from codi2.weight_files import check_loaded, export_module, export_tensors, load_part


def load_codec(modality: str, folder: Path) -> Codec:
    """The codec of a decoder folder, frozen, fp32. A missing vocoder is an error only when a waveform is decoded."""
    vae_folder = folder / "vae"
    if modality == "video" and not vae_folder.is_dir():  # frames are pictures
        vae_folder = folder.parent / "image" / "vae"
    from diffusers import AutoencoderKL

    vae = load_part(AutoencoderKL, vae_folder)
    if modality == "image":
        return ImageCodec(vae)
    if modality == "video":
        return clip_codec(vae)
    from codi2.diffuse.vocoder import ISTFTVocoder
    from codi2.media.mel import MelSpectrogram

    has_vocoder = (folder / "vocoder").is_dir()
    return AudioCodec(vae, MelSpectrogram(), load_part(ISTFTVocoder, folder / "vocoder") if has_vocoder else None)


def clip_codec(vae: Any) -> ClipCodec:
    """The codec of `tiny`'s clips on an autoencoder of their frames."""
    return ClipCodec(vae, FRAMES, *SIZES["video"], fps=FPS, padded=True)


NETWORKS = {"image": "UNet2DConditionModel", "audio": "AudioLDM2UNet2DConditionModel", "video": "UNet3DConditionModel"}
"""Classes of diffusers, by modality; each is imported when it is used."""


def load_decoder(modality: str, folder: Path, config: DecoderConfig, codec: Codec | None = None) -> Decoder:
    """The decoder in `folder`, frozen, fp32; `codec` replaces the folder's own.

    Raises:
        WeightsError: a part is missing or does not fit its config.
    """
    import diffusers
    from diffusers import DPMSolverMultistepScheduler

    unet = load_part(getattr(diffusers, NETWORKS[modality]), folder / "unet")
    conditioner = load_part(Conditioner, folder / "conditioner")
    with one_sentence(f"the scheduler in {folder}"):
        check_numbers(DPMSolverMultistepScheduler.load_config(folder / "scheduler"), f"the scheduler in {folder}")
        scheduler = DPMSolverMultistepScheduler.from_pretrained(folder / "scheduler")
    codec = codec or load_codec(modality, folder)
    return Decoder(unet, conditioner, codec, scheduler, config)


def save_decoder(decoder: Decoder, folder: Path, with_network: bool = False) -> None:
    """Writes a decoder as `load_decoder` reads it, fp16; of a published one, only the trained tensors.

    Args:
        with_network: whether the network of a published decoder was trained too, and not its head alone.
    """
    if not isinstance(decoder.conditioner, Conditioner):
        export_tensors(trained_state(decoder, with_network), folder / TRAINED)
        return

    parts = {"unet": decoder.unet, "conditioner": decoder.conditioner, "vae": decoder.codec.vae}
    if isinstance(decoder.codec, AudioCodec):
        parts["vocoder"] = decoder.codec.vocoder
    for name, part in parts.items():
        if part is None:  # the codec of sounds in training has no vocoder
            continue
        export_module(part, folder / name)
    decoder.scheduler.save_pretrained(folder / "scheduler")


def load_parts(source: str | Path, classes: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Parts of a published pipeline, each from the subfolder of its name, in eval mode.

    Args:
        source: folder or hub repo in diffusers' layout.
        classes: name → class of diffusers or transformers.

    Raises:
        WeightsError: a part is missing, or its tensors are not exactly those of its config.
    """
    from diffusers import ModelMixin
    from torch import nn

    from codi2.hub import hub_errors

    parts: dict[str, Any] = {}
    for name, part_class in classes.items():
        description = f"{name} of {str(source)!r}"
        with hub_errors(description):
            if Path(source).is_dir():
                _check_part(part_class, Path(source) / name, description)
            if issubclass(part_class, nn.Module):
                key = "torch_dtype" if issubclass(part_class, ModelMixin) else "dtype"  # diffusers', transformers'
                module, info = part_class.from_pretrained(
                    source, subfolder=name, output_loading_info=True, **{key: dtype}
                )
                check_loaded(description, info)
                parts[name] = module.eval().requires_grad_(False)
            else:
                parts[name] = part_class.from_pretrained(source, subfolder=name)
    return parts


def _check_part(part_class: Any, folder: Path, description: str) -> None:
    """Raises WeightsError: a part's config needs more numbers than its weight files hold; OutsideError: see
    `check_folder`."""
    from diffusers import ModelMixin
    from torch import nn

    check_folder(folder)
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if issubclass(part_class, ModelMixin):
        check_size(lambda: part_class.from_config(part_class.load_config(folder)), weights, description)
    elif issubclass(part_class, nn.Module):
        check_layers(parse_json((folder / "config.json").read_bytes()), weights, description)
        check_size(lambda: part_class(part_class.config_class.from_pretrained(folder)), weights, description)


TRAINED = "trained.safetensors"
"""The trained tensors of a published decoder; the model's config names its frozen parts."""


def trained_state(decoder: Decoder, with_network: bool = False) -> dict[str, Any]:
    """The trained tensors of a published decoder: its head and the input convolution, which reads a source's latents,
    or, `with_network`, the head and the whole network."""
    state = {f"conditioner.{n}": v for n, v in decoder.conditioner.state_dict().items() if _is_head(n)}
    if with_network:
        # under LoRA the weights of a linear map are its base layer's
        network_state = {
            n.replace(".base_layer.", "."): v for n, v in decoder.unet.state_dict().items() if ".lora_" not in n
        }
        return state | {f"unet.{n}": v for n, v in network_state.items()}
    if hasattr(decoder.unet, "conv_in"):
        state |= {f"unet.conv_in.{n}": v for n, v in decoder.unet.conv_in.state_dict().items()}
    return state


def trained_modules(decoder: Decoder) -> list[Any]:
    """The modules of `trained_state`; none for a decoder that is trained as a whole."""
    if isinstance(decoder.conditioner, Conditioner):
        return []
    heads = [module for name, module in decoder.conditioner.named_children() if _is_head(name)]
    return [*heads, decoder.unet.conv_in] if hasattr(decoder.unet, "conv_in") else heads


def has_network(folder: Path) -> bool:
    """Whether the trained tensors of a published decoder in `folder` hold its whole network, and not its head alone."""
    from safetensors import safe_open

    if not (folder / TRAINED).is_file():
        return False
    with safe_open(folder / TRAINED, "pt") as file:
        names = file.keys()
    return any(name.startswith("unet.") and not name.startswith("unet.conv_in.") for name in names)


def has_head(decoder: Decoder) -> bool:
    """Whether features reach a published network through a head, which must be trained."""
    return not isinstance(decoder.conditioner, Conditioner) and any(
        _is_head(name) for name, _ in decoder.conditioner.named_children()
    )


def load_trained(decoder: Decoder, path: Path) -> None:
    """Loads the tensors of `trained_state`. Raises WeightsError: the file is missing or of another decoder."""
    tensors, parameters = read_tensors(path), trained_state(decoder)
    if tensors.keys() - parameters.keys():
        parameters = trained_state(decoder, with_network=True)
    differing = sorted(tensors.keys() ^ parameters.keys()) or [
        n for n in tensors if tensors[n].shape != parameters[n].shape
    ]
    if differing:
        raise WeightsError(
            f"{path} belongs to another decoder: the tensor {differing[0]} is missing, unknown or of another shape; "
            "name the decoder that it was trained with"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)


def _is_head(name: str) -> bool:
    return name.split(".")[0] in ("head", "pooled")


def widened(unet: Any) -> Any:
    """A published network with input channels for a source's latents after the noisy ones (section 5.1). Their weights
    are zero and all others unchanged, so its output is the same until the new weights are trained."""
    old = unet.conv_in
    if unet.config.in_channels != unet.config.out_channels:
        return unet
    wide = type(old)(
        2 * old.in_channels, old.out_channels, old.kernel_size, padding=old.padding, device=old.weight.device
    ).to(old.weight.dtype)
    with torch.no_grad():
        wide.weight.zero_()
        wide.weight[:, : old.in_channels] = old.weight
        wide.bias.copy_(old.bias)
    unet.conv_in = wide.requires_grad_(old.weight.requires_grad)
    unet.register_to_config(in_channels=2 * old.in_channels)
    return unet

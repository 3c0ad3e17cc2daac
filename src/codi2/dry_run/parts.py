"""The components of `paper` at their published sizes, without weights.

The sizes of the published configs are copied here, so that the preset can be built, counted and run without the
weights. With the weights, the configs beside them are used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Run = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Component:
    """A component.

    `build` makes it on the current device. `run` calls it once as generation does, or its `slice`, where it has one: a
    few layers of the language model, whose layers are all alike.
    """

    name: str
    role: str
    build: Callable[[], nn.Module]
    published: float | None  # number of parameters by its authors; None: they give none
    source: str  # of this number, and what it counts
    run: Run | None = None
    slice: Callable[[], nn.Module] | None = None
    slice_name: str = "whole"  # of the module that is run
    calls: int = 1  # of `run` in one generation


def imagebind() -> nn.Module:
    from codi2.encode.imagebind.network import ImageBind

    return ImageBind()


def llama(layers: int = 32) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32_000,
            hidden_size=4096,
            intermediate_size=11_008,
            num_hidden_layers=layers,
            num_attention_heads=32,
            num_key_value_heads=32,
            max_position_embeddings=4096,
            tie_word_embeddings=False,
        )
    )


def unclip_unet() -> nn.Module:
    from diffusers import UNet2DConditionModel

    from codi2.diffuse.load import widened

    return widened(
        UNet2DConditionModel(
            sample_size=96,
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=2048,
        )
    )


def clip_text() -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=23,
            num_attention_heads=16,
            hidden_act="gelu",
            projection_dim=512,
        )
    )


def picture_vae() -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=768,
    )


def audio_unet() -> nn.Module:
    from diffusers import AudioLDM2UNet2DConditionModel

    from codi2.diffuse.load import widened

    return widened(
        AudioLDM2UNet2DConditionModel(
            sample_size=128,
            in_channels=8,
            out_channels=8,
            block_out_channels=(128, 256, 384, 640),
            down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * 3),
            up_block_types=(*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"),
            cross_attention_dim=((None, 768, 1024),) * 4,
        )
    )


def t5_encoder() -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=32_128,
            d_model=1024,
            d_ff=2816,
            num_layers=24,
            num_heads=16,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
        )
    )


def audio_vae() -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(128, 256, 512),
        layers_per_block=2,
        latent_channels=8,
    )


def vocoder() -> nn.Module:
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    return SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=64,
            sampling_rate=16_000,
            upsample_initial_channel=1024,
            upsample_rates=(5, 4, 2, 2, 2),
            upsample_kernel_sizes=(16, 16, 8, 4, 4),
            resblock_kernel_sizes=(3, 7, 11),
            resblock_dilation_sizes=((1, 3, 5),) * 3,
            normalize_before=False,
        )
    )


def video_unet() -> nn.Module:
    from diffusers import UNet3DConditionModel

    from codi2.diffuse.load import widened

    return widened(UNet3DConditionModel(sample_size=32, cross_attention_dim=1024, attention_head_dim=64))


def _encode(model: Any) -> Tensor:
    """One item of each modality."""
    from codi2.encode.imagebind.network import INPUTS

    vectors = []
    for modality, shape in INPUTS.items():
        sample = torch.zeros(1, *shape, dtype=torch.long) if modality == "text" else torch.randn(1, *shape)
        if modality == "text":
            sample[0, :3] = torch.tensor([49_406, 320, 49_407])
        vectors.append(model(modality, _like(sample, model))[0])
    return torch.cat(vectors)


def _read(model: Any) -> Tensor:
    """64 positions, as `inputs_embeds`."""
    embeddings = _like(torch.randn(1, 64, 4096) * 0.02, model)
    logits: Tensor = model(inputs_embeds=embeddings).logits
    return logits


def _picture_step(model: Any) -> Tensor:
    condition = {"encoder_hidden_states": torch.randn(1, 77, 1024), "class_labels": torch.randn(1, 2048)}
    return _denoise(model, torch.randn(1, 8, 96, 96), condition)


def _sound_step(model: Any) -> Tensor:
    condition = {
        "encoder_hidden_states": torch.randn(1, 8, 768),
        "encoder_hidden_states_1": torch.randn(1, 16, 1024),
        "encoder_attention_mask_1": torch.ones(1, 16, dtype=torch.long),
    }
    return _denoise(model, torch.randn(1, 16, 256, 16), condition)


def _clip_step(model: Any) -> Tensor:
    return _denoise(model, torch.randn(1, 8, 24, 40, 72), {"encoder_hidden_states": torch.randn(1, 77, 1024)})


def _denoise(model: Any, latents: Tensor, condition: dict[str, Tensor]) -> Tensor:
    t = _like(torch.tensor([500]), model)
    prediction: Tensor = model(
        _like(latents, model), t, **{name: _like(value, model) for name, value in condition.items()}
    ).sample
    return prediction


def _like(value: Tensor, model: Any) -> Tensor:
    """A tensor on the model's device, which may be meta, and in its precision."""
    parameter = next(model.parameters())
    return value.to(parameter.device, parameter.dtype if value.is_floating_point() else None)


# calls: steps × branches of guidance. Appendix B.1 keeps 50 steps; the fidelity path has three branches, others two
COMPONENTS = (
    Component(
        "imagebind", "encoder", imagebind, 1_200_781_057, "its published code, built at its published sizes", _encode
    ),
    Component(
        "llama-2-7b-chat", "language model", llama, 6_738_415_616, "its model card", _read,
        slice=lambda: llama(2), slice_name="2 layers",
    ),
    Component(
        "unclip-unet", "image: network", unclip_unet, 865_910_724 + 4_262_400 + 11_520,
        "Stable Diffusion 2.1's, with a class embedding of 2,048 and four channels for a source",
        _picture_step, calls=50 * 3,
    ),
    Component("clip-text", "image, video: words", clip_text, 340_387_840, "Stable Diffusion 2's text encoder"),
    Component("picture-vae", "image, video: codec", picture_vae, 83_653_863, "Stable Diffusion's autoencoder"),
    Component(
        "audioldm2-unet", "audio: network", audio_unet, 346e6, "346M in AudioLDM 2's paper", _sound_step, calls=200 * 3
    ),
    Component("flan-t5-large", "audio: words", t5_encoder, 341_231_104, "the encoder's half of Flan-T5-large"),
    Component("audio-vae", "audio: codec", audio_vae, None, "no figure published"),
    Component("hifigan", "audio: vocoder", vocoder, None, "no figure published"),
    Component(
        "zeroscope-unet", "video: network", video_unet, 1.41e9, "1.41B of the 1.7B of ModelScope's card",
        _clip_step, calls=50 * 2,
    ),
)  # fmt: skip
BY_NAME = {component.name: component for component in COMPONENTS}


def count(component: Component) -> int:
    """The number of parameters, counted on the meta device without memory."""
    with torch.device("meta"):
        module = component.build()
    return sum(p.numel() for p in {id(p): p for p in module.parameters()}.values())


def flops(component: Component) -> float:
    """Floating-point operations of one `run`, counted on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    assert component.run is not None
    with torch.device("meta"):
        module = component.build()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        component.run(module)
    return float(counter.get_total_flops())

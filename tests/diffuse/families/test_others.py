"""Published decoders other than the paper's: replies from tiny random pipelines, parity with them, a training step."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from codi2.config import DecoderConfig
from codi2.diffuse.decoder import Decoder
from codi2.diffuse.families import load_pipeline
from codi2.diffuse.process import Cosine, Discrete, Flow
from codi2.diffuse.sampling import SampleOptions, seeded_noise
from codi2.errors import ConfigError
from codi2.prompt.parts import Audio, Image, Video

from .published import vae

DIM, STEPS, SCALE, SEEDS = 16, 3, 4.0, [3, 4]


def sdxl() -> dict[str, Any]:
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=6 * 8 + 10,
        cross_attention_dim=12,
    )
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, steps_offset=1, beta_schedule="scaled_linear", timestep_spacing="leading"
    )
    return {"unet": unet, "vae": vae(scaling_factor=0.13025, sample_size=16), "scheduler": scheduler}


def stable_audio() -> dict[str, Any]:
    from diffusers import AutoencoderOobleck, CosineDPMSolverMultistepScheduler, StableAudioDiTModel
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    return {
        "transformer": StableAudioDiTModel(
            sample_size=16,
            in_channels=3,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            num_key_value_attention_heads=2,
            out_channels=3,
            cross_attention_dim=8,
            time_proj_dim=8,
            global_states_input_dim=16,
            cross_attention_input_dim=8,
        ),
        "vae": AutoencoderOobleck(
            encoder_hidden_size=6,
            downsampling_ratios=[1, 2],
            decoder_channels=3,
            decoder_input_channels=3,
            audio_channels=2,
            channel_multiples=[2, 4],
            sampling_rate=16,
        ),
        "projection_model": StableAudioProjectionModel(8, 8, 0, 100),
        "scheduler": CosineDPMSolverMultistepScheduler(solver_order=2, sigma_data=1.0, prediction_type="v_prediction"),
    }


def wan() -> dict[str, Any]:
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel

    return {
        "transformer": WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=12,
            freq_dim=16,
            ffn_dim=16,
            num_layers=1,
            rope_max_seq_len=32,
        ),
        "vae": AutoencoderKLWan(
            base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
        ),
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
        ),
    }


def sd3() -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    return {
        "transformer": SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=12,
            caption_projection_dim=16,
            pooled_projection_dim=10,
            pos_embed_max_size=8,
        ),
        "vae": vae(scaling_factor=1.5305, shift_factor=0.0609, sample_size=16),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }


def flux() -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    return {
        "transformer": FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=12,
            pooled_projection_dim=10,
            guidance_embeds=True,
            axes_dims_rope=(2, 2, 4),
        ),
        "vae": vae(scaling_factor=0.3611, shift_factor=0.1159, sample_size=16),
        "scheduler": FlowMatchEulerDiscreteScheduler(
            shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15
        ),
    }


KINDS = {
    "StableDiffusionXLPipeline": ("image", sdxl, Discrete),
    "StableDiffusion3Pipeline": ("image", sd3, Flow),
    "FluxPipeline": ("image", flux, Flow),
    "StableAudioPipeline": ("audio", stable_audio, Cosine),
    "WanPipeline": ("video", wan, Flow),
}


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, dict[str, Any]]:
    """The name of a pipeline, a folder that holds a tiny one, and its parts."""
    name: str = request.param
    torch.manual_seed(0)
    parts, folder = KINDS[name][1](), tmp_path_factory.mktemp(name)
    for part, module in parts.items():
        module.save_pretrained(folder / part)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))
    return name, folder, parts


@pytest.fixture
def decoder(kind: tuple[str, Path, dict[str, Any]]) -> Decoder:
    name, folder, _ = kind
    sizes: dict[str, Any] = {"size": 32, "height": 16, "length": 5}
    config = DecoderConfig("pipeline", str(folder), num_inference_steps=STEPS, guidance_scale=SCALE, **sizes)
    torch.manual_seed(1)
    return load_pipeline(KINDS[name][0], config, DIM)


def features() -> Tensor:
    return torch.randn(2, 1, DIM, generator=torch.Generator().manual_seed(1))


def test_a_reply_comes_out_and_each_sample_is_its_own(decoder: Decoder) -> None:
    together = decoder.generate(features(), SEEDS)
    alone = decoder.generate(features()[1:], SEEDS[1:])
    assert [type(part) for part in together] == [{"image": Image, "audio": Audio, "video": Video}[decoder.modality]] * 2
    a, b = (_numbers(part) for part in (together[1], alone[0]))
    assert a.shape == b.shape and np.isfinite(a).all()
    if not isinstance(decoder.process, Cosine):  # whose solver draws noise for the batch as a whole
        assert np.abs(a - b).max() <= 2
    assert np.abs(_numbers(together[0]) - a).max() > 0


def test_a_negative_prompt_is_a_feature_and_acts(decoder: Decoder) -> None:
    def latents(negative: Tensor | None) -> Tensor:
        torch.manual_seed(0)
        return decoder.generate_latents(features(), SEEDS, SampleOptions(negative=negative, guidance_scale=SCALE))

    assert torch.equal(latents(None), latents(None))
    assert not torch.allclose(latents(None), latents(torch.randn(2, DIM)), atol=1e-4)


def test_a_step_of_training_reaches_feature_and_head(decoder: Decoder) -> None:
    clean = torch.randn(2, *decoder.latent_shape)
    t = decoder.process.times(2, torch.Generator().manual_seed(0))
    feature = features().requires_grad_(True)
    head = [p.requires_grad_(True) for p in decoder.conditioner.head.parameters()]
    loss, estimate = decoder.loss_and_estimate(
        clean, torch.randn_like(clean), t, feature, torch.zeros(2), torch.zeros_like(clean)
    )
    assert loss.shape == (2,) and estimate.shape == clean.shape
    loss.sum().backward()
    assert feature.grad is not None and (feature.grad.abs().sum((1, 2)) > 0).all()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head)


def test_a_perfect_network_has_no_loss_and_is_sampled_back(
    decoder: Decoder, kind: tuple[str, Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target of the forward process is the prediction that the scheduler expects."""
    clean = torch.randn(2, *decoder.latent_shape, generator=torch.Generator().manual_seed(0))

    def perfect(x: Tensor, t: Tensor, *rest: Any) -> Tensor:
        at = t.expand(len(x)) if t.ndim == 0 else t
        wide = [-1, *[1] * (x.ndim - 1)]
        signal, sigma = (v.view(wide) for v in decoder.process.levels(at.long() if discrete else at))
        sample = clean.repeat(len(x) // 2, *[1] * (x.ndim - 1))
        noise = (x - signal * sample) / sigma.clamp(min=1e-6)
        if decoder.process.kind == "epsilon":
            return noise
        return signal * noise - sigma * sample if decoder.process.kind == "v_prediction" else noise - sample

    discrete = isinstance(decoder.process, Discrete)
    monkeypatch.setattr(decoder, "denoise", perfect)
    t = decoder.process.times(2, torch.Generator().manual_seed(0))
    zeros = torch.zeros_like(clean)
    loss, estimate = decoder.loss_and_estimate(clean, torch.randn_like(clean), t, features(), torch.zeros(2), zeros)
    assert loss.max() < 1e-6
    assert torch.allclose(estimate, clean, atol=1e-3)
    sampled = decoder.generate_latents(features(), SEEDS, SampleOptions(num_inference_steps=20, guidance_scale=1.0))
    assert torch.allclose(sampled, clean, atol=0.02)


def test_latents_are_those_of_the_pipeline(decoder: Decoder, kind: tuple[str, Path, dict[str, Any]]) -> None:
    """The pipeline gets the states of the trained head as the states of its prompt."""
    name, _, parts = kind
    parts = {**parts, "scheduler": copy.deepcopy(parts["scheduler"])}
    with torch.no_grad():
        condition = decoder.conditioner(features(), torch.zeros(2))
    noise = seeded_noise(decoder.latent_shape, SEEDS, torch.device("cpu"), torch.float32)
    common = {"num_inference_steps": STEPS, "guidance_scale": SCALE, "output_type": "latent", "latents": noise.clone()}
    states = condition["encoder_hidden_states"]
    if name == "StableDiffusionXLPipeline":
        from diffusers import StableDiffusionXLPipeline

        pipe = StableDiffusionXLPipeline(
            **parts, text_encoder=None, text_encoder_2=_Projected(10), tokenizer=None, tokenizer_2=None
        )
        pooled = condition["added_cond_kwargs"]["text_embeds"]
        out = _quiet(pipe)(
            prompt_embeds=states, pooled_prompt_embeds=pooled, negative_prompt_embeds=torch.zeros_like(states),
            negative_pooled_prompt_embeds=torch.zeros_like(pooled), **common,
        ).images  # fmt: skip
    elif name in ("StableDiffusion3Pipeline", "FluxPipeline"):
        import diffusers

        names = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
        pooled, flux = condition["pooled_projections"], name == "FluxPipeline"
        none = {key: None for key in names if not (flux and key.endswith("3"))}
        pipe = getattr(diffusers, name)(**parts, **none)
        if flux:
            common |= {"true_cfg_scale": common.pop("guidance_scale"), "latents": _patches(noise)}
        out = _quiet(pipe)(
            prompt_embeds=states, pooled_prompt_embeds=pooled, negative_prompt_embeds=torch.zeros_like(states),
            negative_pooled_prompt_embeds=torch.zeros_like(pooled), height=16 if not flux else 32,
            width=16 if not flux else 32, **common,
        ).images  # fmt: skip
    elif name == "StableAudioPipeline":
        from diffusers import EDMDPMSolverMultistepScheduler, StableAudioPipeline

        # its default solver draws noise from a seed that the pipeline does not pass on
        decoder.scheduler = EDMDPMSolverMultistepScheduler(sigma_data=1.0, prediction_type="v_prediction")
        parts["scheduler"] = copy.deepcopy(decoder.scheduler)
        pipe = StableAudioPipeline(**parts, text_encoder=_Projected(8), tokenizer=None)
        words = decoder.conditioner.states(features(), None)[0]
        out = _quiet(pipe)(
            prompt_embeds=words, attention_mask=torch.ones(words.shape[:2]), audio_end_in_s=2.0,
            **common,
        ).audios  # fmt: skip
    else:
        from diffusers import WanPipeline

        pipe = WanPipeline(**parts, text_encoder=_Projected(12), tokenizer=None)
        out = _quiet(pipe)(
            prompt_embeds=states, negative_prompt_embeds=torch.zeros_like(states), num_frames=5, height=16, width=32,
            **common,
        ).frames  # fmt: skip
    latents = decoder.generate_latents(features(), SEEDS, SampleOptions(guidance_scale=SCALE))
    latents = _patches(latents) if name == "FluxPipeline" else latents
    assert float((latents - out).norm() / out.norm()) < 1e-5


def test_a_pipeline_of_another_kind_is_refused(kind: tuple[str, Path, dict[str, Any]], tmp_path: Path) -> None:
    name, folder, _ = kind
    wrong = "audio" if KINDS[name][0] != "audio" else "image"
    with pytest.raises(ConfigError, match=f"makes {KINDS[name][0]}"):
        load_pipeline(wrong, DecoderConfig(kind="pipeline", id=str(folder)), DIM)
    (tmp_path / "model_index.json").write_text('{"_class_name": "DanceDiffusionPipeline"}')
    with pytest.raises(ConfigError, match="DanceDiffusionPipeline"):
        load_pipeline("audio", DecoderConfig(kind="pipeline", id=str(tmp_path)), DIM)


class _Projected(torch.nn.Module):
    """In place of a text encoder, of which the pipelines read the width and the precision."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.config = type("Config", (), {"projection_dim": width})
        self.dtype, self.device = torch.float32, torch.device("cpu")


def _patches(latents: Tensor) -> Tensor:
    """[B, c, h, w] as Flux's pipeline has them, [B, h/2 · w/2, 4 · c]."""
    from diffusers import FluxPipeline

    packed: Tensor = FluxPipeline._pack_latents(latents, *latents.shape)
    return packed


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _numbers(part: Any) -> np.ndarray:
    match part:
        case Image():
            return np.asarray(part.pixels, dtype=np.float32)
        case Video():
            return np.stack([np.asarray(frame, dtype=np.float32) for frame in part.frames])
        case _:
            return part.samples * 127

"""Tiny random pipelines of the published decoders' own classes, for parity tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch


def clip_tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer over letters, without merges."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def clip_text_encoder(width: int) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=514, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, bos_token_id=512, eos_token_id=513, pad_token_id=513,
    )  # fmt: skip
    return CLIPTextModel(config).eval()


def vae(channels: int = 3, latent_channels: int = 4, **settings: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=latent_channels,
        **settings,
    ).eval()


def unclip_pipeline(folder: Path, dim: int = 16) -> Any:
    """`StableUnCLIPImg2ImgPipeline` of random weights; features of width `dim`."""
    from diffusers import DDIMScheduler, DDPMScheduler, StableUnCLIPImg2ImgPipeline, UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=(2, 4),
        cross_attention_dim=12,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * dim,
        use_linear_projection=True,
    ).eval()
    normalizer = StableUnCLIPImageNormalizer(dim)
    normalizer.mean.data.normal_()
    normalizer.std.data.uniform_(0.5, 2)
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, projection_dim=dim, num_hidden_layers=1, num_attention_heads=1,
        image_size=8, patch_size=8,
    )  # fmt: skip
    schedule = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    pipeline = StableUnCLIPImg2ImgPipeline(
        feature_extractor=None,
        image_encoder=CLIPVisionModelWithProjection(vision),
        image_normalizer=normalizer,
        image_noising_scheduler=DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2"),
        tokenizer=clip_tokenizer(folder / "made"),
        text_encoder=clip_text_encoder(12),
        unet=unet,
        scheduler=DDIMScheduler(
            **schedule, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, steps_offset=1
        ),
        vae=vae(scaling_factor=0.18215, sample_size=16),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def audioldm2_pipeline() -> Any:
    """`AudioLDM2Pipeline` of random weights: two GPT-2 states of width 12, T5 states of width 16."""
    from diffusers import AudioLDM2Pipeline, AudioLDM2UNet2DConditionModel, DDIMScheduler
    from transformers import GPT2Config, GPT2LMHeadModel, SpeechT5HifiGan, SpeechT5HifiGanConfig

    torch.manual_seed(0)
    unet = AudioLDM2UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=((None, 12, 16), (None, 12, 16)),
    ).eval()
    gpt2 = GPT2LMHeadModel(
        GPT2Config(vocab_size=10, n_positions=8, n_embd=12, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=1)
    ).eval()
    vocoder = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=16,
            sampling_rate=16_000,
            upsample_initial_channel=8,
            upsample_rates=(16, 10),
            upsample_kernel_sizes=(32, 20),
            resblock_kernel_sizes=(3,),
            resblock_dilation_sizes=((1,),),
            normalize_before=False,
        )
    ).eval()
    pipeline = AudioLDM2Pipeline(
        vae=vae(1, scaling_factor=0.4),
        text_encoder=gpt2,  # in place of CLAP, which is not called where states are given
        text_encoder_2=t5_encoder(),
        projection_model=None,
        language_model=gpt2,
        tokenizer=None,
        tokenizer_2=byte_tokenizer(),
        feature_extractor=None,
        unet=unet,
        scheduler=DDIMScheduler(1000, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False),
        vocoder=vocoder,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def t5_encoder() -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=300, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)).eval()


def byte_tokenizer() -> Any:
    """One token per byte, and an end."""
    from tokenizers.processors import TemplateProcessing

    from codi2.llm.backbone import byte_tokenizer as make

    tokenizer = make()
    end = (tokenizer.eos_token, tokenizer.eos_token_id)  # T5's ends every text, an empty one too
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])
    tokenizer.model_max_length = 512
    return tokenizer


def video_pipeline(folder: Path) -> Any:
    """`TextToVideoSDPipeline` of random weights; CLIP states of width 12."""
    from diffusers import DDIMScheduler, TextToVideoSDPipeline, UNet3DConditionModel

    torch.manual_seed(0)
    unet = UNet3DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=12,
    ).eval()
    pipeline = TextToVideoSDPipeline(
        vae=vae(scaling_factor=0.18215),
        text_encoder=clip_text_encoder(12),
        tokenizer=clip_tokenizer(folder / "made"),
        unet=unet,
        scheduler=DDIMScheduler(1000, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline

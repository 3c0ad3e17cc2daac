"""What our decoders and our reply loop cost beside the libraries' own, on equal random weights.

Prints ratios of medians over alternating runs: 1.00 is no cost, 1.03 three percent.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from alternate import medians

sys.path.append(str(Path(__file__).parents[1] / "tests" / "diffuse" / "families"))

ROUNDS, STEPS, TOKENS = 7, 6, 48


def ratio(ours: Callable[[], Any], theirs: Callable[[], Any]) -> tuple[float, float, float]:
    """Median seconds of each over alternating runs, and their ratio."""
    a, b = medians(ours, theirs, ROUNDS)
    return a, b, a / b


def decoding() -> tuple[float, float, float]:
    """unCLIP, 4 steps of guidance on 32×32 latents, the codec left out."""
    from diffusers import UNet2DConditionModel
    from published import unclip_pipeline

    from codi2.config import DecoderConfig
    from codi2.diffuse.families.unclip import unclip_decoder

    dim = 64
    with tempfile.TemporaryDirectory() as folder:
        pipeline = unclip_pipeline(Path(folder), dim)
    pipeline.unet = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(64, 128, 256),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4, 8),
        cross_attention_dim=12,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * dim,
        use_linear_projection=True,
    ).eval()
    parts = {**pipeline.components, "unet": copy.deepcopy(pipeline.unet)}
    decoder = unclip_decoder(parts, DecoderConfig("pipeline", num_inference_steps=STEPS, noise_level=499))
    decoder.unet = decoder.unet.to(memory_format=torch.channels_last)
    pipeline.unet = pipeline.unet.to(memory_format=torch.channels_last)
    feature = torch.randn(1, 1, dim)

    def ours() -> Any:
        return decoder.generate_latents(feature, [0])

    def theirs() -> Any:
        return pipeline(
            prompt=[""], image_embeds=feature[:, 0], noise_level=499, num_inference_steps=STEPS, guidance_scale=7.5,
            output_type="latent",
        )  # fmt: skip

    return ratio(ours, theirs)


def language() -> tuple[float, float, float]:
    """A reply of text after a prompt of 64 rows, of a model as large as SmolLM2-135M with its adapters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from codi2.config import DEBUG
    from codi2.llm.backbone import Backbone, byte_tokenizer
    from codi2.llm.generation import CachedConversation, GenerationOptions, generate
    from codi2.llm.mllm import MLLM
    from codi2.prompt.layout import Layout, Message, collate
    from codi2.prompt.parts import Text

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(byte_tokenizer()),
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        )
    ).eval()
    backbone = Backbone(model, byte_tokenizer(), DEBUG.llm)
    mllm = MLLM(backbone, DEBUG.heads).eval()
    layout = Layout(backbone.tokenizer, DEBUG.encoder.num_features, DEBUG.heads.num_slots, 2048)
    turn = collate([layout([Message("user", (Text("x" * 40),))], reply=True)], backbone.pad_id, left=True)
    features = torch.zeros(0, 1, DEBUG.heads.feature_dim)
    rows = mllm.rows(turn, features)
    tokens: list[int] = []

    def ours() -> None:
        (segments,) = generate(
            CachedConversation(mllm), turn, features, [GenerationOptions(want=(), max_new_tokens=TOKENS)]
        )
        tokens[:] = segments[0].ids  # type: ignore[union-attr]

    def theirs() -> None:
        with torch.no_grad():
            backbone.peft.generate(
                inputs_embeds=rows, attention_mask=turn.mask.long(), do_sample=False, max_new_tokens=TOKENS,
                min_new_tokens=TOKENS, pad_token_id=backbone.pad_id,
            )  # fmt: skip

    seconds = ratio(ours, theirs)
    assert len(tokens) >= TOKENS - 1, f"the reply ended after {len(tokens)} tokens: the work was not equal"
    return seconds


if __name__ == "__main__":
    for name, measure in (("decoder / diffusers' pipeline", decoding), ("reply / transformers' generate", language)):
        a, b, r = measure()
        print(f"{name}: {r:.3f}  ({a:.3f} s, {b:.3f} s, {torch.get_num_threads()} threads)", flush=True)

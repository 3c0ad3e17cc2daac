"""The paper's system at its published sizes on the virtual GPU, for `--plan` on machines without the weights."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codi2.config import PRESETS
from codi2.diffuse.decoder import Decoder
from codi2.dry_run import parts
from codi2.heads.projection import Projection
from codi2.llm.backbone import Backbone, adapt
from codi2.llm.mllm import MLLM
from codi2.prompt.layout import MODALITIES, Batch, special_tokens
from codi2.train.config import TrainConfig, options_of
from codi2.train.parts.diffusion_loss import save_memory
from codi2.train.parts.language_batch import DiffusionBatch, LanguageBatch
from codi2.train.parts.llm import LLMOptions, LLMRecipe
from codi2.train.place import placement_of

POSITIONS, LABELS, ITEMS = 512, 128, 3  # assumed for a sample: tokens and slots; text labels; items, the last an answer
NF4 = 0.5 + 4 / 64 / 8 + 0.002  # bytes of a weight in 4 bits, with the quantised scales of its blocks


class FullSize(LLMRecipe):
    """As `LLMRecipe`, without weights, tokenizer and data."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.options = config, options_of(LLMOptions, config)
        self.placement = placement_of(config)
        base = PRESETS[self.options.model]
        self.codi2_config, self.kept = base, []
        with torch.device("meta"):
            self.mllm = _language(base, self.placement.bits)
        if self.options.gradient_checkpointing:
            self.mllm.backbone.checkpoint_gradients()
        self.decoders = published_decoders(base.heads.feature_dim) if self.options.diffusion_share else {}
        if self.options.gradient_checkpointing:
            self.decoders = {modality: save_memory(decoder) for modality, decoder in self.decoders.items()}
        self._take_parts()

    def finish(self, drawn: LanguageBatch) -> LanguageBatch:
        return drawn

    def fabricated(self, phase: str, ranks: int) -> LanguageBatch:
        """One process's batch of a pass in a phase: zeros, in the sizes of a real batch."""
        passes = ranks * self.config.accumulate
        samples = max(1, self.config.batch_size // passes)
        items, dim = samples * ITEMS, self.codi2_config.heads.feature_dim
        predicted = 0 if phase == "text" else samples
        rows = torch.arange(items)
        batch = Batch(
            ids=torch.zeros(samples, POSITIONS, dtype=torch.long),
            labels=torch.zeros(samples, POSITIONS, dtype=torch.long),
            mask=torch.ones(samples, POSITIONS, dtype=torch.bool),
            items=(),
            item_sample=rows // ITEMS,
            item_modality=torch.full((items,), MODALITIES.index(phase if predicted else "image")),
            slot_item=rows,
            slot_number=torch.zeros(items, dtype=torch.long),
            slot_position=rows,
            slot_predicted=torch.zeros(items, dtype=torch.bool),
            predicted=rows[:predicted],
            label_sample=torch.zeros(samples * LABELS, dtype=torch.long),
            label_position=torch.ones(samples * LABELS, dtype=torch.long),
        )
        count = min(samples, -(-self.options.diffusion_items // passes))
        denoised = (
            {phase: zeros_of(self.decoders[phase], phase, count, dim)}
            if predicted and count and self.options.diffusion_share
            else {}
        )
        features = torch.zeros(items, 1, dim)
        return LanguageBatch(batch, features, torch.zeros(items, 1, 1), features, denoised, None, torch.ones(3), {})

    @property
    def phases(self) -> tuple[str, ...]:
        return tuple(self.options.phases) or ("text", *self.codi2_config.decoders)


def zeros_of(decoder: Decoder, modality: str, count: int, dim: int) -> DiffusionBatch:
    """Zeros as answers of the published sizes, each with a source."""
    shape = {"image": (768, 768, 3), "audio": (1024 * 160,), "video": (24, 320, 576, 3)}[modality]
    media = torch.zeros(count, *shape, dtype=torch.float32 if modality == "audio" else torch.uint8)
    rows, noise = torch.arange(count), torch.zeros(count, *decoder.latent_shape)
    t, conditioned = torch.zeros(count, dtype=torch.long), torch.zeros(count, dtype=torch.bool)
    return DiffusionBatch(rows[:, None], media, rows, media, t, noise, torch.zeros(count, 1, dim), conditioned)


def _language(base: Any, bits: int) -> MLLM:
    language: Any = parts.llama()
    first = language.get_input_embeddings().num_embeddings
    new = range(first, first + len(special_tokens(base.llm.senses)))
    language.resize_token_embeddings(new.stop, mean_resizing=False)
    language.to(getattr(torch, base.llm.dtype))
    if bits:
        for layer in language.model.layers:
            for name, linear in list(layer.named_modules()):
                if isinstance(linear, nn.Linear):
                    layer.set_submodule(name, QuantisedLinear(linear, NF4 if bits == 4 else 1.0))
    backbone = Backbone.__new__(Backbone)
    nn.Module.__init__(backbone)
    backbone.embed_scale, backbone.logit_cap, backbone.first_new = 1.0, None, first
    backbone.new_ids, backbone.width, backbone.pad_id = tuple(new), language.config.hidden_size, 0
    backbone.peft = adapt(language, base.llm, list(new))
    mllm = MLLM.__new__(MLLM)
    nn.Module.__init__(mllm)
    heads = base.heads
    mllm.backbone, mllm.config = backbone, heads
    mllm.input_projection = Projection(heads.groups, heads.feature_dim, heads.hidden, backbone.width)
    outputs = {modality: heads.groups[modality] for modality in heads.num_slots}
    mllm.output_projection = Projection(outputs, backbone.width, heads.hidden, heads.feature_dim)
    return mllm


class QuantisedLinear(nn.Linear):
    """A frozen linear map with a quantised weight, which is dequantised to bf16 while it is used."""

    def __init__(self, linear: nn.Linear, size: float) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.shape = linear.weight.shape
        quantised = torch.empty(int(linear.weight.numel() * size), dtype=torch.uint8)
        self.weight = nn.Parameter(quantised, requires_grad=False)
        self.weight.numbers = linear.weight.numel()  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = _DequantisedLinear.apply(x, self.weight, self.shape)
        return rows


class _DequantisedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, shape: torch.Size) -> Tensor:
        ctx.shape, ctx.dtype = shape, x.dtype
        weight = packed.new_empty(shape, dtype=torch.bfloat16)
        return F.linear(x.to(torch.bfloat16), weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        weight = gradients[0].new_empty(ctx.shape, dtype=torch.bfloat16)
        return (gradients[0].to(torch.bfloat16) @ weight).to(ctx.dtype), None, None


def published_decoders(dim: int) -> dict[str, Decoder]:
    from diffusers import DDIMScheduler, DDPMScheduler
    from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer

    from codi2.diffuse.families.audioldm2 import audioldm2_decoder
    from codi2.diffuse.families.text_to_video import text_to_video_decoder
    from codi2.diffuse.families.unclip import unclip_decoder

    paper, tokenizer = PRESETS["paper"].decoders, SimpleNamespace(model_max_length=77)
    with torch.device("meta"):
        components: dict[str, Any] = {
            "image": {"unet": parts.unclip_unet(), "vae": parts.picture_vae(), "text_encoder": parts.clip_text()},
            "audio": {"unet": parts.audio_unet(), "vae": parts.audio_vae(), "vocoder": parts.vocoder()},
            "video": {"unet": parts.video_unet(), "vae": parts.picture_vae(), "text_encoder": parts.clip_text()},
        }
        components["audio"]["text_encoder_2"] = parts.t5_encoder()
        components["image"]["image_normalizer"] = StableUnCLIPImageNormalizer(dim)
    components["image"] |= {"image_noising_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2")}
    for part in components.values():
        part |= {"scheduler": DDIMScheduler(), "tokenizer": tokenizer, "tokenizer_2": tokenizer}
    decoders = {
        # its own norm is that of weights, which are not loaded here
        "image": unclip_decoder(components["image"], replace(paper["image"], feature_norm=1.0, noise_level=0)),
        "audio": audioldm2_decoder(components["audio"], dim, paper["audio"]),
        "video": text_to_video_decoder(components["video"], dim, paper["video"]),
    }
    states = {"image": (1, 77, 1024), "audio": (1, 1, 1024), "video": (1, 77, 1024)}
    for modality, decoder in decoders.items():
        conditioner: Any = decoder.conditioner
        conditioner.text._cache[""] = torch.zeros(states[modality])
    return decoders

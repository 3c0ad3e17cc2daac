"""ImageBind (arXiv:2305.05665): six towers of transformer blocks into one joint space of width 1024.

Written from the paper and from the names and shapes of the published checkpoint, so that `imagebind_huge.pth` loads
with `strict=True`. `encode.imagebind.media` makes the inputs of the towers.

Letters: B samples, L tokens, W width of a tower, D joint width (1024).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MODALITIES = ("vision", "text", "audio", "depth", "thermal", "imu")
"""Towers; pictures and clips share `vision`."""
INPUTS = {
    "vision": (3, 2, 224, 224),  # two frames; a picture is repeated
    "text": (77,),  # token ids, zeros after the end token
    "audio": (1, 128, 204),  # mel bins, frames
    "depth": (1, 224, 224),
    "thermal": (1, 224, 224),
    "imu": (6, 2000),  # accelerometer and gyroscope, 200 Hz
}
"""Shape of one sample of each tower."""
MAX_LOGIT_SCALE = 100.0


@dataclass(frozen=True)
class TowerSize:
    """Size of one tower."""

    width: int
    blocks: int
    heads: int


@dataclass(frozen=True)
class ImageBindConfig:
    """Sizes of ImageBind-Huge."""

    dim: int = 1024
    vision: TowerSize = TowerSize(1280, 32, 16)
    text: TowerSize = TowerSize(1024, 24, 16)
    audio: TowerSize = TowerSize(768, 12, 12)
    depth: TowerSize = TowerSize(384, 12, 8)
    thermal: TowerSize = TowerSize(768, 12, 12)
    imu: TowerSize = TowerSize(512, 6, 8)
    vocabulary: int = 49408


HUGE = ImageBindConfig()


class ImageBind(nn.Module):
    """Samples of one modality → joint vectors and tokens."""

    def __init__(self, config: ImageBindConfig = HUGE) -> None:
        super().__init__()
        self.config = config
        towers: dict[str, TowerSize] = {name: getattr(config, name) for name in MODALITIES}
        self.modality_preprocessors = nn.ModuleDict({name: _tokens(name, config) for name in MODALITIES})
        self.modality_trunks = nn.ModuleDict({name: Transformer(name, tower) for name, tower in towers.items()})
        self.modality_heads = nn.ModuleDict(
            {name: _head(name, tower.width, config.dim) for name, tower in towers.items()}
        )
        self.modality_postprocessors = nn.ModuleDict({name: _scale(name) for name in MODALITIES})

    def forward(self, modality: str, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Samples [B, …], of the shapes in `INPUTS` → joint vectors [B, D] and tokens [B, L, D].

        A joint vector has the norm of its modality: 1 for vision, 20 for audio, 10 for thermal, 5 for depth and imu,
        and the learned scale for text. The tokens are the head's outputs for the trunk's tokens, scaled by the factor
        that gives the joint vector its norm. The joint vector is the first token, or for a text that of its end.

        Raises:
            ValueError: samples of another shape.
        """
        expected = INPUTS[modality]
        if tuple(samples.shape[1:]) != expected and not (modality == "vision" and samples.ndim == 4):
            raise ValueError(f"{modality} samples are {tuple(samples.shape[1:])} each; the tower reads {expected}")
        states = self.modality_trunks[modality](self.modality_preprocessors[modality](samples))
        values: Tensor = self.modality_heads[modality](states)
        # the end token of a text has the highest id; in other modalities, the class token comes first
        position = samples.argmax(-1) if modality == "text" else torch.zeros(len(samples), dtype=torch.long)
        rows = torch.arange(len(samples), device=values.device)
        position = position.to(values.device)
        lengths = values[rows, position].norm(dim=-1)[:, None, None]
        tokens = self.modality_postprocessors[modality](values / lengths.clamp(min=1e-12))
        return tokens[rows, position], tokens


class Transformer(nn.Module):
    """Pre-norm transformer blocks; those of vision are preceded by a norm, those of text are causal."""

    def __init__(self, modality: str, tower: TowerSize) -> None:
        super().__init__()
        # audio, depth, thermal and imu have a learned key and value in addition to the tokens'
        extra = modality not in ("vision", "text")
        self.causal = modality == "text"
        first: list[nn.Module] = [nn.LayerNorm(tower.width, eps=1e-6)] if modality == "vision" else []
        self.pre_transformer_layer = nn.Sequential(*first)
        self.blocks = nn.Sequential(*[TransformerBlock(tower, extra) for _ in range(tower.blocks)])

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, L, W] → [B, L, W]."""
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], tokens.device) if self.causal else None
        x = self.pre_transformer_layer(tokens)
        for block in self.blocks:
            x = block(x, mask)
        return x


class TransformerBlock(nn.Module):
    def __init__(self, tower: TowerSize, extra: bool) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(tower.width, tower.heads, add_bias_kv=extra, batch_first=True)
        self.norm_1 = nn.LayerNorm(tower.width, eps=1e-6)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(tower.width, 4 * tower.width), "fc2": nn.Linear(4 * tower.width, tower.width)}
        )
        self.norm_2 = nn.LayerNorm(tower.width, eps=1e-6)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        normed = self.norm_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm_2(x))))


class PatchEmbedding(nn.Module):
    """Converts a sample to tokens: a linear map of each patch, and a norm."""

    def __init__(self, proj: nn.Module, width: int, normed: bool = True) -> None:
        super().__init__()
        self.proj = proj
        self.norm_layer = nn.LayerNorm(width) if normed else None

    def forward(self, samples: Tensor) -> Tensor:
        """[B, L, W]."""
        x = self.proj(samples)
        if x.ndim > 3:  # maps [B, W, …] of a convolution
            x = x.flatten(2).transpose(1, 2)
        return x if self.norm_layer is None else self.norm_layer(x)


class Positions(nn.Module):
    """Learned position embeddings; the class token's is the first."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, width) * width**-0.5)


class MediaTokens(nn.Module):
    """A class token, the patches, and their position embeddings."""

    def __init__(self, stem: str, patches: PatchEmbedding, count: int, width: int) -> None:
        super().__init__()
        self.stem = stem
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
        self.add_module(stem, patches)
        self.pos_embedding_helper = Positions(1 + count, width)

    def forward(self, samples: Tensor) -> Tensor:
        return self._embed(samples, self.pos_embedding_helper.pos_embed)

    def _embed(self, samples: Tensor, positions: Tensor) -> Tensor:
        patches = getattr(self, self.stem)(samples)
        return torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + positions


class VisionTokens(MediaTokens):
    def forward(self, samples: Tensor) -> Tensor:
        """Clips of two frames [B, 3, 2, 224, 224], or pictures [B, 3, 224, 224]."""
        if samples.ndim == 4:
            samples = samples[:, :, None].expand(-1, -1, 2, -1, -1)
        return super().forward(samples)


class IMUTokens(MediaTokens):
    """Stretches of eight readings; the checkpoint has their position embeddings in this module."""

    def __init__(self, width: int, stretch: int = 8) -> None:
        channels, readings = INPUTS["imu"]
        patches = PatchEmbedding(nn.Linear(channels * stretch, width, bias=False), width)
        super().__init__("imu_stem", patches, readings // stretch, width)
        del self.pos_embedding_helper
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + readings // stretch, width) * 0.01)
        self.stretch = stretch

    def forward(self, samples: Tensor) -> Tensor:
        """[B, 6, 2000]."""
        pieces = samples.unfold(-1, self.stretch, self.stretch).transpose(1, 2).flatten(2)
        return self._embed(pieces, self.pos_embed)


class TextTokens(nn.Module):
    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        (length,) = INPUTS["text"]
        self.pos_embed = nn.Parameter(torch.randn(1, length, width) * 0.01)
        self.token_embedding = nn.Embedding(vocabulary, width)
        # the checkpoint holds the causal mask; it is not used here
        self.register_buffer("mask", torch.full((length, length), -math.inf).triu(1))

    def forward(self, ids: Tensor) -> Tensor:
        """[B, 77]."""
        return self.token_embedding(ids) + self.pos_embed


class MediaHead(nn.Sequential):
    """Norm, selection of the class token, dropout (IMU only), linear map; indices as in the checkpoint."""

    def forward(self, states: Tensor) -> Tensor:
        """[B, L, W] → [B, L, D] for all tokens; the class token is not selected."""
        return self[-1](self[0](states))


class TextHead(nn.Module):
    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.LayerNorm(width, eps=1e-6), nn.Linear(width, dim, bias=False))

    def forward(self, states: Tensor) -> Tensor:
        return self.proj(states)


class LogitScale(nn.Module):
    """The norm of a modality's joint vectors: learned for text, fixed for the others."""

    def __init__(self, scale: float, learned: bool) -> None:
        super().__init__()
        value = torch.tensor(math.log(scale))
        if learned:
            self.log_logit_scale = nn.Parameter(value)
        else:
            self.register_buffer("log_logit_scale", value)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.log_logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)


def _tokens(modality: str, config: ImageBindConfig) -> nn.Module:
    width = getattr(config, modality).width
    if modality == "text":
        return TextTokens(config.vocabulary, width)
    if modality == "imu":
        return IMUTokens(width)
    if modality == "vision":
        # the checkpoint's convolution is the second of two stages; the first repeats a picture
        proj = nn.Sequential(nn.Identity(), nn.Conv3d(3, width, (2, 14, 14), stride=(2, 14, 14), bias=False))
        return VisionTokens("rgbt_stem", PatchEmbedding(proj, width, normed=False), 16 * 16, width)
    step = 10 if modality == "audio" else 16
    height, length = ((size - 16) // step + 1 for size in INPUTS[modality][1:])
    patches = PatchEmbedding(nn.Conv2d(1, width, 16, stride=step, bias=False), width)
    return MediaTokens("depth_stem" if modality == "depth" else "rgbt_stem", patches, height * length, width)


def _head(modality: str, width: int, dim: int) -> nn.Module:
    if modality == "text":
        return TextHead(width, dim)
    between = [nn.Identity(), nn.Dropout(0.5)] if modality == "imu" else [nn.Identity()]
    return MediaHead(nn.LayerNorm(width, eps=1e-6), *between, nn.Linear(width, dim, bias=False))


def _scale(modality: str) -> nn.Module:
    fixed = {"audio": 20.0, "depth": 5.0, "thermal": 10.0, "imu": 5.0}
    if modality == "vision":
        return nn.Identity()
    scale = LogitScale(fixed.get(modality, 1 / 0.07), learned=modality == "text")
    return nn.Sequential(nn.Identity(), scale)

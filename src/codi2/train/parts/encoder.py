"""The heads of the encoder: one joint space with images as the anchor.

The loss is contrastive between pictures and their captions, sounds and their captions, and pictures and sounds of one
concept (ImageBind's recipe, with images as the common side). A second term recovers the trunk's features from the joint
vector by a linear map: a purely contrastive head drops style and timbre, which in-context examples show.

Letters: V views, N items, S spans of a trunk, C trunk channels, D joint width, B rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codi2.data import cache
from codi2.encode.tiny import joint_heads, load_joint_heads
from codi2.encode.trunks import Head
from codi2.metrics.retrieval import recall_at
from codi2.tensors import device_of, full_precision
from codi2.train.config import TrainConfig, options_of
from codi2.train.contract import Recipe
from codi2.train.parts.draw import numpy_at
from codi2.train.shares import WHOLE, Share
from codi2.weight_files import export_tensors

CANDIDATES = 100  # of the retrieval in the validation
TEMPERATURE = 0.07


@dataclass(frozen=True)
class EncoderOptions:
    dim: int = 256  # D
    edited_views: int = 3  # of each item, in addition to the plain one


@dataclass
class Side:
    """The items of one modality, with the views of their features and their captions."""

    features: Tensor  # [V, N, S, C] of the trunk
    train: np.ndarray  # rows
    concepts: list[str]  # [N]
    captions: Tensor  # [N, 1, 384]

    @classmethod
    def read(cls, modality: str, edited_views: int) -> Side:
        views = ["plain", *(f"{cache.EDITED}{i}" for i in range(edited_views))]
        items = cache.items(modality)
        return cls(
            torch.from_numpy(np.stack([cache.trunk_features(modality, view) for view in views])),
            cache.rows(modality, "train"),
            [item.concept for item in items],
            torch.from_numpy(np.array(cache.phrase_features([item.caption for item in items]))),
        )


@dataclass
class Captioned:
    """Items of one modality in a batch."""

    features: Tensor  # [B, S, C] of the trunk
    captions: Tensor  # [B, 1, 384]
    same: Tensor  # bool [B, B], of one concept


@dataclass
class Batch:
    sides: dict[str, Captioned]
    pairs: dict[str, Tensor]  # modality → [B, S, C], a picture and a sound of one concept in each row; {}: none


class EncoderRecipe(Recipe):
    def __init__(self, config: TrainConfig) -> None:
        self.config, self.options = config, options_of(EncoderOptions, config)
        torch.manual_seed(config.seed)
        self.sides = {modality: Side.read(modality, self.options.edited_views) for modality in ("image", "audio")}
        self.heads = joint_heads(self.options.dim)
        channels = {modality: side.features.shape[-1] for modality, side in self.sides.items()}
        self.recover = nn.ModuleDict({modality: nn.Linear(self.options.dim, n) for modality, n in channels.items()})
        self.model = nn.ModuleDict({"heads": self.heads, "recover": self.recover})
        for modality, side in self.sides.items():
            _standardise(self._head(modality), side.features[:, side.train].flatten(0, 1))
        _standardise(self._head("phrase"), torch.cat([side.captions[side.train] for side in self.sides.values()]))
        self.shared = shared_concepts(self.sides)

    def _head(self, name: str) -> Head:
        head = self.heads[name]
        assert isinstance(head, Head)
        return head

    def batch(self, step: int, share: Share = WHOLE) -> Batch:
        draw, size = numpy_at(self.config.seed, step), self.config.batch_size
        sides: dict[str, Captioned] = {}
        for modality, side in self.sides.items():
            rows = draw.choice(side.train, min(size, len(side.train)), replace=False)
            views = draw.integers(len(side.features), size=len(rows))
            same = same_concept([side.concepts[row] for row in rows])
            sides[modality] = Captioned(side.features[views, rows].float(), side.captions[rows].float(), same)
        concepts = draw.permutation(len(self.shared))[:size]
        pairs = [[int(draw.choice(rows)) for rows in self.shared[c]] for c in concepts]
        columns = dict(zip(("image", "audio"), zip(*pairs, strict=True), strict=True)) if pairs else {}
        return Batch(sides, {m: self.sides[m].features[0, list(rows)].float() for m, rows in columns.items()})

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for modality, side in batch.sides.items():
            head, trunk = self._head(modality), side.features
            joint, words = head(trunk)[:, 0], self._head("phrase")(side.captions)[:, 0]
            terms[f"{modality}_text"] = contrast(joint, words, side.same)
            standard = (trunk - head.mean) / head.std
            pooled = standard.mean(1) if head.pool == "mean" else standard.amax(1)
            terms[f"{modality}_recover"] = F.mse_loss(self.recover[modality](joint).float(), pooled)
        if batch.pairs:
            image, audio = (self._head(m)(trunk)[:, 0] for m, trunk in batch.pairs.items())
            # the image is the anchor: only the sound's head gets a gradient
            same = torch.eye(len(image), dtype=torch.bool, device=image.device)  # each row is of another concept
            terms["audio_image"] = contrast(audio, image.detach(), same)
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Captions → media of `val`: recall among the first five of a hundred."""
        figures, device = {}, device_of(self.model)
        for modality, side in self.sides.items():
            rows = one_per_concept(cache.rows(modality, "val"), side.concepts)
            media = self._head(modality)(side.features[0, rows].float().to(device))[:, 0].cpu()
            words = self._head("phrase")(side.captions[rows].float().to(device))[:, 0].cpu()
            recall = recall_at(5, words, media, candidates=min(CANDIDATES, len(rows)))
            figures[f"text_{modality}_recall_5"] = recall["mean"]
        return figures

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        export_tensors(self.heads.state_dict(), folder / "heads.safetensors", provenance)

    def restore(self, folder: Path) -> None:
        """Loads the heads; the maps that recover the trunk's features are not exported and stay as initialised."""
        self.heads.load_state_dict(load_joint_heads(folder / "heads.safetensors", self.options.dim).state_dict())


def contrast(a: Tensor, b: Tensor, same: Tensor) -> Tensor:
    """Symmetric InfoNCE over rows [B, D]; rows of one concept (`same` [B, B]) are no negatives of each other."""
    others = same & ~torch.eye(len(a), dtype=torch.bool, device=a.device)
    with full_precision(a):
        logits = F.normalize(a.float(), dim=-1) @ F.normalize(b.float(), dim=-1).T / TEMPERATURE
        logits, target = logits.masked_fill(others, float("-inf")), torch.arange(len(a), device=a.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _standardise(head: Head, features: Tensor) -> None:
    flat = features.flatten(0, 1).float()
    head.mean.copy_(flat.mean(0))
    head.std.copy_(flat.std(0).clamp(min=1e-3))


def same_concept(concepts: list[str]) -> Tensor:
    """bool [B, B]: whether two rows are of one concept."""
    codes = np.unique(concepts, return_inverse=True)[1]
    return torch.from_numpy(codes[:, None] == codes[None])


def shared_concepts(sides: Mapping[str, Any]) -> list[tuple[list[int], list[int]]]:
    """Training rows (pictures, sounds) of each concept that has both."""
    where: dict[str, dict[str, list[int]]] = {}
    for modality, side in sides.items():
        for row in side.train:
            where.setdefault(side.concepts[row], {}).setdefault(modality, []).append(int(row))
    return [(rows["image"], rows["audio"]) for _, rows in sorted(where.items()) if len(rows) == 2]


def one_per_concept(rows: np.ndarray, concepts: list[str]) -> np.ndarray:
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(concepts[row], int(row))
    return np.array(list(first.values()), dtype=np.int64)


def build(config: TrainConfig) -> EncoderRecipe:
    return EncoderRecipe(config)

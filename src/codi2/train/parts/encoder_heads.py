"""The heads of `tiny`'s encoder: one joint space with images as the anchor.

The loss is contrastive between pictures and their captions, sounds and their captions, and pictures and sounds of one
concept (ImageBind's recipe, with images as the common modality). In addition a linear map must recover the trunk's
features from each joint vector: a purely contrastive head loses style and timbre.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codi2.data import cache
from codi2.data.world import EDITS
from codi2.encode.appearance import fit_components, fit_discriminants, motion
from codi2.encode.tiny import Head, Heads, build_heads, load_heads, load_trunk
from codi2.metrics.retrieval import recall_at
from codi2.train.config import TrainConfig, options_of
from codi2.train.loop import WHOLE, Share
from codi2.train.parts.draw import numpy_at
from codi2.train.parts.encoder import contrast, one_per_concept, same_concept, shared_concepts

PLAIN = "plain"  # the view of items as they are


@dataclass(frozen=True)
class HeadOptions:
    dim: int = 256  # D, width of the joint space
    recover_weight: float = 1.0  # of the linear recovery of the trunk's features
    views: tuple[str, ...] = (PLAIN, "mirror", "grey", "hue_120", "on_blue", "night", "sketch")


@dataclass
class _Side:
    """The data of one modality: features of each view, and the concept and caption of each row."""

    features: Tensor  # [V, N, S, C]
    train: np.ndarray  # rows
    concepts: list[str]
    captions: Tensor  # [N, 1, 384]


class HeadRecipe:
    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.options = options = options_of(HeadOptions, config)
        torch.manual_seed(config.seed)
        self.sides = {"image": _side("image", options.views), "audio": _side("audio", (PLAIN,))}
        self.heads = heads = build_heads(options.dim)
        self.recover = nn.ModuleDict({m: nn.Linear(options.dim, s.features.shape[-1]) for m, s in self.sides.items()})
        self.model = nn.ModuleDict({"heads": heads, "recover": self.recover})
        captions = torch.cat([side.captions[side.train] for side in self.sides.values()])
        _standardize(heads["phrase"], captions)
        self.explained: dict[str, float] = {}  # share of their numbers' variance that the fitted tokens keep
        for modality, side in self.sides.items():
            _standardize(heads[modality], side.features[:, side.train].flatten(0, 1))
            self.explained |= fit_tokens(heads[modality], modality, side.train)
        self.both = shared_concepts(self.sides)

    def batch(self, step: int, share: Share = WHOLE) -> dict[str, Any]:
        draw, size = numpy_at(self.config.seed, step), self.config.batch_size
        picks: dict[str, Any] = {}
        for modality, side in self.sides.items():
            rows = draw.choice(side.train, min(size, len(side.train)), replace=False)
            picks[modality] = (draw.integers(len(side.features), size=len(rows)), rows)
        concepts = draw.permutation(len(self.both))[:size]
        picks["pairs"] = [tuple(int(draw.choice(rows)) for rows in self.both[c]) for c in concepts]
        return picks

    def losses(self, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        heads, recover = self.heads, self.recover
        out: dict[str, Tensor] = {}
        for modality, side in self.sides.items():
            views, rows = batch[modality]
            trunk = side.features[views, rows].float()
            joint = heads[modality](trunk)[:, 0]
            words = heads["phrase"](side.captions[rows].float())[:, 0]
            same = same_concept([side.concepts[r] for r in rows])
            out[f"{modality}_text"] = contrast(joint, words, same)
            pooled = (trunk - heads[modality].mean) / heads[modality].std
            pooled = pooled.mean(1) if heads[modality].pool == "mean" else pooled.amax(1)
            out[f"{modality}_recover"] = F.mse_loss(recover[modality](joint), pooled)
        if batch["pairs"]:
            image_rows, audio_rows = (list(rows) for rows in zip(*batch["pairs"], strict=True))
            image = heads["image"](self.sides["image"].features[0, image_rows].float())[:, 0]
            audio = heads["audio"](self.sides["audio"].features[0, audio_rows].float())[:, 0]
            # the image is the anchor: only the sound gets a gradient
            same = torch.eye(len(image), dtype=torch.bool)
            out["audio_image"] = contrast(audio, image.detach(), same)
        loss = sum(v * (self.options.recover_weight if k.endswith("recover") else 1.0) for k, v in out.items())
        return {"loss": torch.as_tensor(loss), **out}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        heads = self.heads
        figures = {f"{name}_explained": share for name, share in self.explained.items()}
        for modality, side in self.sides.items():
            for split in ("test_rendering", "test_family"):
                rows = one_per_concept(cache.rows(modality, split), side.concepts)
                media = heads[modality](side.features[0, rows].float())[:, 0]
                words = heads["phrase"](side.captions[rows].float())[:, 0]
                figures |= {f"text_{modality}_{split}_r5": recall_at(5, words, media, candidates=100)["mean"]}
        return figures

    @torch.no_grad()
    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        from codi2.heads.recall import FILE, Recall
        from codi2.nearest import write_index
        from codi2.weight_files import export_tensors

        self.explained |= fit_clips(self.heads)
        export_tensors(self.heads.state_dict(), folder / "heads.safetensors", provenance)
        features = {modality: self._features(modality) for modality in self.sides}
        Recall(features | {"video": clip_features(self.heads)}).save(folder / FILE)
        rows = {m: side.train for m, side in self.sides.items()} | {"video": cache.rows("video", "train")}
        members = {m: [cache.items(m)[row] for row in rows_of_modality] for m, rows_of_modality in rows.items()}
        write_index(folder / "nearest", members, cache.view("image"))

    def _features(self, modality: str) -> Tensor:
        """Of training items as they are [N, T, D]."""
        side = self.sides[modality]
        numbers = [torch.from_numpy(x[side.train].astype(np.float32)) for x in cache.statistics(modality, PLAIN)]
        features: Tensor = self.heads(modality, side.features[0, side.train].float(), *numbers)
        return features

    def restore(self, folder: Path) -> None:
        """The heads only; the maps that recover the trunk's features are not exported and start untrained."""
        self.heads.load_state_dict(load_heads(folder / "heads.safetensors", self.options.dim).state_dict())


def _side(modality: str, views: tuple[str, ...]) -> _Side:
    items = cache.items(modality)
    features = np.stack([cache.trunk_features(modality, name) for name in views])
    captions = cache.phrase_features([item.caption for item in items])
    return _Side(
        torch.from_numpy(features),
        cache.rows(modality, "train"),
        [item.concept for item in items],
        torch.from_numpy(np.array(captions)),
    )


def _standardize(head: Head, features: Tensor) -> None:
    flat = features.flatten(0, 1).float()
    head.mean.copy_(flat.mean(0))
    head.std.copy_(flat.std(0).clamp(min=1e-3))


def fit_tokens(head: Head, modality: str, rows: np.ndarray) -> dict[str, float]:
    """Appearance and manner, on every edit of the training items, as many of each as make 20,000 samples.

    Returns:
        The share of the variance that the appearance token keeps, and the share of the manner token's variance that
        lies between styles and edits.
    """
    names = [transform.name for transform in EDITS[modality].TRANSFORMS]
    draw = np.random.default_rng(0)
    chosen = [np.sort(draw.choice(rows, min(len(rows), 20_000 // len(names)), replace=False)) for _ in names]
    views = [
        [values[sample] for values in cache.statistics(modality, name)]
        for name, sample in zip(names, chosen, strict=True)
    ]
    samples = [torch.from_numpy(np.concatenate(parts).astype(np.float32)) for parts in zip(*views, strict=True)]
    assert head.appearance is not None
    shares = {f"appearance_{modality}": fit_components(head.appearance, samples[0])}
    if head.manner is not None:
        items = cache.items(modality)
        styles = [f"{items[row].style} {name}" for name, sample in zip(names, chosen, strict=True) for row in sample]
        kinds = torch.from_numpy(np.unique(styles, return_inverse=True)[1])
        shares[f"manner_{modality}"] = fit_discriminants(head.manner, samples[1], kinds)
    return shares


@torch.no_grad()
def fit_clips(heads: Heads) -> dict[str, float]:
    """Motion as principal components over training clips, both ways round.

    Returns:
        The share of the variance of motion that its token keeps.
    """
    frames = cache.corpus().clips[cache.rows("video", "train")]
    moves = motion(torch.from_numpy(frames).movedim(-1, 2).float() / 127.5 - 1)
    mirrored = motion(torch.from_numpy(frames[:, :, :, ::-1].copy()).movedim(-1, 2).float() / 127.5 - 1)
    return {"motion_video": fit_components(heads.motion, torch.cat([moves, mirrored]))}


def clip_features(heads: Heads) -> Tensor:
    """Of training clips as they are [N, T, D]."""
    trunk, frames = load_trunk("video"), torch.from_numpy(cache.corpus().clips[cache.rows("video", "train")])
    batches = [heads("video", trunk(batch), *trunk.statistics(batch)) for batch in frames.split(cache.BATCH)]
    return torch.cat(batches)


def build(config: TrainConfig) -> HeadRecipe:
    return HeadRecipe(config)

"""The networks of published figures, by hub id or path: DINO, CLIP. Figures by them bear their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from codi2.hub import hub_errors
from codi2.prompt.parts import Image

DINO, CLIP = "facebook/dino-vits16", "openai/clip-vit-base-patch32"
"""As in DreamBooth's evaluation."""
BATCH = 32


@dataclass(frozen=True)
class Backbones:
    """Where the networks come from."""

    dino: str = DINO
    clip: str = CLIP


class Dino:
    """Pictures → unit vectors [n, C]: the class token's last state."""

    def __init__(self, source: str) -> None:
        """Raises WeightsError: neither a folder nor on the hub."""
        from transformers import AutoImageProcessor, ViTModel

        with hub_errors(f"DINO {source!r}"):
            self.processor = AutoImageProcessor.from_pretrained(source)
            self.network = ViTModel.from_pretrained(source, add_pooling_layer=False).eval()

    @torch.inference_mode()
    def pictures(self, pictures: Sequence[Image]) -> Tensor:
        states = [self.network(**batch).last_hidden_state[:, 0] for batch in _batches(self.processor, pictures)]
        return F.normalize(torch.cat(states), dim=-1)


class Clip:
    """Pictures and words → unit vectors [n, C] of one space."""

    def __init__(self, source: str) -> None:
        """Raises WeightsError: neither a folder nor on the hub."""
        from transformers import AutoProcessor, CLIPModel

        with hub_errors(f"CLIP {source!r}"):
            self.processor = AutoProcessor.from_pretrained(source)
            self.network = CLIPModel.from_pretrained(source).eval()

    @torch.inference_mode()
    def pictures(self, pictures: Sequence[Image]) -> Tensor:
        network = self.network
        pooled = [
            network.vision_model(**batch).pooler_output for batch in _batches(self.processor.image_processor, pictures)
        ]
        return F.normalize(network.visual_projection(torch.cat(pooled)), dim=-1)

    @torch.inference_mode()
    def words(self, texts: Sequence[str]) -> Tensor:
        tokens = self.processor.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        pooled = self.network.text_model(**tokens).pooler_output
        return F.normalize(self.network.text_projection(pooled), dim=-1)


def _batches(processor: Any, pictures: Sequence[Image]) -> Any:
    """Each as its own processor prepares it: size, crop and normalisation are part of the published figure."""
    for start in range(0, len(pictures), BATCH):
        some = [picture.pixels for picture in pictures[start : start + BATCH]]
        yield {"pixel_values": processor(images=some, return_tensors="pt").pixel_values}

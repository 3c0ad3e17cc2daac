"""A whole debug-size MLLM and the media to feed it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torch import Tensor

from codi2.config import DEBUG
from codi2.encode.debug import DebugEncoder
from codi2.llm.backbone import Backbone, byte_tokenizer, random_llm
from codi2.llm.mllm import MLLM, stack_features
from codi2.prompt.layout import Batch, Layout
from codi2.prompt.parts import Audio, Image, Part


def picture(seed: int) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Image(PILImage.fromarray(pixels))


def sound(seed: int) -> Audio:
    return Audio(np.random.default_rng(seed).uniform(-1, 1, 4000).astype(np.float32), 16_000)


class Kit:
    """The parts of a model that `model.py` wires, without decoders."""

    def __init__(self, tied: bool = True) -> None:
        torch.manual_seed(0)
        self.config = DEBUG
        self.backbone = Backbone(random_llm(tied), byte_tokenizer(), DEBUG.llm)
        self.mllm = MLLM(self.backbone, DEBUG.heads)
        self.encoder = DebugEncoder(DEBUG.heads.feature_dim, DEBUG.encoder.num_features)
        self.layout = Layout(
            self.backbone.tokenizer, DEBUG.encoder.num_features, DEBUG.heads.num_slots, DEBUG.llm.max_length
        )
        with torch.no_grad():  # LoRA's B is zero at first
            for name, parameter in self.mllm.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.2)

    def encode(self, items: Sequence[Part]) -> Tensor:
        return stack_features([self.encoder([item])[0] for item in items], DEBUG.heads.feature_dim)

    def features(self, batch: Batch) -> Tensor:
        return self.encode(batch.items)


@pytest.fixture
def kit() -> Kit:
    return Kit()

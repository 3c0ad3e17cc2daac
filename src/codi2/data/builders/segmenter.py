"""CLIPSeg: masks of the objects in pictures that words name, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image as PILImage

from codi2.placement import Placement, check


def segment(
    model: str, wanted: Sequence[tuple[PILImage.Image, str]], device: str, batch: int, threshold: float
) -> Iterator[np.ndarray]:
    """bool [H, W] for each pair of picture and words: the pixels of the named object.

    Args:
        model: hub id or folder.
        batch: pairs in a call of the network.
        threshold: of the probability, 0 to 1.

    Raises:
        WeightsError: there is no such model. ConfigError: there is no such device.
    """
    import torch

    processor, network = _segmenter(model, device)
    for start in range(0, len(wanted), batch):
        pictures, words = zip(*wanted[start : start + batch], strict=True)
        inputs = processor(
            text=list(words), images=[p.convert("RGB") for p in pictures], padding=True, return_tensors="pt"
        ).to(device)
        with torch.inference_mode():
            logits = network(**inputs).logits
            logits = logits.reshape(len(words), 1, *logits.shape[-2:])  # the network drops the first axis of one pair
            for picture, mask in zip(pictures, logits, strict=True):
                full = torch.nn.functional.interpolate(mask[None], picture.size[::-1], mode="bilinear")
                yield (full[0, 0].sigmoid() > threshold).cpu().numpy()


@lru_cache(maxsize=1)
def _segmenter(model: str, device: str) -> tuple[Any, Any]:
    """Raises WeightsError: neither a folder nor on the hub. ConfigError: there is no such device."""
    from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

    from codi2.hub import hub_errors

    check(Placement(device))
    with hub_errors(f"the segmenter {model!r}"):
        network = CLIPSegForImageSegmentation.from_pretrained(model)
        return CLIPSegProcessor.from_pretrained(model), network.eval().to(device)

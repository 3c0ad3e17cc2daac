"""The networks of published figures, by hub id or path: DINO, CLIP, Inception, PANNs. Figures bear their names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PILImage
from torch import Tensor

from codi2.errors import WeightsError
from codi2.hub import hub_errors, sha256_of, weight_file
from codi2.prompt.parts import Image

if TYPE_CHECKING:
    from codi2.evaluate.inception import Inception
    from codi2.evaluate.panns import Cnn14

DINO = "facebook/dino-vits16"
INCEPTION_FILE, PANNS_FILE = "pt_inception-2015-12-05-6726825d.pth", "Cnn14_16k_mAP=0.438.pth"
WEIGHTS = (".safetensors", ".bin", ".pth")
BATCH = 32
Crop = Literal["original crop", "processor"]
CROPS: tuple[Crop, ...] = ("original crop", "processor")
"""How pictures are brought to a network: as its makers' own code crops them, or as the processor of transformers does,
which stretches pictures for DINO. Published figures are by one or the other, and seldom say by which."""
DINO_SHORTER = 256 / 224  # the shorter side before the centre crop, over the crop's side


@dataclass(frozen=True)
class Backbones:
    """Where the networks come from: hub id, folder or file."""

    dino: str = DINO
    clip: str = ""
    """Empty: the one that the suite's published figures are by, `Clip.BASE` or `Clip.LARGE`."""
    inception: str = ""
    """Empty: no FID."""
    panns: str = ""
    device: str = "cpu"
    """Where they run; what they give is on the CPU."""


class Dino:
    """Pictures → unit vectors [n, C]: the class token's last state."""

    def __init__(self, source: str, device: str = "cpu") -> None:
        """Raises WeightsError: neither a folder nor on the hub."""
        from transformers import AutoImageProcessor, ViTModel

        with hub_errors(f"DINO {source!r}"):
            self.processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
            self.network = ViTModel.from_pretrained(source, add_pooling_layer=False).eval().to(device)

    @torch.inference_mode()
    def pictures(self, pictures: Sequence[Image], crop: Crop = "processor") -> Tensor:
        size = self.network.config.image_size
        shorter = round(size * DINO_SHORTER) if crop == "original crop" else None
        batches = _batches(self.processor, pictures, self.network.device, shorter, size)
        states = [self.network(**batch).last_hidden_state[:, 0] for batch in batches]
        return F.normalize(torch.cat(states), dim=-1).cpu()


class Clip:
    """Pictures and words → unit vectors [n, C] of one space."""

    BASE = "openai/clip-vit-base-patch32"  # DreamBooth's
    LARGE = "openai/clip-vit-large-patch14"  # InstructPix2Pix's

    def __init__(self, source: str, device: str = "cpu") -> None:
        """Raises WeightsError: neither a folder nor on the hub."""
        from transformers import AutoProcessor, CLIPModel

        with hub_errors(f"CLIP {source!r}"):
            self.processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
            self.network = CLIPModel.from_pretrained(source).eval().to(device)

    @torch.inference_mode()
    def pictures(self, pictures: Sequence[Image], crop: Crop = "processor") -> Tensor:
        network, size = self.network, self.network.config.vision_config.image_size
        shorter = size if crop == "original crop" else None
        batches = _batches(self.processor.image_processor, pictures, network.device, shorter, size)
        pooled = [network.vision_model(**batch).pooler_output for batch in batches]
        return F.normalize(network.visual_projection(torch.cat(pooled)), dim=-1).cpu()

    @torch.inference_mode()
    def words(self, texts: Sequence[str]) -> Tensor:
        tokens = self.processor.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        tokens = tokens.to(self.network.device)
        pooled = self.network.text_model(**tokens).pooler_output
        return F.normalize(self.network.text_projection(pooled), dim=-1).cpu()


def fid_network(source: str, device: str = "cpu") -> Inception:
    """Raises WeightsError: it is not there, or another network."""
    from codi2.evaluate.inception import load_inception

    return load_inception(weight_file(source, (INCEPTION_FILE, "inception.safetensors"))).to(device)


def panns_network(source: str, device: str = "cpu") -> Cnn14:
    """Raises WeightsError: it is not named, not there, or another network."""
    from codi2.evaluate.panns import load_panns

    if not source:
        raise WeightsError(f"published figures of sounds are by PANNs: name the file {PANNS_FILE} with --panns")
    return load_panns(weight_file(source, (PANNS_FILE, "cnn14_16k.safetensors"))).to(device)


def identity(source: str) -> str:
    """What tells a network's weights from others: SHA-256 of a file or of a folder's weights, or the hub's commit."""
    path = Path(source).expanduser()
    if path.exists():
        files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in WEIGHTS)
        return f"{path.name} sha256:" + "+".join(sha256_of(file)[:16] for file in files)
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(source, "config.json")
    return f"{source}@{Path(cached).parent.name}" if isinstance(cached, str) else source


def cropped(pictures: Sequence[Image], shorter: int, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """float32 [n, 3, size, size]: shorter side to `shorter` by bicubic, the centre square of `size`, normalised."""
    rows = []
    for picture in pictures:
        pixels = picture.pixels.convert("RGB")
        least = min(pixels.size)
        width, height = (int(shorter * side / least) for side in pixels.size)
        left, top = round((width - size) / 2), round((height - size) / 2)
        small = pixels.resize((width, height), PILImage.Resampling.BICUBIC).crop((left, top, left + size, top + size))
        rows.append(torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255)
    return (torch.stack(rows) - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def _batches(
    processor: Any, pictures: Sequence[Image], device: torch.device, shorter: int | None, size: int
) -> Iterator[dict[str, Tensor]]:
    """By the original crop where `shorter` says its shorter side, otherwise by the processor."""
    for start in range(0, len(pictures), BATCH):
        batch = pictures[start : start + BATCH]
        if shorter is None:
            values = processor(images=[picture.pixels for picture in batch], return_tensors="pt").pixel_values
        else:
            values = cropped(batch, shorter, size, processor.image_mean, processor.image_std)
        yield {"pixel_values": values.to(device)}

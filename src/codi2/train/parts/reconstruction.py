"""How far a picture or a log-mel spectrogram is from the one it should be, for the codecs and for tuned decoders.

Letters: B batch, C channels, H W size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codi2.diffuse.vocoder import ISTFTVocoder
from codi2.encode.aisfx import AiSFX, embedding
from codi2.encode.appearance import manner
from codi2.encode.efficientnet import EfficientNetLite
from codi2.tensors import full_precision

Terms = dict[str, Tensor]
WINDOW = (8, 8)  # frames, and bins of mel, that are heard as one


def reconstruction_terms(ours: Tensor, target: Tensor) -> Terms:
    """Mean absolute errors of maps [B, C, H, W]: of the numbers, of neighbours' differences, and of 4×4 averages.

    Blur is what a plain mean absolute error forgives first, and colour over a few pixels is what the fine terms hardly
    feel.
    """
    ours = ours.float()
    return {
        "l1": F.l1_loss(ours, target),
        "edges": F.l1_loss(ours.diff(dim=-1), target.diff(dim=-1)) + F.l1_loss(ours.diff(dim=-2), target.diff(dim=-2)),
        "tone": F.l1_loss(F.avg_pool2d(ours, 4), F.avg_pool2d(target, 4)),
    }


def change_terms(ours: Tensor, target: Tensor) -> Terms:
    """Mean squared errors of a clip's changes [B, C, H, W]: of the numbers, and of 4×4 averages.

    Most places stay as they are, so that no change at all has a small absolute error, and networks end there.
    """
    return {
        "square": F.mse_loss(ours.float(), target),
        "tone": F.mse_loss(F.avg_pool2d(ours.float(), 4), F.avg_pool2d(target, 4)),
    }


def motion_term(ours: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of what changes from frame to frame of clips [B, C, F, H, W]."""
    return F.l1_loss(ours.diff(dim=2), target.diff(dim=2))


def loudness_term(ours: Tensor, target: Tensor, half_range: float) -> Tensor:
    """Mean absolute error of how loud windows of log-mel spectrograms [B, 1, T, M] are, in their own units.

    What is foretold of logarithms is their mean, and a mean of logarithms is fainter than the logarithm of the mean:
    sounds that are drawn in one step come out 10 dB too quiet. So the energies are summed before they are compared.

    Args:
        half_range: nats of magnitude in a unit (`MelSpectrogram.half_range`).
    """
    energy = 2 * half_range  # nats in a unit
    whole = (ours.shape[-2], ours.shape[-1])
    heard = [
        [F.avg_pool2d((energy * maps).exp(), size).log() / energy for maps in (ours, target)]
        for size in (WINDOW, whole)
    ]
    return torch.stack([F.l1_loss(a, b) for a, b in heard]).sum()


def frames_of(media: Tensor, frames: tuple[int, ...] = ()) -> Tensor:
    """Pictures and spectrograms [B, C, H, W] as they are, of clips [B, C, F, H, W] these frames, or all."""
    if media.ndim == 4:
        return media
    return (media[:, :, list(frames)] if frames else media).transpose(1, 2).flatten(0, 1)


def total(terms: Terms) -> Tensor:
    """The terms as one loss."""
    return terms["l1"] + 0.5 * terms["edges"] + terms["tone"]


class Perception(nn.Module):
    """Distance of pictures as a frozen classifier sees them, in the manner of LPIPS (arXiv:1801.03924).

    A network that must say how a thing is drawn without knowing it blurs, since the mean of all it might be has the
    smallest error in pixels. The distance is that of the encoder's trunk, never of the network that judges pictures.

    Args:
        net: the trunk.
        size: pictures are enlarged to this side.
        aligned: weight of the maps compared place by place.
        manner: weight of the maps compared by their channels' means and spreads, wherever in the picture they are: two
            hands that draw one thing seldom put its lines in the same places, but each has its own kind of them.
        direction: weight of the way from a source to our picture compared with the way from it to the target, in the
            manner of StyleGAN-NADA (arXiv:2108.00946): what an edit changes is small beside what it leaves, so that a
            distance alone is nearly content with a copy.
    """

    TAPS = (1, 3, 5, 11)  # blocks after which maps are compared, beside the stem
    LAST = 1.0  # weight of the last maps' means, where what the picture shows counts and not where it stands

    def __init__(
        self, net: EfficientNetLite, size: int = 112, aligned: float = 1.0, manner: float = 0.0, direction: float = 0.0
    ) -> None:
        super().__init__()
        self.net, self.size = net, size
        self.aligned, self.manner, self.direction = aligned, manner, direction

    def forward(
        self,
        ours: Tensor,
        target: Tensor,
        source: Tensor | None = None,
        edits: Tensor | None = None,
        shift: tuple[int, int] = (0, 0),
        mirrored: bool = False,
    ) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] → mean distance []; the gradient flows through `ours`.

        All are moved by `shift` pixels and mirrored first: drawn anew for each step, this keeps a decoder from
        learning what only one place under the network's strides can see. `edits` [B] says which samples have a source.
        """
        ours, target = (_moved(pictures, shift, mirrored) for pictures in (ours, target))
        with torch.no_grad():
            *theirs_maps, their_last = self._maps(target)
        *ours_maps, our_last = self._maps(ours)
        distance = self.LAST * _apart(our_last.mean((2, 3)), their_last.mean((2, 3)))
        pairs = list(zip(ours_maps, theirs_maps, strict=True))
        distance = distance + self.aligned * torch.stack([_apart(a, b) for a, b in pairs]).mean()
        if self.manner:
            kinds = [_apart(manner(a), manner(b)) for a, b in pairs]
            distance = distance + self.manner * torch.stack(kinds).mean()
        if self.direction and source is not None and edits is not None and edits.any():
            with torch.no_grad():
                *source_maps, source_last = self._maps(_moved(source[edits], shift, mirrored))
            tripled = zip((*ours_maps, our_last), (*theirs_maps, their_last), (*source_maps, source_last), strict=True)
            ways = [_elsewhere(a[edits], b[edits], c) for a, b, c in tripled]
            distance = distance + self.direction * torch.stack(ways).mean()
        return distance

    def _maps(self, pictures: Tensor) -> list[Tensor]:
        """Maps [B, C, h, w] at the taps, and the last ones."""
        x = F.interpolate(pictures.float() / 2 + 0.5, size=(self.size, self.size), mode="bilinear")
        x = x.to(next(self.net.parameters()).dtype).contiguous(memory_format=torch.channels_last)
        with full_precision(x):  # its depthwise convolutions are several times slower in bfloat16 on a CPU
            return [maps.float() for maps in self.net.stages(x, (-1, *self.TAPS))]


class Hearing(nn.Module):
    """`Perception` of sounds: log-mel spectrograms as the encoder's trunk hears what the vocoder makes of them.

    Args:
        vocoder: stays as it is.
        trunk: likewise.
    """

    def __init__(self, vocoder: ISTFTVocoder, trunk: AiSFX) -> None:
        super().__init__()
        self.vocoder, self.trunk = vocoder.requires_grad_(False), trunk

    def forward(self, ours: Tensor, target: Tensor) -> Tensor:
        """Log-mel [B, 1, T, M] → mean distance []; the gradient flows through `ours`."""
        with torch.no_grad():
            *theirs_maps, their_last = self._maps(target)
        *ours_maps, our_last = self._maps(ours)
        placed = torch.stack([_apart(a, b) for a, b in zip(ours_maps, theirs_maps, strict=True)]).mean()
        return placed + _apart(embedding(our_last), embedding(their_last))

    def _maps(self, log_mel: Tensor) -> list[Tensor]:
        """Maps behind each block of the trunk, and the last over time alone [B, C, T']."""
        *maps, last = self.trunk.stages(self.vocoder(log_mel))
        return [*maps, last, last.mean(dim=3)]


def _apart(ours: Tensor, theirs: Tensor) -> Tensor:
    """Mean squared distance of [B, C, …], each brought to unit length in its channels."""
    difference = F.normalize(ours, dim=1) - F.normalize(theirs, dim=1)
    return difference.square().sum(1).mean()


def _elsewhere(ours: Tensor, theirs: Tensor, source: Tensor) -> Tensor:
    """How far the ways from the source's kind of lines to ours and to theirs part: 0 one way, 1 across, 2 against."""
    a, b, start = (F.normalize(manner(maps), dim=1) for maps in (ours, theirs, source))
    return 1 - F.cosine_similarity(a - start, b - start, dim=1).mean()


def _moved(pictures: Tensor, shift: tuple[int, int], mirrored: bool) -> Tensor:
    """[B, C, H, W] moved down and right by `shift` pixels, either may be negative; white comes in."""
    down, right = shift
    moved = F.pad(pictures, (right, -right, down, -down), value=1.0)
    return moved.flip(-1) if mirrored else moved

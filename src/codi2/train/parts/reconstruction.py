"""Distances of pictures, log-mel spectrograms and clips from their targets, for autoencoders and decoders.

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
WINDOW = (8, 8)  # frames and mel bins over which energies are summed


def reconstruction_terms(ours: Tensor, target: Tensor) -> Terms:
    """Mean absolute errors of maps [B, C, H, W]: of the values, of differences of neighbours, and of 4×4 averages.

    The error of the values has a small penalty for blur, which that of the differences corrects; the error of averages
    penalises wrong colours.
    """
    ours = ours.float()
    return {
        "l1": F.l1_loss(ours, target),
        "edges": F.l1_loss(ours.diff(dim=-1), target.diff(dim=-1)) + F.l1_loss(ours.diff(dim=-2), target.diff(dim=-2)),
        "tone": F.l1_loss(F.avg_pool2d(ours, 4), F.avg_pool2d(target, 4)),
    }


def change_terms(ours: Tensor, target: Tensor) -> Terms:
    """Mean squared errors of differences of frames [B, C, H, W]: of the values, and of 4×4 averages.

    Most differences are zero, so with absolute errors networks learn to predict zero everywhere.
    """
    return {
        "square": F.mse_loss(ours.float(), target),
        "tone": F.mse_loss(F.avg_pool2d(ours.float(), 4), F.avg_pool2d(target, 4)),
    }


def motion_term(ours: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of the differences of adjacent frames of clips [B, C, F, H, W]."""
    return F.l1_loss(ours.diff(dim=2), target.diff(dim=2))


def loudness_term(ours: Tensor, target: Tensor, half_range: float) -> Tensor:
    """Mean absolute error of the loudness of windows of log-mel spectrograms [B, 1, T, M], in their units.

    A prediction of logarithms is their mean, which is below the logarithm of the mean: sounds drawn in one step are 10
    dB too quiet. So energies are summed before they are compared.

    Args:
        half_range: nats of magnitude in a unit (`MelSpectrogram.half_range`).
    """
    energy = 2 * half_range  # nats in a unit
    whole = (ours.shape[-2], ours.shape[-1])
    loudness = [
        [F.avg_pool2d((energy * maps).exp(), size).log() / energy for maps in (ours, target)]
        for size in (WINDOW, whole)
    ]
    return torch.stack([F.l1_loss(a, b) for a, b in loudness]).sum()


def frames_of(media: Tensor, frames: tuple[int, ...] = ()) -> Tensor:
    """Pictures and spectrograms [B, C, H, W] unchanged; of clips [B, C, F, H, W] these frames, or all."""
    if media.ndim == 4:
        return media
    return (media[:, :, list(frames)] if frames else media).transpose(1, 2).flatten(0, 1)


def total(terms: Terms) -> Tensor:
    """The weighted sum of the terms."""
    return terms["l1"] + 0.5 * terms["edges"] + terms["tone"]


class Perception(nn.Module):
    """Distance of pictures in the features of a frozen classifier, similar to LPIPS (arXiv:1801.03924).

    The mean of all possible pictures has the smallest pixel error, so a network with a pixel loss blurs. The classifier
    is the encoder's trunk, never the network that judges pictures in evaluations.

    Args:
        net: the trunk.
        size: pictures are enlarged to this side.
        aligned: weight of the maps, compared position by position.
        manner: weight of the means and standard deviations of the maps' channels, which describe style: two styles
            seldom have lines at the same positions, but differ in their kinds of lines.
        direction: weight of the difference of two directions, from a source to our picture and to the target, similar
            to StyleGAN-NADA (arXiv:2108.00946): an edit changes little of a source, so a copy has a small distance.
    """

    TAPS = (1, 3, 5, 11)  # blocks after which maps are compared, in addition to the stem
    LAST = 1.0  # weight of the last maps' means, which describe content without position

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

        All are first moved by `shift` pixels and mirrored. Random shifts keep a decoder from fitting the strides of the
        network. `edits` bool [B] says which samples have a source.
        """
        ours, target = (_moved(pictures, shift, mirrored) for pictures in (ours, target))
        with torch.no_grad():
            *target_maps, target_last = self._maps(target)
        *our_maps, our_last = self._maps(ours)
        distance = self.LAST * _distance(our_last.mean((2, 3)), target_last.mean((2, 3)))
        pairs = list(zip(our_maps, target_maps, strict=True))
        distance = distance + self.aligned * torch.stack([_distance(a, b) for a, b in pairs]).mean()
        if self.manner:
            styles = [_distance(manner(a), manner(b)) for a, b in pairs]
            distance = distance + self.manner * torch.stack(styles).mean()
        if self.direction and source is not None and edits is not None and edits.any():
            with torch.no_grad():
                *source_maps, source_last = self._maps(_moved(source[edits], shift, mirrored))
            triples = zip((*our_maps, our_last), (*target_maps, target_last), (*source_maps, source_last), strict=True)
            directions = [_direction_error(a[edits], b[edits], c) for a, b, c in triples]
            distance = distance + self.direction * torch.stack(directions).mean()
        return distance

    def _maps(self, pictures: Tensor) -> list[Tensor]:
        """Maps [B, C, h, w] at the taps, and the last ones."""
        x = F.interpolate(pictures.float() / 2 + 0.5, size=(self.size, self.size), mode="bilinear")
        x = x.to(next(self.net.parameters()).dtype).contiguous(memory_format=torch.channels_last)
        with full_precision(x):  # its depthwise convolutions are several times slower in bfloat16 on a CPU
            return [maps.float() for maps in self.net.stages(x, (-1, *self.TAPS))]


class Hearing(nn.Module):
    """`Perception` for sounds: the distance in the features of the encoder's trunk, which reads the vocoder's output.

    Args:
        vocoder: frozen.
        trunk: frozen.
    """

    def __init__(self, vocoder: ISTFTVocoder, trunk: AiSFX) -> None:
        super().__init__()
        self.vocoder, self.trunk = vocoder.requires_grad_(False), trunk

    def forward(self, ours: Tensor, target: Tensor) -> Tensor:
        """Log-mel [B, 1, T, M] → mean distance []; the gradient flows through `ours`."""
        with torch.no_grad():
            *target_maps, target_last = self._maps(target)
        *our_maps, our_last = self._maps(ours)
        aligned = torch.stack([_distance(a, b) for a, b in zip(our_maps, target_maps, strict=True)]).mean()
        return aligned + _distance(embedding(our_last), embedding(target_last))

    def _maps(self, log_mel: Tensor) -> list[Tensor]:
        """Maps after each block of the trunk, and the last averaged over frequency [B, C, T']."""
        *maps, last = self.trunk.stages(self.vocoder(log_mel))
        return [*maps, last, last.mean(dim=3)]


def _distance(ours: Tensor, target: Tensor) -> Tensor:
    """Mean squared distance of maps [B, C, …] with channels of unit length."""
    difference = F.normalize(ours, dim=1) - F.normalize(target, dim=1)
    return difference.square().sum(1).mean()


def _direction_error(ours: Tensor, target: Tensor, source: Tensor) -> Tensor:
    """1 - cosine of the directions from the source's style to ours and to the target's: 0 to 2."""
    a, b, start = (F.normalize(manner(maps), dim=1) for maps in (ours, target, source))
    return 1 - F.cosine_similarity(a - start, b - start, dim=1).mean()


def _moved(pictures: Tensor, shift: tuple[int, int], mirrored: bool) -> Tensor:
    """[B, C, H, W] moved down and right by `shift` pixels, which may be negative, and padded with white."""
    down, right = shift
    moved = F.pad(pictures, (right, -right, down, -down), value=1.0)
    return moved.flip(-1) if mirrored else moved

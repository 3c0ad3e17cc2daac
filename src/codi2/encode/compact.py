"""Compact features: the latent of a small convolutional autoencoder, cut into vectors of the joint width.

The joint vector describes the content of a medium; these vectors describe its form: layout, colours, strokes, or the
times of sounds. The autoencoder is trained once on the corpus and its edits (`train.parts.autoencoder`), with noise on
its latent, so that similar features decode to similar media. Afterwards only its encoder is needed.

Letters: B batch, C channels of the input maps, H W their size, c h w the latent's, S vectors, D joint width. S·D is
c·h·w.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import Decoder, Encoder
from torch import Tensor, nn

from codi2.tensors import groups_of


class CompactEncoder(ModelMixin, ConfigMixin):
    """Maps [B, C, H, W], about [-1, 1] → features [B, S, D], layer-normalised over all S·D numbers.

    Args:
        in_channels: C, 3 of pictures, 1 of log-mel spectrograms.
        latent_shape: [c, h, w].
        channels: of each level; each level but the last halves the sides of the patches.
        patch: side of the patches that become channels of the first level.
        dim: D.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int,
        latent_shape: tuple[int, int, int],
        channels: tuple[int, ...],
        patch: int = 2,
        dim: int = 256,
    ) -> None:
        super().__init__()
        self.net = Encoder(
            in_channels * patch**2,
            latent_shape[0],
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            block_out_channels=tuple(channels),
            layers_per_block=1,
            norm_num_groups=groups_of(channels),
            double_z=False,
            mid_block_add_attention=False,
        )

    def forward(self, maps: Tensor) -> Tensor:
        latent = self.net(F.pixel_unshuffle(maps, self.config["patch"])).flatten(1)
        return F.layer_norm(latent, latent.shape[1:]).unflatten(1, (-1, self.config["dim"]))


class CompactDecoder(nn.Module):
    """The decoder, for training only: features [B, S, D] → maps [B, C, H, W]."""

    def __init__(self, config: dict[str, object]) -> None:
        """Args: the config of the encoder."""
        super().__init__()
        channels: Sequence[int] = config["channels"]  # type: ignore[assignment]
        self.latent_shape: Sequence[int] = config["latent_shape"]  # type: ignore[assignment]
        self.patch: int = config["patch"]  # type: ignore[assignment]
        self.net = Decoder(
            self.latent_shape[0],
            config["in_channels"] * self.patch**2,  # type: ignore[operator]
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            block_out_channels=tuple(channels),
            layers_per_block=1,
            norm_num_groups=groups_of(channels),
            mid_block_add_attention=False,
        )

    def forward(self, features: Tensor) -> Tensor:
        return F.pixel_shuffle(self.net(features.reshape(-1, *self.latent_shape)), self.patch)

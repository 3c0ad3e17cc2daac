"""Makers compute the contents of a store from media, with an encoder or the autoencoders of the decoders.

A maker reads media in worker processes without a GPU, and computes on the device of its network.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from codi2.checkpoint import load_encoder, load_one_decoder, locate
from codi2.config import EncoderConfig
from codi2.diffuse.codec import Codec
from codi2.encode.contract import Encoder
from codi2.encode.imagebind import NUM_TOKENS
from codi2.errors import ConfigError
from codi2.prompt.parts import Part
from codi2.tensors import device_of, to_device
from codi2.train.bank import key_of
from codi2.train.encoded import weights_key

LATENTS = "latents-"  # prefix of the kind of latents, followed by the modality
LATENTS_VERSION = 1  # raise it when a codec changes the inputs of its autoencoder
_NOT_IN_KEY = ("id", "tokenizer", "num_features")  # fields of an encoder's config: names of files, and T


class FeatureMaker:
    """Features fp16 [T, D] of media and phrases, by the model's encoder."""

    def __init__(self, encoder: Encoder, config: EncoderConfig, features: int | None = None) -> None:
        """`features`: T of every modality, limited to what it has; None: the model's T of each modality."""
        self.network: nn.Module = encoder
        self.key = encoder_key(encoder, config)
        self.shapes = {m: (count, encoder.dim) for m, count in counts_for(config, features).items()}
        self.reads_words, self.in_half = config.reads_words, encoder.in_half
        self._encoder = encoder

    def read(self, parts: Sequence[Part]) -> Any:
        return self._encoder.read(parts)

    def make(self, modality: str, numbers: Any) -> Tensor:
        return self._encoder.forward_read(modality, numbers, self.shapes[modality][0]).values


class LatentMaker:
    """Latents fp16 [c, h, w] of media (of clips [c, F, h, w]), by the autoencoder of their modality's decoder."""

    reads_words = False
    in_half = True

    def __init__(self, codec: Codec, shape: tuple[int, ...]) -> None:
        self.network: nn.Module = codec
        self.key = latents_key(codec)
        self.shapes, self._codec = {codec.modality: shape}, codec

    def read(self, parts: Sequence[Part]) -> Any:
        return self._codec.read(parts)

    def make(self, modality: str, numbers: Any) -> Tensor:
        return self._codec.encode(self._codec.prepare(to_device(numbers, device_of(self.network))))


Maker = FeatureMaker | LatentMaker


@lru_cache(maxsize=2)
def load_maker(kind: str, model: str, features: int | None = None) -> Maker:
    """The maker of a model, on the CPU.

    Args:
        kind: `features`, or `latents-image`, `latents-audio`, `latents-video`.

    Raises:
        ConfigError, WeightsError: the model cannot be loaded.
    """
    config, folder = locate(model)
    torch.manual_seed(0)  # random weights, as in `debug`, are the same in every process
    if kind == "features":
        return FeatureMaker(load_encoder(config, folder), config.encoder, features)
    modality = kind.removeprefix(LATENTS)
    decoder = load_one_decoder(modality, config, folder and folder / modality)
    return LatentMaker(decoder.codec, decoder.latent_shape)


def kinds_of(model: str) -> list[str]:
    """The kinds of stores of a model. Raises ConfigError: the model is unknown."""
    config, _ = locate(model)
    return ["features", *(LATENTS + modality for modality in config.decoders)]


def counts_for(config: EncoderConfig, features: int | None) -> dict[str, int]:
    """Modality → T. Raises ConfigError: `features` is outside the encoder's range."""
    configured = dict(config.num_features)
    if features is None:
        return configured
    most = {m: NUM_TOKENS[m] for m in configured} if config.kind == "imagebind" else configured
    if not 1 <= features <= max(most.values()):
        raise ConfigError(
            f"--features is {features}; the encoder {config.kind!r} gives 1 (the joint vector) to {max(most.values())}"
        )
    return {m: min(features, count) for m, count in most.items()}


def encoder_key(encoder: Encoder, config: EncoderConfig) -> str:
    """The key of an encoder's features: a hash of its weights and config, without file names."""
    from dataclasses import asdict

    about = {name: value for name, value in asdict(config).items() if name not in _NOT_IN_KEY}
    return key_of({"weights": weights_key(encoder), **about})


def latents_key(codec: Codec) -> str:
    """The key of an autoencoder's latents: a hash of its weights and of the sizes of its inputs."""
    return key_of({"weights": weights_key(codec.vae), "version": LATENTS_VERSION, **_sizes(codec)})


def _sizes(codec: Codec) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(codec).items()
        if isinstance(value, (int, float, str)) and name != "training" and not name.startswith("_")
    }

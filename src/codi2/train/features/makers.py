"""The encoder of a store, with the shapes and the key of its features."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from codi2.checkpoint import load_encoder, locate
from codi2.config import EncoderConfig
from codi2.encode.contract import Encoder
from codi2.encode.imagebind import NUM_TOKENS
from codi2.errors import ConfigError
from codi2.train.bank import key_of
from codi2.train.encoded import weights_key

_NOT_IN_KEY = ("id", "tokenizer", "num_features")  # fields of an encoder's config: names of files, and T


class FeatureMaker:
    """Features fp16 [T, D] of media and phrases, by the model's encoder."""

    def __init__(self, encoder: Encoder, config: EncoderConfig, features: int | None = None) -> None:
        """`features`: T of every modality, limited to what it has; None: the model's T of each modality."""
        self.encoder = encoder
        self.key = encoder_key(encoder, config)
        self.shapes = {m: (count, encoder.dim) for m, count in counts_for(config, features).items()}
        self.reads_words = config.reads_words

    def make(self, modality: str, numbers: Any) -> Tensor:
        """float32 [n, T, D] of what the encoder's `read` made of n media of a modality, on the encoder's device."""
        return self.encoder.forward_read(modality, numbers, self.shapes[modality][0])


@lru_cache(maxsize=2)
def load_maker(model: str, features: int | None = None) -> FeatureMaker:
    """The maker of a model, on the CPU. Raises ConfigError, WeightsError: the model cannot be loaded."""
    config, folder = locate(model)
    torch.manual_seed(0)  # random weights, as in `debug`, are the same in every process
    return FeatureMaker(load_encoder(config, folder), config.encoder, features)


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

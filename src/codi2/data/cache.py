"""What frozen networks make of the corpus, computed once and kept.

A *view* is the corpus of one modality under one edit (`plain`, `grey`, …). Trunk features and latents of a view are one
`.npy` file each under `$CODI2_HOME/cache`, whose name holds a key of all that it depends on: the corpus, the edit and
the weights. New weights give a new key, so a stale file is never read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codi2.data.items import Corpus, Item, load_corpus
from codi2.hub import atomic_path, home, sha256_of

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 64  # samples per call of a frozen network


@lru_cache(maxsize=1)
def corpus() -> Corpus:
    """The built `tiny` corpus."""
    return load_corpus()


def view(modality: str, name: str = "plain") -> np.ndarray:
    """All media of a modality under one edit, in corpus order: uint8 [N, 64, 64, 3] or int16 [N, 40960]."""
    media = corpus().images if modality == "image" else corpus().sounds
    if name == "plain":
        return media
    if modality == "image":
        from codi2.data.transforms import BY_NAME
    else:
        from codi2.data.sound_transforms import BY_NAME  # type: ignore[assignment]
    return _cached(f"{modality}-{name}", [_media_hash(modality)], lambda: np.stack([BY_NAME[name].apply(m) for m in media]))


def trunk_features(modality: str, name: str = "plain") -> np.ndarray:
    """float16 [N, S, C]: what the encoder's frozen trunk gives for a view."""
    import torch

    from codi2.encode.tiny import load_trunk

    def compute() -> np.ndarray:
        trunk, media = load_trunk(modality), view(modality, name)
        return _batched(media, lambda x: trunk(torch.from_numpy(x) if modality == "image" else waveforms(x)))

    return _cached(f"{modality}-{name}-trunk", [_media_hash(modality), "lite0-160" if modality == "image" else "aisfx"], compute)


def latents(modality: str, decoder_folder: Path, name: str = "plain") -> np.ndarray:
    """float16 [N, c, h, w]: the codec's latents of a view, unit variance."""
    import torch

    from codi2.diffuse.codec import pixels_to_tensor
    from codi2.diffuse.load import load_codec

    def compute() -> np.ndarray:
        codec = load_codec(modality, decoder_folder)
        to_tensor = pixels_to_tensor if modality == "image" else lambda x: codec.mel(waveforms(x))
        return _batched(view(modality, name), lambda x: codec.encode(to_tensor(x)))

    weights = sha256_of(decoder_folder / "vae" / "diffusion_pytorch_model.safetensors")
    return _cached(f"{modality}-{name}-latents", [_media_hash(modality), weights], compute)


def phrase_features(texts: list[str]) -> np.ndarray:
    """float16 [len(texts), 1, 384]: MiniLM's mean states."""
    from codi2.encode.tiny import load_trunk

    key = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    return _cached("phrase-trunk", [key], lambda: _batched(np.array(texts), load_trunk("phrase")))


@lru_cache(maxsize=2)
def items(modality: str) -> list[Item]:
    """The items of a modality, in the order of its views."""
    return sorted(corpus().select(modality=modality), key=lambda item: item.row)


def rows(modality: str, *splits: str) -> np.ndarray:
    """Indices into the views of the items of these splits."""
    return np.array([item.row for item in items(modality) if item.split in splits], dtype=np.int64)


def pixels(split: str) -> np.ndarray:
    """uint8 [n, 64, 64, 3]."""
    return view("image")[rows("image", split)]


def mels(split: str) -> np.ndarray:
    """float16 [n, 1, 160, 64]: normalised log-mel."""
    import torch

    from codi2.diffuse.mel import MelSpectrogram

    mel = MelSpectrogram()
    everything = _cached("audio-mels", [_media_hash("audio")], lambda: _batched(view("audio"), lambda x: mel(waveforms(x))))
    return everything[rows("audio", split)]


def waveforms(samples: np.ndarray) -> Tensor:
    """int16 [B, N] → float32 [B, N] in [-1, 1]."""
    import torch

    return torch.from_numpy(samples.astype(np.float32) / 32767)


def _batched(media: np.ndarray, function: Callable[..., object]) -> np.ndarray:
    import torch
    from rich.progress import track

    outputs = []
    with torch.inference_mode():
        for start in track(range(0, len(media), BATCH), description="caching", transient=True):
            outputs.append(function(media[start : start + BATCH]).to(torch.float16).numpy())  # type: ignore[attr-defined]
    return np.concatenate(outputs)


@lru_cache(maxsize=2)
def _media_hash(modality: str) -> str:
    # of the media alone: a new caption or split must not throw hours of cached features away
    return sha256_of(corpus().folder / ("images.npy" if modality == "image" else "sounds.npy"))


def _cached(name: str, depends: list[str], compute: Callable[[], np.ndarray]) -> np.ndarray:
    key = hashlib.sha256("|".join([name, *depends]).encode()).hexdigest()[:12]
    path = home() / "cache" / f"{name}-{key}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        array = compute()
        with atomic_path(path) as aside, open(aside, "wb") as file:
            np.save(file, array)
    return np.load(path, mmap_mode="r")

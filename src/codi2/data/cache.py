"""Caches the outputs of frozen networks for the corpus.

A *view* is the corpus of one modality, as it is (`plain`) or with a random edit of every item (`edited-0`, …). Each
kind of output for a view is an array under `$CODI2_HOME/cache`. Its name has a hash of the versions of the edits and of
the network, and a second file has the hash of every row's medium: another version starts a new file, and after a change
of the corpus only new rows are computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from codi2.data.items import Corpus, Item, load_corpus
from codi2.hub import atomic_path, home
from codi2.progress import tracked

if TYPE_CHECKING:
    from torch import Tensor

TRUNKS = {"image": "lite0-160", "audio": "aisfx"}
"""The network and the size of its input, on which trunk features depend."""
EDITED = "edited-"
"""`edited-0`, `edited-1`, …: views in which every item has a random edit."""
EDITS_VERSION = "1"  # raise it when the output of an edit changes; a test detects changes of the code
BATCH = 64  # samples per call of a frozen network


@lru_cache(maxsize=1)
def corpus() -> Corpus:
    """The built `tiny` corpus."""
    return load_corpus()


def view(modality: str, name: str = "plain") -> np.ndarray:
    """All media of a modality in corpus order: uint8 [N, 64, 64, 3] or int16 [N, 40960]."""
    media = corpus().images if modality == "image" else corpus().sounds
    if name == "plain":
        return media
    number = int(name.removeprefix(EDITED))
    return _cached(
        f"{modality}-{name}",
        EDITS_VERSION,
        _row_keys(modality),
        lambda rows: np.stack([_edited(modality, row, number) for row in rows]),
    )


def _edited(modality: str, row: int, number: int) -> np.ndarray:
    """An item with a random edit, which is a function of the medium and `number`."""
    from codi2.data import edits

    key = int(_row_keys(modality)[row])
    return edits.draw(modality, np.random.default_rng((key, number)))(np.asarray(view(modality)[row]))


def trunk_features(modality: str, name: str = "plain") -> np.ndarray:
    """float16 [N, S, C]: the output of the encoder's frozen trunk for a view."""
    import torch

    from codi2.encode.trunks import load_trunk

    def compute(rows: np.ndarray) -> np.ndarray:
        trunk = load_trunk(modality)
        return _batched(
            view(modality, name)[rows], lambda x: trunk(torch.from_numpy(x) if modality == "image" else waveforms(x))
        )

    version = EDITS_VERSION if name.startswith(EDITED) else ""
    return _cached(f"{modality}-{name}-trunk", TRUNKS[modality] + version, _row_keys(modality), compute)


def codec_inputs(modality: str, media: np.ndarray) -> Tensor:
    """Media of a view → the input of the codec [B, channels, H, W]: pixels or normalised log-mel."""
    from codi2.media.prepare import pixels_to_tensor

    if modality == "image":
        return pixels_to_tensor(media)
    mel: Tensor = _mel()(waveforms(media))
    return mel


@lru_cache(maxsize=1)
def _mel() -> Any:
    from codi2.media.mel import MelSpectrogram

    return MelSpectrogram()


def phrase_features(texts: list[str]) -> np.ndarray:
    """float16 [len(texts), 1, 384]: MiniLM's mean states."""
    from codi2.encode.trunks import load_trunk

    distinct = sorted(set(texts))
    trunk = _cached(
        "phrase-trunk", "", _hashes(distinct), lambda rows: _batched(np.array(distinct)[rows], load_trunk("phrase"))
    )
    place = {text: i for i, text in enumerate(distinct)}
    return trunk[[place[text] for text in texts]]


@lru_cache(maxsize=3)
def items(modality: str) -> list[Item]:
    """The items of a modality, in the order of its array."""
    return sorted(corpus().select(modality=modality), key=lambda item: item.row)


def rows(modality: str, *splits: str) -> np.ndarray:
    """int64 [n]: the rows of the items of these splits in the array of a modality."""
    return np.array([item.row for item in items(modality) if item.split in splits], dtype=np.int64)


def waveforms(samples: np.ndarray) -> Tensor:
    """int16 [B, N] → float32 [B, N] in [-1, 1]."""
    import torch

    return torch.from_numpy(samples.astype(np.float32) / 32767)


def _batched(media: np.ndarray, function: Callable[..., object]) -> np.ndarray:
    import torch

    outputs = []
    with torch.inference_mode():
        for start in tracked(range(0, len(media), BATCH), "caching"):
            outputs.append(function(np.array(media[start : start + BATCH])).to(torch.float16).numpy())  # type: ignore[attr-defined]
    return np.concatenate(outputs)


@lru_cache(maxsize=2)
def _row_keys(modality: str) -> np.ndarray:
    """uint64 [N]: a hash of each medium of the corpus before any edit."""
    return _hashes(view(modality))


def _hashes(rows: Iterable[np.ndarray | str]) -> np.ndarray:
    raw = (row.encode() if isinstance(row, str) else np.ascontiguousarray(row).tobytes() for row in rows)
    return np.array([int.from_bytes(hashlib.blake2b(b, digest_size=8).digest(), "big") for b in raw], dtype=np.uint64)


def _cached(name: str, depends: str, keys: np.ndarray, compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The array of `name` for the rows `keys`; `compute` gets the indices of the rows that the stored array lacks."""
    stem = f"{name}-{hashlib.sha256(depends.encode()).hexdigest()[:10]}" if depends else name
    values_path, keys_path = (home() / "cache" / f"{stem}{suffix}.npy" for suffix in ("", "-keys"))
    known: dict[int, int] = {}
    old: np.ndarray | None = None
    if values_path.is_file() and keys_path.is_file():
        old, old_keys = np.load(values_path, mmap_mode="r"), np.load(keys_path)
        if np.array_equal(old_keys, keys):
            return old
        if len(old) == len(old_keys):  # after a kill between the two writes they differ: all rows are computed again
            known = {int(key): i for i, key in enumerate(old_keys)}
    new = np.array([i for i, key in enumerate(keys) if int(key) not in known], dtype=np.int64)
    computed = compute(new) if len(new) else None
    like = computed if computed is not None else old
    assert like is not None
    values = np.empty((len(keys), *like.shape[1:]), like.dtype)
    for i, key in enumerate(keys):
        if old is not None and int(key) in known:
            values[i] = old[known[int(key)]]
    if computed is not None:
        values[new] = computed
    keys_path.unlink(missing_ok=True)
    for path, array in ((values_path, values), (keys_path, keys)):
        with atomic_path(path) as aside, open(aside, "wb") as file:
            np.save(file, array)
    return np.load(values_path, mmap_mode="r")

"""Features of the media of data sets, encoded once by the frozen encoder when a medium first occurs.

Features that `codi2 data encode` made are read from their store (`train.features`). Other media are encoded during
training, and `$CODI2_HOME/cache/encoded/<key of the encoder>.sqlite` caches their features by the bytes of the media. A
medium that occurs in many records or data sets is encoded once, and an encoder with other weights has another file.
Several processes may read and write at once.

Letters: I items of a record, T features, D joint width.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from codi2.data.record import Medium, Record
from codi2.encode.contract import Encoder
from codi2.errors import OutputError
from codi2.hub import home
from codi2.prompt.layout import words_of
from codi2.prompt.parts import Part, Phrase, Text
from codi2.tensors import device_of
from codi2.train.bank import key_of
from codi2.train.place import ModuleSwapper

if TYPE_CHECKING:
    from codi2.train.features.use import FeatureStores

BATCH = 32  # media per call of the encoder on an accelerator
WAIT = 60.0  # seconds for other processes that write
Piece = Medium | Phrase


def items_of(record: Record, reads_words: bool) -> list[tuple[str, Piece]]:
    """Media and phrases of a record with the role of their turn, in the order of a `Layout`."""
    items: list[tuple[str, Piece]] = []
    for role, pieces in record.turns:
        items += [(role, piece) for piece in pieces if not isinstance(piece, Text)]
        if reads_words and role == "user":
            words = words_of(tuple(piece for piece in pieces if isinstance(piece, Text)))
            items += [(role, part) for part in words if isinstance(part, Phrase)]
    return items


class Encodings:
    """Media and phrases → features, from stores, the cache, or the encoder.

    Args:
        load: loads the encoder; called when the first medium has to be encoded.
        key: of the encoder, see `features.makers.encoder_key`.
        reads_words: whether the layout adds a user's words as a phrase.
        counts: modality → T, for keys that do not include it.
    """

    def __init__(
        self, load: Callable[[], Encoder], key: str, reads_words: bool, counts: Mapping[str, int] | None = None
    ) -> None:
        self._load, self.key, self.reads_words = load, key, reads_words
        name = key[:12] if counts is None else features_key(key, counts)
        self.path = home() / "cache" / "encoded" / f"{name}.sqlite"
        self.stores: FeatureStores | None = None  # encoded before training, see `features.use`
        self._open: tuple[int, sqlite3.Connection] | None = None

    @cached_property
    def encoder(self) -> Encoder:
        return self._load()

    def of(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """float32 [T, D] of each. Raises MediaError: a medium is damaged. OutputError: the cache cannot be written."""
        known = self.known(pieces)
        missing = [piece for piece, value in zip(pieces, known, strict=True) if value is None]
        new = iter(self.encode(missing) if missing else ())
        return [next(new) if value is None else value for value in known]

    def known(self, pieces: Sequence[Piece]) -> list[Tensor | None]:
        """float32 [T, D] of each piece that a store or the cache holds, else None. Raises DataError: a store is damaged
        or incomplete.
        """
        return [self._known(piece) for piece in pieces]

    def _known(self, piece: Piece) -> Tensor | None:
        name = name_of(piece)
        value = self.stores.read(name, piece.modality) if self.stores else None
        return self._read(name) if value is None else value

    @torch.inference_mode()
    def encode(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """Encodes pieces and caches their features; float32 [T, D] of each, on the CPU.

        A CPU encodes one medium at a time, so that its features do not depend on the others.
        """
        features: dict[bytes, Tensor] = {}
        groups: dict[str, dict[bytes, Piece]] = {}
        for piece in pieces:
            groups.setdefault(piece.modality, {})[name_of(piece)] = piece
        parameter = next(self.encoder.parameters(), None)
        size = 1 if parameter is None or device_of(self.encoder).type == "cpu" else BATCH
        for group in groups.values():
            names = list(group)
            for start in range(0, len(names), size):
                batch = names[start : start + size]
                values = self.encoder([_decoded(group[name]) for name in batch]).half().cpu()
                features |= dict(zip(batch, values.clone(), strict=True))
        self._write(features.items())
        return [features[name_of(piece)].float() for piece in pieces]

    def encode_on(self, device: torch.device, pieces: Sequence[Piece]) -> list[Tensor]:
        """`encode` on a device, on which the encoder stays only for this call.

        It runs in float32, so that the cache does not depend on the placement of the run.
        """
        if device.type == "cpu":
            return self.encode(pieces)
        swapper = ModuleSwapper({"encoder": self.encoder}, device)
        swapper.load_only(["encoder"])
        try:
            return self.encode(pieces)
        finally:
            swapper.load_only([])

    def _read(self, name: bytes) -> Tensor | None:
        try:
            row = self._connection.execute("SELECT width, numbers FROM features WHERE name = ?", (name,)).fetchone()
        except sqlite3.Error as error:
            raise OutputError(
                f"the cache of features {self.path} cannot be read ({error}); delete it, the next run makes it"
            ) from error
        if row is None:
            return None
        return torch.from_numpy(np.frombuffer(row[1], np.float16).reshape(-1, row[0]).astype(np.float32))

    def _write(self, features: Iterable[tuple[bytes, Tensor]]) -> None:
        rows = [(name, value.shape[-1], value.contiguous().numpy().tobytes()) for name, value in features]
        try:
            with self._connection as connection:
                connection.executemany("INSERT OR IGNORE INTO features VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise OutputError(f"features cannot be written to {self.path} ({error}); free space or move it") from error

    @property
    def _connection(self) -> sqlite3.Connection:
        """The connection of this process; a connection cannot be used after a fork."""
        if self._open is None or self._open[0] != os.getpid():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                connection = sqlite3.connect(self.path, timeout=WAIT, check_same_thread=False)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS features (name BLOB PRIMARY KEY, width INTEGER, numbers BLOB)"
                )
            except sqlite3.Error as error:
                raise OutputError(
                    f"the cache of features {self.path} cannot be opened ({error}); delete it, the next run makes it"
                ) from error
            self._open = os.getpid(), connection
        return self._open[1]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": None}


def name_of(piece: Piece) -> bytes:
    """The name of a medium or phrase: a hash of its modality and content, 16 bytes."""
    digest = hashlib.blake2b(piece.modality.encode(), digest_size=16)
    digest.update(piece.data if isinstance(piece, Medium) else piece.text.encode())
    return digest.digest()


def features_key(key: str, counts: Mapping[str, int]) -> str:
    """The key of the features of an encoder with `counts` features of each modality."""
    return key_of({"encoder": key, "features": dict(counts)})


def _decoded(piece: Piece) -> Part:
    return piece.decode() if isinstance(piece, Medium) else piece


def weights_key(module: nn.Module) -> str:
    """SHA-256 of a module's parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()

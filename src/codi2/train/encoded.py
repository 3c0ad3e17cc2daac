"""Features of the records of a data set, made once by the frozen encoder and kept beside no clone.

`$CODI2_HOME/cache/encoded/<key of the encoder>/<key of the shard>.safetensors` holds what the encoder makes of a
shard: a shard is the unit of work, so a run that was stopped goes on at the next one, and a shard that changes, or an
encoder with other weights, starts a new file. Media that occur twice in a shard are encoded once.

Letters: N records, I their items, M different media of a modality, T features, D joint width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from codi2.data.record import Medium, Record
from codi2.data.shards import Shard, index_of
from codi2.encode.contract import Encoder
from codi2.hub import atomic_path, home
from codi2.prompt.layout import MODALITIES, words_of
from codi2.prompt.parts import Part, Phrase, Text

BATCH = 32  # media per call of the encoder


def items_of(record: Record, reads_words: bool) -> list[tuple[str, Medium | Phrase]]:
    """Media and phrases of a record, each with the role that says it, in the order in which a `Layout` has them."""
    out: list[tuple[str, Medium | Phrase]] = []
    for role, pieces in record.turns:
        out += [(role, piece) for piece in pieces if not isinstance(piece, Text)]
        if reads_words and role == "user":
            words = words_of(tuple(piece for piece in pieces if isinstance(piece, Text)))
            out += [(role, part) for part in words if isinstance(part, Phrase)]
    return out


class Encoded:
    """The features of one shard."""

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        self._file = safe_open(path, "pt")
        index = {name: self._file.get_tensor(name).numpy() for name in ("starts", "kinds", "rows")}
        self._starts, self._kinds, self._rows = (index[name] for name in ("starts", "kinds", "rows"))

    @cached_property
    def _values(self) -> dict[int, Tensor]:
        names = self._file.keys()
        return {k: self._file.get_tensor(m) for k, m in enumerate(MODALITIES) if m in names}

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, i: int) -> list[Tensor]:
        """float32 [T, D] of each item of record i, in the layout's order."""
        places = range(int(self._starts[i]), int(self._starts[i + 1]))
        return [self._values[int(self._kinds[p])][int(self._rows[p])].float() for p in places]


class Encodings:
    """Shards → features, from the cache or made for it.

    Args:
        load: gives the encoder; it is called when a shard is met that nobody has encoded.
        key: of its weights, see `weights_key`.
        reads_words: whether the layout adds a user's words as a phrase.
    """

    def __init__(self, load: Callable[[], Encoder], key: str, reads_words: bool) -> None:
        self._load, self.reads_words = load, reads_words
        self.folder = home() / "cache" / "encoded" / f"{key[:12]}-{int(reads_words)}"
        self._open: dict[Path, Encoded] = {}

    @cached_property
    def encoder(self) -> Encoder:
        return self._load()

    def path(self, shard: Path) -> Path:
        """Where a shard's features are: its index tells one shard from another, as do its first and last bytes."""
        digest = hashlib.sha256(index_of(shard).read_bytes())
        with open(shard, "rb") as file:
            digest.update(file.read(1 << 16))
            file.seek(-min(shard.stat().st_size, 1 << 16), 2)
            digest.update(file.read())
        return self.folder / f"{shard.stem}-{digest.hexdigest()[:16]}.safetensors"

    def of(self, shard: Path) -> Encoded:
        """Raises DataError: the shard is damaged. MediaError: a medium is. OutputError: the cache cannot be written."""
        if shard not in self._open:
            path = self.path(shard)
            if not path.is_file():
                self.make(shard, path)
            self._open[shard] = Encoded(path)
        return self._open[shard]

    def make(self, shard: Path, path: Path) -> None:
        """Encodes a shard."""
        from safetensors.torch import save_file

        rows: list[dict[bytes, int]] = [{} for _ in MODALITIES]
        waiting: list[list[Part]] = [[] for _ in MODALITIES]
        made: list[list[Tensor]] = [[] for _ in MODALITIES]
        starts, kinds, places = [0], [], []
        for record in Shard(shard):
            for _, piece in items_of(record, self.reads_words):
                kind = MODALITIES.index(piece.modality)
                name = hashlib.blake2b(piece.data if isinstance(piece, Medium) else piece.text.encode()).digest()
                if name not in rows[kind]:
                    rows[kind][name] = len(rows[kind])
                    waiting[kind].append(piece.decode() if isinstance(piece, Medium) else piece)
                    if len(waiting[kind]) == BATCH:
                        made[kind].append(self._encode(waiting[kind]))
                        waiting[kind] = []
                kinds.append(kind)
                places.append(rows[kind][name])
            starts.append(len(kinds))
        tensors = {"starts": torch.tensor(starts), "kinds": torch.tensor(kinds), "rows": torch.tensor(places)}
        for kind, modality in enumerate(MODALITIES):
            if waiting[kind]:
                made[kind].append(self._encode(waiting[kind]))
            if made[kind]:
                tensors[modality] = torch.cat(made[kind])
        with atomic_path(path) as aside:
            save_file(tensors, aside)

    @torch.inference_mode()
    def _encode(self, parts: Sequence[Part]) -> Tensor:
        """float16 [n, T, D], zero beyond a part's own."""
        return self.encoder(parts).values.half()


def weights_key(module: nn.Module) -> str:
    """SHA-256 of a module's parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()

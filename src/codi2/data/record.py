"""One training record: an interleaved conversation with its origin, and its form in a WebDataset shard.

A sample is one JSON member and one member for each medium, in the bytes of its source:

    000001.json      {"schema": 2, "task": "edit", "turns": [["user", ["Paint ", 0, " red."]], ["assistant", [1]]],
                      "edits": 0, …}
    000001.0.jpg     medium 0
    000001.1.png     medium 1

In `turns`, a string is text, `{"phrase": …}` is words that are encoded as features (section 4.1), and a number is a
medium. `edits` is the number of the medium that the answer edits, or null; in training and in generation the decoder
starts from that medium. Records of schema 1 lack it and are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from codi2.errors import DataError, PromptError
from codi2.prompt.parts import Media, Part, Phrase, Text
from codi2.untrusted import parse_json

if TYPE_CHECKING:  # it imports torch, which a build does not need
    from codi2.prompt.layout import Message

SCHEMA = 2
SUFFIXES = {
    "image": ("png", "jpg", "jpeg", "webp"),
    "audio": ("flac", "wav", "ogg", "mp3", "m4a", "opus"),
    "video": ("mp4", "webm", "gif", "apng", "awebp"),
}
"""Modality → suffixes of its members; `apng` and `awebp` are animated PNG and WebP."""
MODALITY = {suffix: modality for modality, suffixes in SUFFIXES.items() for suffix in suffixes}
ROLES = ("user", "assistant")
PHASES = ("video", "image", "audio", "text")
"""Phases of training. A record that answers with several modalities has the first of them as its phase."""


def suffix_in_shards(suffix: str, data: bytes) -> str:
    """The suffix of a file as a member of a shard; of pictures by their first bytes, animated or still."""
    if data.startswith(b"\xff\xd8\xff"):
        return suffix if suffix in ("jpg", "jpeg") else "jpg"
    if data.startswith(b"\x89PNG\r\n"):
        return "apng" if b"acTL" in data[:256] else "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "awebp" if data[12:16] == b"VP8X" and data[20:21] and data[20] & 2 else "webp"
    return "gif" if data[:4] == b"GIF8" else suffix


@dataclass(frozen=True)
class Medium:
    """An encoded file with the bytes of its source, decoded on demand."""

    suffix: str
    data: bytes = field(repr=False)
    checked: bool = field(default=False, compare=False, repr=False)
    """Whether a builder has decoded or made it, so that no further check is needed."""

    @property
    def modality(self) -> str:
        return MODALITY[self.suffix]

    def decode(self) -> Media:
        """Raises MediaError: it cannot be read, or it is of another modality than its suffix."""
        from codi2.errors import MediaError
        from codi2.media import load

        media = load(self.data, f"a .{self.suffix} of the record", with_sound=False)
        if media.modality != self.modality:
            raise MediaError(
                f"a .{self.suffix} of the record is of modality {media.modality}, expected {self.modality}; rename it"
            )
        return replace(media, name="")


Piece = Text | Phrase | Medium
Sample = dict[str, Any]
"""A sample of WebDataset: `__key__`, `json` (bytes), and `0.png`, `1.flac`, … (bytes)."""
Turn = tuple[str, tuple[Piece, ...]]


@dataclass(frozen=True)
class Record:
    """A conversation to learn from: the assistant's turns are the targets.

    `key` is unique in its data set and, with `source`, names the raw record that it was made from. `licence` lists the
    licences of everything in it, separated by `; `. `meta` holds a builder's notes (seeds, levels, scores) as JSON
    values.
    """

    key: str
    task: str
    turns: tuple[Turn, ...]
    source: str
    licence: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    edits: int | None = None  # index in `media` of the medium that the last answer edits; None: it edits none

    def __post_init__(self) -> None:
        """Raises DataError: the record is no training data, or it edits a medium that is not in its prompt."""
        if not self.key or "." in self.key or "/" in self.key:
            raise DataError(f"the key {self.key!r} cannot name a sample; expected letters, digits, - and _")
        roles = [role for role, _ in self.turns]
        if not roles or roles != [ROLES[i % 2] for i in range(len(roles))] or len(roles) % 2:
            raise DataError(f"record {self.key}: turns are {roles}; expected user, assistant, user, …, assistant")
        for role, pieces in self.turns:
            if not any(not isinstance(piece, Text) or piece.text.strip() for piece in pieces):
                raise DataError(f"record {self.key}: a turn of the {role} is empty")
        count = len(media_of(self.turns[:-1]))
        if self.edits is not None and not 0 <= self.edits < count:
            raise DataError(
                f"record {self.key}: its answer edits medium {self.edits}, but {count} media come before it; "
                "name the number of one of them, or leave `edits` out"
            )

    @property
    def phase(self) -> str:
        """Its training phase (B.2): the first of `PHASES` among the modalities of the assistant's answers."""
        modalities = {p.modality for role, pieces in self.turns if role == "assistant" for p in pieces}
        return next((phase for phase in PHASES if phase in modalities), "text")

    @property
    def media(self) -> list[Medium]:
        """In reading order."""
        return media_of(self.turns)

    def messages(self) -> list[Message]:
        """The conversation with its media decoded. Raises MediaError."""
        from codi2.prompt.layout import Message

        return [Message(role, decode_pieces(pieces)) for role, pieces in self.turns]  # type: ignore[arg-type]


def media_of(turns: Sequence[Turn]) -> list[Medium]:
    """The media of turns in reading order; their indexes are the numbers of a sample."""
    return [piece for _, pieces in turns for piece in pieces if isinstance(piece, Medium)]


def number_of(medium: Medium, turns: Sequence[Turn]) -> int:
    """The number of a medium (the same object) before the last answer; if it occurs several times, the last number.

    Raises DataError: it does not occur there.
    """
    numbers = [i for i, other in enumerate(media_of(turns[:-1])) if other is medium]
    if not numbers:
        raise DataError("the medium that the answer edits is not in an earlier turn; add it to one")
    return numbers[-1]


def to_sample(record: Record) -> Sample:
    """The sample of a record. Raises UnicodeEncodeError: its words hold half a character (a lone surrogate)."""
    media: list[Medium] = []
    turns = [[role, [_written(piece, media) for piece in pieces]] for role, pieces in record.turns]
    about = {
        "schema": SCHEMA,
        "task": record.task,
        "turns": turns,
        "edits": record.edits,
        "source": record.source,
        "licence": record.licence,
        "meta": dict(record.meta),
    }
    members = {f"{i}.{medium.suffix}": medium.data for i, medium in enumerate(media)}
    return {"__key__": record.key, "json": json.dumps(about, ensure_ascii=False).encode(), **members}


def from_sample(sample: Mapping[str, Any]) -> Record:
    """The record of a sample. Raises DataError with the sample's key and the fault."""
    key = str(sample.get("__key__", "?"))
    try:
        about = parse_json(sample["json"])
        if about["schema"] != SCHEMA:
            raise DataError(
                f"record {key} is of schema {about['schema']}, expected {SCHEMA}: build its set again with "
                "`codi2 data build`"
            )
        media = dict(_members(sample))
        turns = tuple((role, tuple(_read(piece, media) for piece in pieces)) for role, pieces in about["turns"])
        edits = about["edits"]
        if edits is not None and type(edits) is not int:
            raise ValueError(f"edits is {edits!r:.40}; expected the number of a medium, or null")
        return Record(key, about["task"], turns, about["source"], about["licence"], about["meta"], edits)
    except KeyError as error:
        raise DataError(
            f"record {key} has no {error.args[0]!r}; its shard is damaged or not of codi2: build it again"
        ) from error
    except (TypeError, ValueError, PromptError) as error:
        raise DataError(f"record {key} is not a record of codi2: {error}; build its set again") from error


def _members(sample: Mapping[str, Any]) -> Iterator[tuple[int, Medium]]:
    for name, data in sample.items():
        number, _, suffix = name.partition(".")
        if number.isdecimal() and suffix in MODALITY:
            yield int(number), Medium(suffix, data)


def _written(piece: Piece, media: list[Medium]) -> Any:
    match piece:
        case Text(text=text):
            return text
        case Phrase(text=text):
            return {"phrase": text}
        case Medium():
            media.append(piece)
            return len(media) - 1


def _read(piece: Any, media: Mapping[int, Medium]) -> Piece:
    if isinstance(piece, str):
        return Text(piece)
    if isinstance(piece, dict):
        return Phrase(piece["phrase"])
    if piece not in media:
        raise ValueError(f"medium {piece} is missing")
    return media[piece]


def decode_pieces(pieces: Sequence[Piece]) -> tuple[Part, ...]:
    """The parts of a prompt from the pieces of a turn. Raises MediaError."""
    return tuple(piece.decode() if isinstance(piece, Medium) else piece for piece in pieces)

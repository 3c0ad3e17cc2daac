"""Edits of pictures and sounds, drawn with continuous values.

They are the instructional edits of the training data, the rules of in-context examples, and the augmentation of the
autoencoders. An edit is a pure function with an instruction and a description of the result:

    edit = draw("image", np.random.default_rng(0))
    edited = edit(picture)                          # uint8 [H, W, 3]
    assert from_json(**edit.to_json()) == edit

Training does not see a part of the range of each value, and whole kinds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from codi2.errors import DataError, MissingDependencyError

try:
    import scipy  # noqa: F401 – the modules below need it
except ImportError as error:
    raise MissingDependencyError("edits need SciPy: run `pip install 'codi2[data]'`") from error

from codi2.data.edits import colour, cover, geometry, ground, sound, texture
from codi2.data.edits.kind import Kind, phrases

HeldOut = Literal["", "values", "kinds"]

KINDS: dict[str, tuple[Kind, ...]] = {
    "image": (*colour.KINDS, *ground.KINDS, *cover.KINDS, *geometry.KINDS, *texture.KINDS),
    "audio": sound.KINDS,
}
"""Modality → kinds."""
_BY_NAME = {kind.name: kind for kinds in KINDS.values() for kind in kinds}


@dataclass(frozen=True)
class Edit:
    """One edit, or a sequence of edits.

    Args:
        kind: name of the kind; `rotate+night` for a sequence.
        values: by name; in a sequence with the number of the edit as prefix: `0.angle`, `1.strength`.
        ask: an instruction for it.
        words: a description of the result, for captions.
    """

    kind: str
    values: Mapping[str, float]
    ask: str
    words: str

    def __call__(self, media: np.ndarray) -> np.ndarray:
        """A picture uint8 [H, W, 3] or a sound int16 [N] at 16 kHz, edited: a new array of the same shape."""
        for kind, values in _steps(self.kind, self.values):
            media = kind.apply(media, **values)
        return np.require(media, requirements=["C", "W"])  # arrays from Pillow are read-only

    def to_json(self) -> dict[str, Any]:
        """The arguments of `from_json`."""
        return {"kind": self.kind, "values": dict(self.values), "ask": self.ask}


def draw(modality: str, rng: np.random.Generator, held_out: HeldOut = "") -> Edit:
    """An edit of `modality`.

    Args:
        held_out: "" draws an edit for training. "values" draws a kind of training with one value from the held-out part
            of its range. "kinds" draws a held-out kind.
    """
    kinds = [kind for kind in KINDS[modality] if kind.held_out == (held_out == "kinds")]
    if held_out == "values":
        kinds = [kind for kind in kinds if any(span.reserved for span in kind.spans.values())]
    kind = kinds[int(rng.integers(len(kinds)))]
    return _drawn(kind, rng, held_out == "values")


def draw_kind(name: str, rng: np.random.Generator) -> Edit:
    """An edit of this kind, with values that training may see. Raises DataError: there is no such kind."""
    if name not in _BY_NAME:
        raise DataError(f"edit kind {name!r} is unknown; the kinds are {', '.join(_BY_NAME)}")
    return _drawn(_BY_NAME[name], rng)


def _drawn(kind: Kind, rng: np.random.Generator, held_out: bool = False) -> Edit:
    values = kind.draw(rng, held_out)
    return _edit(kind, values, int(rng.integers(len(phrases()[kind.name].asks))))


def compose(first: Edit, second: Edit) -> Edit:
    """`first`, then `second`, as one edit."""
    steps = [*_steps(first.kind, first.values), *_steps(second.kind, second.values)]
    return Edit(
        "+".join(kind.name for kind, _ in steps),
        {f"{number}.{name}": value for number, (_, values) in enumerate(steps) for name, value in values.items()},
        f"{first.ask} and then {second.ask}",
        f"{first.words}, {second.words}",
    )


def from_json(kind: str, values: Mapping[str, float], ask: str = "") -> Edit:
    """The edit of a record.

    Args:
        ask: its instruction; empty: the first phrasing of its kind.

    Raises:
        DataError: the kind is unknown, or the values are not those of the kind.
    """
    edits = [_edit(step, step_values) for step, step_values in _steps(kind, values)]
    edit = edits[0]
    for following in edits[1:]:
        edit = compose(edit, following)
    return Edit(edit.kind, edit.values, ask or edit.ask, edit.words)


def visible(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether an edit changed a medium perceptibly.

    Pictures: the mean absolute difference is above 2 of 255. Sounds: it is above a tenth of the mean level, and the
    result is not near silence (its peak is above 2 % of the peak before).
    """
    old, new = before.astype(np.float32), after.astype(np.float32)
    difference = np.abs(new - old).mean()
    if before.dtype == np.uint8:
        return bool(difference > 2)
    return bool(difference > 0.1 * np.abs(old).mean() and np.abs(new).max() > 0.02 * np.abs(old).max())


def _edit(kind: Kind, values: Mapping[str, float], phrasing: int = 0) -> Edit:
    words, known = kind.say(**values), phrases()[kind.name]
    return Edit(kind.name, dict(values), known.asks[phrasing].format(**words), known.words.format(**words))


def _steps(kind: str, values: Mapping[str, float]) -> list[tuple[Kind, dict[str, float]]]:
    """The edits of a sequence, each with its values."""
    names = kind.split("+")
    steps = []
    for number, name in enumerate(names):
        if name not in _BY_NAME:
            raise DataError(f"edit kind {name!r} is unknown; the kinds are {', '.join(_BY_NAME)}")
        prefix = f"{number}." if len(names) > 1 else ""
        step_values = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
        if step_values.keys() != _BY_NAME[name].spans.keys():
            expected = ", ".join(_BY_NAME[name].spans) or "no values"
            raise DataError(f"edit {name!r} got the values {sorted(step_values)}; it expects {expected}")
        steps.append((_BY_NAME[name], step_values))
    if sum(len(step_values) for _, step_values in steps) != len(values):
        raise DataError(f"edit {kind!r} got the values {sorted(values)}; it expects each with its number, as 0.angle")
    return steps

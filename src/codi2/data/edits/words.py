"""Words for the values of edits, in plain English, with a number if a person would name it."""

from __future__ import annotations

from collections.abc import Sequence

COLOURS: tuple[tuple[str, float, float], ...] = (
    ("red", 0, 0.5),
    ("dark red", 0, 0.3),
    ("salmon pink", 8, 0.78),
    ("orange", 28, 0.5),
    ("brown", 25, 0.3),
    ("peach", 28, 0.78),
    ("golden", 45, 0.48),
    ("yellow", 57, 0.5),
    ("olive", 60, 0.3),
    ("pale yellow", 55, 0.8),
    ("lime green", 85, 0.5),
    ("light green", 115, 0.76),
    ("green", 125, 0.48),
    ("dark green", 125, 0.3),
    ("emerald green", 150, 0.46),
    ("mint green", 155, 0.78),
    ("turquoise", 174, 0.5),
    ("teal", 180, 0.3),
    ("cyan", 188, 0.55),
    ("sky blue", 205, 0.6),
    ("light blue", 210, 0.8),
    ("blue", 228, 0.5),
    ("navy blue", 230, 0.3),
    ("indigo", 250, 0.42),
    ("lavender", 260, 0.8),
    ("violet", 270, 0.52),
    ("purple", 288, 0.4),
    ("lilac", 292, 0.76),
    ("magenta", 308, 0.5),
    ("pink", 330, 0.76),
    ("hot pink", 330, 0.55),
    ("plum", 322, 0.32),
    ("crimson", 346, 0.45),
)
"""Name, hue in degrees, lightness of 1."""


def colour(hue: float, light: float = 0.5) -> str:
    """The nearest name: `light green`."""

    def distance(entry: tuple[str, float, float]) -> float:
        turn = abs(hue - entry[1]) % 360
        return (min(turn, 360 - turn) / 30) ** 2 + ((light - entry[2]) / 0.13) ** 2

    return min(COLOURS, key=distance)[0]


def a(noun: str) -> str:
    """With its article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def number(value: float) -> str:
    """Without needless digits: `2`, `0.35`."""
    return f"{value:g}"


def percent(share: float) -> str:
    return f"{round(abs(share) * 100)} percent"


def count(value: float) -> str:
    """`three`, or `2.4`."""
    names = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    return names[int(value)] if value == int(value) and value < len(names) else number(value)


def level(value: float, low: float, high: float, names: Sequence[str]) -> str:
    """The name of the part of a range that a value lies in; the parts are equally long."""
    place = int((value - low) / (high - low) * len(names))
    return names[min(max(place, 0), len(names) - 1)]


def much(value: float, low: float, high: float) -> str:
    """An adverb after the verb: `a little`, `clearly`, `strongly`."""
    return level(value, low, high, ("a little", "clearly", "strongly"))


def more(value: float, low: float, high: float) -> str:
    """Before a comparative: `a little`, `clearly`, `much`."""
    return level(value, low, high, ("a little", "clearly", "much"))


def compared(change: float, up: str, down: str, low: float, high: float) -> str:
    """A comparative for a change: `clearly brighter`, `much darker`."""
    return f"{more(abs(change), low, high)} {up if change > 0 else down}"


def degrees(value: float) -> str:
    return f"{round(abs(value))} degrees"


def turn(angle: float) -> str:
    """Of a turn, clockwise where positive: `45 degrees to the right`."""
    named = {90: "a quarter turn"}.get(round(abs(angle)), degrees(angle))
    return f"{named} to the {'right' if angle > 0 else 'left'}"


def size(factor: float) -> str:
    """`half its size`, `70 percent of its size`, `1.4 times its size`."""
    named = {
        0.5: "half its size",
        2.0: "twice its size",
        1.5: "one and a half times its size",
        0.75: "three quarters of its size",
    }
    return named.get(factor) or (f"{percent(factor)} of its size" if factor < 1 else f"{number(factor)} times its size")


def direction(angle: float) -> str:
    """Of a movement, 0 degrees to the right and counted clockwise: `down and to the right`."""
    names = (
        "to the right",
        "down and to the right",
        "down",
        "down and to the left",
        "to the left",
        "up and to the left",
        "up",
        "up and to the right",
    )
    return names[round(angle / 45) % 8]


def place(x: float, y: float) -> str:
    """Of a point, both from 0 (left, top) to 1: `at the top left`."""
    rows, columns = level(y, 0, 1, ("top", "", "bottom")), level(x, 0, 1, ("left", "", "right"))
    if not rows and not columns:
        return "in the middle"
    return f"at the {rows} {columns}".replace("  ", " ").strip() if rows else f"on the {columns}"


def slant(angle: float) -> str:
    """Of a line, 0 degrees upright: `upright`, `slanting`, `level`."""
    turned = abs((angle + 90) % 180 - 90)
    return "upright" if turned < 20 else "level" if turned > 70 else "slanting"


def line(angle: float) -> str:
    """Of a line, 0 degrees level and counted clockwise: `up and down`."""
    return ("sideways", "towards the lower right", "up and down", "towards the upper right")[round(angle / 45) % 4]


def seconds(value: float) -> str:
    named = {0.5: "half a second", 1.0: "one second", 2.0: "two seconds", 1.5: "one and a half seconds"}
    return named.get(value, f"{number(value)} seconds")


def hertz(value: float) -> str:
    return f"{number(round(value))} hertz"


def semitones(value: float) -> str:
    named = {12.0: "an octave", 1.0: "a semitone"}
    return named.get(abs(value), f"{number(abs(value))} semitones")


def often(rate: float) -> str:
    """`once`, `twice`, `2.5 times`."""
    return {1.0: "once", 2.0: "twice"}.get(rate, f"{number(rate)} times")


def times(factor: float) -> str:
    """Of a rate: `twice`, `1.3 times`; below one as its inverse."""
    named = {2.0: "twice", 1.5: "one and a half times", 0.5: "half"}
    return named.get(factor, f"{number(factor)} times")

"""One self-contained HTML page of prompts and replies, with all media inside."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as PILImage

from codi2.media import apng_bytes, picture_bytes, sound_bytes
from codi2.prompt.grammar import render
from codi2.prompt.parts import IMU, Audio, Depth, Image, Part, Prompt, Thermal, Video
from codi2.senses import render_sense

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 192
"""Longer side of a picture on the page in CSS px: three times the 64 px of `tiny`. Files have up to twice this side."""

_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#d8d8d8, #3a3a3a); --dim: light-dark(#666, #999) }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
section { border-top: 1px solid var(--line); padding: 1rem 0 }
h2 { font-size: 1.1rem; margin: 0 0 .3rem }
h3 { font-size: .8rem; color: var(--dim); margin: .6rem 0 .2rem; font-weight: 600 }
.prompt { font-size: 1.05rem; margin: 0 } .note { color: var(--dim); font-size: .85rem }
.parts { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-end }
figure { margin: 0 } figcaption { color: var(--dim); font-size: .8rem; max-width: 20rem }
img { display: block; border-radius: 4px } audio { display: block; width: 16rem; margin-top: .3rem }
table { border-collapse: collapse; font-size: .9rem } td { padding: .1rem 1.5rem .1rem 0; vertical-align: top }
th { text-align: left; vertical-align: bottom; padding: .1rem 1.5rem .3rem 0; font-weight: 600 }
.wide { overflow-x: auto; margin: .8rem 0 } .wide td { border-top: 1px solid var(--line) }
pre { font-size: .8rem; color: var(--dim); white-space: pre-wrap; margin: .4rem 0 }
.answer { margin: 0; padding: .4rem .8rem; border-left: 3px solid var(--line); max-width: 40rem; white-space: pre-wrap }
"""

# Anchors of a dark-to-light colour map (black, violet, red, orange, pale yellow), read at equal distances.
_COLOURS = np.array([(0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191)], dtype=np.float64)


@dataclass(frozen=True)
class Row:
    """One prompt and its outputs."""

    title: str
    prompt: Prompt
    outputs: Sequence[Part]
    nearest: Sequence[Part] = ()
    """The nearest training item of each output, where there is one, which shows whether the output is a copy."""
    note: str = ""
    heading: str = "Answer"
    """The heading of the outputs."""
    code: str = ""
    """Preformatted text after the outputs."""
    table: Sequence[Sequence[str]] = ()
    """Rows of cells; the first row has the headings."""
    recipes: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """`id` of a medium → its recipe, which is written into the page's medium as into a file."""


def write_page(path: Path, title: str, rows: Sequence[Row], intro: str = "", head: str = "") -> None:
    """Writes the page of `rows` to `path` atomically. Raises OutputError when it cannot be written."""
    from codi2.hub import write_atomic

    write_atomic(path, page(title, rows, intro, head).encode())


def page(title: str, rows: Sequence[Row], intro: str = "", head: str = "") -> str:
    """The page as HTML text; `head` is HTML before the rows."""
    body = "\n".join(_section(row) for row in rows)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(title)}</title><style>{_STYLE}</style></head>
<body><h1>{escape(title)}</h1><p class="note">{escape(intro)}</p>
{head}
{body}
</body></html>
"""


def spectrogram(sound: Audio, size: tuple[int, int] = (320, 96), decibels: float = 80.0) -> PILImage.Image:
    """Picture of a sound: time to the right, 0 to 8 kHz upwards, black at `decibels` below a full-scale sine."""
    window, hop = np.hanning(1024), 256
    padded = np.pad(sound.samples, (0, max(0, len(window) - len(sound.samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, len(window))[::hop]
    magnitude = np.abs(np.fft.rfft(frames * window)) / (window.sum() / 2)  # [frames, bins]; a full-scale sine is 1
    magnitude = magnitude[:, : 1 + int(len(window) * min(8000, sound.rate / 2) / sound.rate)]
    level = np.clip(1 + 20 * np.log10(magnitude + 1e-10) / decibels, 0, 1).T[::-1]
    anchors = np.linspace(0, 1, len(_COLOURS))
    colours = np.stack([np.interp(level, anchors, channel) for channel in _COLOURS.T], axis=-1)
    return PILImage.fromarray(colours.astype(np.uint8)).resize(size, PILImage.Resampling.BILINEAR)


def _section(row: Row) -> str:
    template, media = render(row.prompt)
    inputs = [_figure(item, f"[{name}]", row.recipes) for name, item in media.items() if not isinstance(item, str)]
    blocks = [
        ("Given", inputs),
        (row.heading, [_figure(part, "", row.recipes) for part in row.outputs]),
        ("Nearest in the training data", [_figure(part) for part in row.nearest]),
    ]
    figures = "".join(f'<h3>{name}</h3><div class="parts">{"".join(items)}</div>' for name, items in blocks if items)
    note = f'<p class="note">{escape(row.note)}</p>' if row.note else ""
    code = f"<pre>{escape(row.code)}</pre>" if row.code else ""
    body = f"{figures}{_table(row.table)}{code}{note}"
    return f'<section><h2>{escape(row.title)}</h2><p class="prompt">{escape(template)}</p>{body}</section>'


def _table(lines: Sequence[Sequence[str]]) -> str:
    if not lines:
        return ""
    cells = [
        "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in line)
        for line, kind in zip(lines, ["th", *["td"] * (len(lines) - 1)], strict=True)
    ]
    return f'<div class="wide"><table>{"".join(f"<tr>{line}</tr>" for line in cells)}</table></div>'


def _figure(part: Part, label: str = "", recipes: Mapping[int, Mapping[str, Any]] = MappingProxyType({})) -> str:
    recipe = recipes.get(id(part))
    match part:
        case Image():
            html = _picture(part.pixels, part.name or label or "picture", recipe)
        case Audio():
            html = _img(spectrogram(part), 320, f"spectrogram of {part.name or 'the sound'}")
            html += _player(part, recipe)
        case Video():
            html = _clip(part, recipe)
            html += _player(part.sound, recipe) if part.sound is not None else ""
        case Depth() | Thermal() | IMU():
            html = _picture(render_sense(part), part.name or part.modality)
        case _:
            return f'<p class="answer">{escape(part.text)}</p>'
    caption = " ".join(word for word in (label, part.name) if word)
    return f"<figure>{html}<figcaption>{escape(caption)}</figcaption></figure>"


def _picture(pixels: PILImage.Image, alt: str, recipe: Mapping[str, Any] | None = None) -> str:
    width = round(SIDE * pixels.width / max(pixels.size))
    smaller = pixels.copy()
    smaller.thumbnail((2 * SIDE, 2 * SIDE))  # never enlarges
    return _img(smaller, width, alt, recipe)


def _img(pixels: PILImage.Image, width: int, alt: str, recipe: Mapping[str, Any] | None = None) -> str:
    data = _data("image/png", picture_bytes(pixels, "PNG", recipe))
    return f'<img width="{width}" alt="{escape(alt)}" src="{data}">'


def _player(sound: Audio, recipe: Mapping[str, Any] | None) -> str:
    return f'<audio controls src="{_data("audio/wav", sound_bytes(sound, "WAV", recipe))}"></audio>'


def _clip(clip: Video, recipe: Mapping[str, Any] | None) -> str:
    data = _data("image/png", apng_bytes(clip, recipe))
    return f'<img width="{SIDE}" alt="{escape(clip.name or "clip")}" src="{data}">'


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"

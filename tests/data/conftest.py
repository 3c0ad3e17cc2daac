"""Small packages in the real formats of the corpus's sources."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image, ImageDraw

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="64pt" height="64pt"><rect width="40" height="60"/></svg>'


def disc(colour: str, size: int = 72) -> bytes:
    """PNG of a disc on a transparent ground."""
    picture = Image.new("RGBA", (size, size))
    ImageDraw.Draw(picture).ellipse((size // 4, size // 4, size // 2, size // 2), fill=colour)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def swaying(count: int = 30, milliseconds: int = 100) -> bytes:
    """WebP of a disc that goes to the right, on a transparent ground."""
    frames = [Image.new("RGBA", (72, 72)) for _ in range(count)]
    for number, frame in enumerate(frames):
        ImageDraw.Draw(frame).ellipse((number, 20, number + 30, 50), fill="#224466")
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], duration=milliseconds, lossless=True)
    return buffer.getvalue()


def tone(hertz: float, seconds: float = 1.0, rate: int = 22_050, encoding: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    time = np.arange(int(seconds * rate)) / rate
    soundfile.write(buffer, 0.5 * np.sin(2 * np.pi * hertz * time), rate, format=encoding)
    return buffer.getvalue()


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def rcc(files: dict[str, bytes], compressed: bool = False) -> bytes:
    """A Qt resource archive, version 2, with `files` (path → content)."""
    names, name_at = b"", {}
    nodes: list[tuple[str, dict | bytes]] = []
    tree: dict = {}
    for path, content in files.items():
        *folders, leaf = path.split("/")
        folder = tree
        for part in folders:
            folder = folder.setdefault(part, {})
        folder[leaf] = content
    queue: list[tuple[str, dict | bytes]] = [("", tree)]
    children_at: dict[int, int] = {}
    while queue:
        name, node = queue.pop(0)
        if isinstance(node, dict):
            children_at[len(nodes)] = len(nodes) + 1 + len(queue)
            queue += node.items()
        nodes.append((name, node))
        if name not in name_at:
            name_at[name] = len(names)
            names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    data, records = b"", b""
    for index, (name, node) in enumerate(nodes):
        if isinstance(node, dict):
            records += struct.pack(">IHIIQ", name_at[name], 2, len(node), children_at[index], 0)
        else:
            stored = struct.pack(">I", len(node)) + zlib.compress(node) if compressed else node
            records += struct.pack(">IHHHIQ", name_at[name], int(compressed), 0, 0, len(data), 0)
            data += struct.pack(">I", len(stored)) + stored
    header = struct.pack(">4sIIII", b"qres", 2, 20, 20 + len(records), 20 + len(records) + len(data))
    return header + records + data + names


@pytest.fixture
def make_rcc() -> Callable[..., bytes]:
    return rcc


EMOJI = [
    {"label": "cat face", "hexcode": "1F431", "group": 3, "subgroup": 34},
    {"label": "flag: Egypt", "hexcode": "1F1EA-1F1EC", "group": 9, "subgroup": 98},
    {"label": "one o’clock", "hexcode": "1F550", "group": 5, "subgroup": 58},
    {"label": "family: man, boy", "hexcode": "1F468-200D-1F466", "group": 1, "subgroup": 30},
    {"label": "Aries", "hexcode": "2648", "group": 8, "subgroup": 87},
    {"label": "medium skin tone", "hexcode": "1F3FD"},
]  # fmt: skip
GROUPS = {
    "groups": {"1": "people-body", "3": "animals-nature", "5": "travel-places", "8": "symbols", "9": "flags"},
    "subgroups": {"30": "family", "34": "animal-mammal", "58": "time", "87": "zodiac", "98": "country-flag"},
}


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """`<home>/sources` with a few files of the emoji, stamp, cartoon, activity and sample packages."""
    root = tmp_path / "home/sources"
    write(root / "emojibase-data-17.0.0/package/en/data.json", json.dumps(EMOJI))
    write(root / "emojibase-data-17.0.0/package/meta/groups.json", json.dumps(GROUPS))
    for number, entry in enumerate(EMOJI):
        code, colour = entry["hexcode"], f"#{number}0{number}09f"
        write(root / f"openmoji-17.0.0/package/color/svg/{code}.svg", SVG)
        for style in ("google", "twitter"):
            write(root / f"emoji-datasource-{style}-16.0.0/package/img/{style}/64/{code.lower()}.png", disc(colour))
        write(root / f"lobehub-fluent-emoji-3d-1.1.0/package/assets/{code.lower()}.webp", disc(colour))

    for part, code in ((1, "1f431"), (4, "1f550")):
        write(root / f"lobehub-fluent-emoji-anim-{part}-1.0.0/package/assets/{code}.webp", swaying())
    write(root / "lobehub-fluent-emoji-anim-2-1.0.0/package/assets/2648.webp", disc("#112233"))

    stamps = root / "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
    write(stamps / "animals/cat.txt", "A kitten.\nes.utf8=Un gato.\n")
    write(stamps / "animals/cat.png", disc("#222222", 300))
    write(stamps / "animals/cat.ogg", tone(700, 0.5, 44_100, "OGG"))
    write(stamps / "animals/cat_desc.ogg", tone(200))
    write(stamps / "space/moon_big.txt", "You can see it at night when the sky is clear.\n")
    write(stamps / "space/moon_big.svg", SVG)
    write(stamps / "symbols/math/7.txt", "Seven.\n")
    write(stamps / "symbols/math/7.png", disc("#222222"))

    scratch = root / "scratch/usr/share/scratch/Media"
    for stem in ("Animals/dog1-a", "Animals/dog1-b", "People/anna-1", "People/boy4-walking-a"):
        write(scratch / f"Costumes/{stem}.png", disc("#aa5500"))
    write(scratch / "Backgrounds/Nature/beach-malibu.jpg", disc("#aa5500"))
    write(scratch / "Sounds/Animal/Dog1.wav", tone(300))
    write(scratch / "Sounds/Animal/Dog2.wav", tone(310))
    write(scratch / "Sounds/Vocals/Join-us.mp3", b"speech is left out, so this is never decoded")

    activity = "gcompris/src/activities/instruments/resource"
    write(
        root / "gcompris-qt-data/usr/share/gcompris-qt/rcc/instruments.rcc",
        rcc({f"{activity}/tuba.svg": SVG.encode(), f"{activity}/tuba.ogg": tone(60, 9, 22_050, "OGG"),
             f"{activity}/background.svg": SVG.encode()}, compressed=True),
    )  # fmt: skip
    samples = root / "sonic-pi-samples/usr/share/sonic-pi/samples"
    write(samples / "elec_blip2.flac", tone(900, 0.2, 44_100, "FLAC"))
    write(samples / "bd_808.flac", tone(50, 0.4, 44_100, "FLAC"))
    return root

"""Metadata about how a medium was made: our recipe, and IPTC's digital source type for other programs.

Both are written as XMP, in the places that its standard names: a PNG's text chunk, JPEG's APP1, WebP's chunk, a `uuid`
box of an MP4, the `_PMX` chunk of a WAV. FLAC, OGG and MP3 have a comment only, which has the type as well.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from html import escape, unescape
from typing import Any

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's type of media that a trained model made."""
PNG_KEY = "XML:com.adobe.xmp"
_SPACE = "urn:codi2:1"  # XML namespace of the recipe
_RECIPE = re.compile(r'codi2:recipe="([^"]*)"')
_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")  # ISO 16684's uuid of XMP


def marked(recipe: Mapping[str, Any]) -> str:
    """The recipe as JSON in ASCII, with the source type."""
    return json.dumps({**recipe, "digital_source_type": SOURCE_TYPE})


def xmp(recipe: Mapping[str, Any]) -> bytes:
    """An XMP packet."""
    from codi2 import __version__

    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:codi2="{_SPACE}" '
        f'Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}" xmp:CreatorTool="codi2 {__version__}" '
        f'codi2:recipe="{escape(marked(recipe))}"/></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()


def recipe_in(packet: bytes | str) -> dict[str, Any]:
    """The recipe in an XMP packet. Raises ValueError: it has none."""
    match = _RECIPE.search(packet.decode() if isinstance(packet, bytes) else packet)
    if match is None:
        raise ValueError("no recipe")
    return without_type(unescape(match[1]))


def without_type(text: str) -> dict[str, Any]:
    """The recipe of `marked`. Raises ValueError: the text is no JSON object."""
    recipe = dict(json.loads(text))
    recipe.pop("digital_source_type", None)
    return recipe


def with_xmp_box(mp4: bytes, recipe: Mapping[str, Any]) -> bytes:
    """An MP4 with its XMP after all other boxes, where it changes no offset."""
    packet = xmp(recipe)
    return mp4 + struct.pack(">I", 24 + len(packet)) + b"uuid" + _BOX + packet


def with_chunks(wav: bytes, recipe: Mapping[str, Any]) -> bytes:
    """A WAV with a comment and its XMP. Not by libsndfile, which drops comments beyond 2 kB: recipes hold prompts."""
    comment = marked(recipe).encode("ascii")  # the chunk names no encoding
    comment += b"\0" * (2 - len(comment) % 2)
    info = b"INFOICMT" + struct.pack("<I", len(comment)) + comment
    packet = xmp(recipe)
    chunks = b"LIST" + struct.pack("<I", len(info)) + info
    chunks += b"_PMX" + struct.pack("<I", len(packet)) + packet + b"\0" * (len(packet) % 2)
    return wav[:4] + struct.pack("<I", len(wav) + len(chunks) - 8) + wav[8:] + chunks


def comment_of(wav: bytes) -> str:
    """The comment of a WAV; "": it has none."""
    position = 12
    while position + 8 <= len(wav):
        size = int.from_bytes(wav[position + 4 : position + 8], "little")
        if wav[position : position + 4] == b"LIST" and wav[position + 8 : position + 16] == b"INFOICMT":
            return wav[position + 20 : position + 8 + size].rstrip(b"\0").decode("ascii")
        position += 8 + size + size % 2
    return ""

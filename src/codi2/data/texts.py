"""Decode text files: byte-order marks, UTF-16 from editors, cp1252 from old spreadsheets."""

from __future__ import annotations

import codecs
import re
import unicodedata

from codi2.data.checks import BadRecord

_MARKS = {  # the longer marks first: the mark of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_SIGNS = frozenset("‘’“”„–—…•·«»¡¿€£§©®™°±²³¼½¾×÷\u00a0\u00ad")
_FOREIGN = re.compile(r"[^\W\d_\x00-\x7f]{3}")  # no Latin script has three accented letters in a row


def encoding_of(head: bytes) -> tuple[str, int]:
    """The encoding of a text by its first bytes, and the length of its mark; empty: UTF-8 or cp1252."""
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding, len(mark)
    if len(head) >= 4 and 0 in head[:64]:  # in UTF-16 every Latin letter has a zero byte
        zeros = [head[place:64:2].count(0) for place in (0, 1)]
        if max(zeros) and not min(zeros):
            return ("utf-16-be" if zeros[0] else "utf-16-le"), 0
    return "", 0


def decode(data: bytes) -> str:
    """The text without its mark; line ends are unchanged.

    Raises BadRecord: the encoding cannot be determined. Bytes that are not UTF-8 are read as cp1252 only if the result
    looks like words of a Latin script; text in another script would be read as nonsense.
    """
    encoding, mark = encoding_of(data)
    try:
        return data[mark:].decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        reason = f"{data[:80]!r}: byte {error.start} is not {encoding or 'UTF-8'}"
    if not encoding and (text := _of_windows(data)):
        return text
    raise BadRecord("no text", f"{reason}; save it as UTF-8")


def _of_windows(data: bytes) -> str:
    """The text read as cp1252; empty: the result is not words."""
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return ""
    strange = [character for character in text if not character.isascii() and character not in _SIGNS]
    plain = sum(character.isascii() and character.isalpha() for character in text)
    letters = all(unicodedata.category(character) in ("Lu", "Ll") for character in strange)
    return text if letters and len(strange) <= plain and not _FOREIGN.search(text) else ""

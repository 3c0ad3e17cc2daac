"""Words as files hold them: marks of byte order, UTF-16 of editors, cp1252 of old spreadsheets."""

from __future__ import annotations

import codecs
import re
import unicodedata

from codi2.data.checks import BadRecord

_MARKS = {  # the longer ones first: that of UTF-32 begins as that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_SIGNS = frozenset("‘’“”„–—…•·«»¡¿€£§©®™°±²³¼½¾×÷\u00a0\u00ad")
_FOREIGN = re.compile(r"[^\W\d_\x00-\x7f]{3}")  # no Latin script has three accented letters in a row


def encoding_of(head: bytes) -> tuple[str, int]:
    """What a text is in, by its first bytes, and how many of them are the mark; empty: UTF-8 or cp1252."""
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding, len(mark)
    if len(head) >= 4 and 0 in head[:64]:  # Latin letters of 16 bits have a zero each
        zeros = [head[place:64:2].count(0) for place in (0, 1)]
        if max(zeros) and not min(zeros):
            return ("utf-16-be" if zeros[0] else "utf-16-le"), 0
    return "", 0


def decode(data: bytes) -> str:
    """The text without its mark; line ends as they are.

    Raises BadRecord: in no encoding that can be told. Bytes that are no UTF-8 are taken for cp1252 only where what
    comes out looks like words of a Latin script: other scripts would come out as nonsense.
    """
    encoding, mark = encoding_of(data)
    try:
        return data[mark:].decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        reason = f"{data[:80]!r}: byte {error.start} is no {encoding or 'UTF-8'}"
    if not encoding and (text := _of_windows(data)):
        return text
    raise BadRecord("no text", f"{reason}; save it as UTF-8")


def _of_windows(data: bytes) -> str:
    """As cp1252; empty: that makes no words."""
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return ""
    strange = [character for character in text if not character.isascii() and character not in _SIGNS]
    plain = sum(character.isascii() and character.isalpha() for character in text)
    letters = all(unicodedata.category(character) in ("Lu", "Ll") for character in strange)
    return text if letters and len(strange) <= plain and not _FOREIGN.search(text) else ""

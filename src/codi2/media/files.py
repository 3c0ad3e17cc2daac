"""The bytes of a file, and a guess of its format for messages."""

from __future__ import annotations

from pathlib import Path

from codi2.errors import MediaError

Source = str | Path | bytes
_MAGIC = {b"PNG\r\n": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"WEBP": "WebP", b"RIFF": "WAV or AVI",
          b"OggS": "OGG", b"fLaC": "FLAC", b"ID3": "MP3", b"ftyp": "MP4", b"II*\0": "TIFF", b"MM\0*": "TIFF",
          b"%PDF": "PDF", b"PK\3\4": "ZIP"}  # fmt: skip


def read_source(source: Source, name: str = "") -> tuple[bytes, str]:
    """The bytes of a file, and its name for messages. Raises MediaError: it is missing, a folder, or empty."""
    if isinstance(source, bytes):
        data, name = source, name or "the upload"
    else:
        path = Path(source).expanduser()
        # bytes that are not UTF-8 become replacement characters, as the name is shown and written
        name = name or path.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise MediaError(f"{path} does not exist; relative paths start at {Path.cwd()}") from error
        except IsADirectoryError as error:
            raise MediaError(f"{path} is a folder; give one file in it") from error
        except OSError as error:
            raise MediaError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    if not data:
        raise MediaError(f"{name} is empty (0 bytes); export or download it again")
    return data, name


def guess(data: bytes) -> str:
    """The format of a file that no reader opens, for the message."""
    for magic, kind in _MAGIC.items():
        if magic in data[:16]:
            return f"a broken or unsupported {kind} file"
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "of no known format"
    if "<svg" in text[:2000]:
        return "an SVG drawing, which is not read"
    return "a text file, whatever its name says" if "\0" not in text else "of no known format"

"""Containers that FFmpeg opens, within the limits and without playlists."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from codi2.errors import MediaError
from codi2.media import bounds

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.stream import VideoStream

# FFmpeg also opens playlists, which can name other files and addresses.
FORMATS = "mov,matroska,avi,mpeg,mpegts,flv,asf,ogg,mp3,aac,wav,flac,amr,caf,aiff,au,w64"


@contextmanager
def opened(
    data: bytes, name: str, kind: Literal["audio", "video"]
) -> Iterator[tuple[InputContainer, AudioStream | VideoStream] | None]:
    """The container with its first stream of a kind; None: FFmpeg does not open it, or it has no such stream.

    Raises MediaError: it is too long, or the block ends in an error of FFmpeg.
    """
    import av

    try:
        container = av.open(
            io.BytesIO(data), "r", options={"format_whitelist": FORMATS, "max_pixels": str(bounds.MAX_PIXELS)}
        )
    except (av.FFmpegError, ValueError):
        yield None
        return
    with container:
        seconds = (container.duration or 0) / av.time_base
        if seconds > bounds.MAX_SECONDS:
            raise bounds.too_long(name, seconds)
        covers = av.stream.Disposition.attached_pic
        # a stream with an unknown codec has no context
        streams = [s for s in getattr(container.streams, kind) if s.codec_context and not s.disposition & covers]
        try:
            yield (container, streams[0]) if streams else None
        except av.FFmpegError as error:
            kind_of_file = container.format.name
            raise MediaError(f"{name} is a broken {kind_of_file} file ({error.strerror}); export it again") from error

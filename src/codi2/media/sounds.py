"""Sounds that libsndfile or FFmpeg open, within the limits, as one channel."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

import numpy as np

from codi2.cancellation import check_cancelled
from codi2.errors import MediaError
from codi2.media import bounds, streams
from codi2.pcm import rounded
from codi2.prompt.parts import Audio
from codi2.values.mono import Downmix

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream

BLOCK = 65_536  # samples of each channel that are read at once
UNKNOWN = 1 << 62  # number of samples from which libsndfile means that the header has none
ENDLESS = (0, 0x7FFF_FFFF, 0xFFFF_FFFF)  # sizes that programs write when they do not know the length yet


def sound(data: bytes, name: str) -> Audio | None:
    """A sound by libsndfile; None: it does not open the file. Raises MediaError: it is broken, or beyond the limits."""
    import soundfile

    try:
        file = soundfile.SoundFile(io.BytesIO(with_true_size(data)))
    except soundfile.LibsndfileError:
        return None
    with file:
        count = max(file.frames, 0) if file.frames < UNKNOWN else 0
        bounds.check_sound(name, count, file.channels, file.samplerate)
        # libsndfile does not name the channels
        if file.channels > 2 and (by_ffmpeg := track(data, name)):
            return by_ffmpeg
        mono: list[np.ndarray] = [np.zeros(0, np.float32)]
        mix, length = Downmix(["NONE"] * file.channels), 0
        try:
            # in blocks: all channels of the whole sound take many times the memory of one
            while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
                check_cancelled()
                mono.append(mix(block))
                length += len(block)
                bounds.check_sound(name, length, file.channels, file.samplerate)
        except (soundfile.LibsndfileError, MemoryError, RuntimeError, ValueError, OSError) as error:
            # libsndfile cannot seek in some codecs, which FFmpeg reads from start to end
            if not file.seekable() and (by_ffmpeg := track(data, name)):
                return by_ffmpeg
            raise MediaError(f"{name} is a broken {file.format} file ({error}); export it again") from error
        mix.warn(name)
        return _audio(_joined(mono), file.samplerate, name)


def track(data: bytes, name: str) -> Audio | None:
    """The first sound by FFmpeg; None: it opens no sound. Raises MediaError: it is broken, or beyond the limits."""
    with streams.opened(data, name, "audio") as opened:
        if opened is None:
            return None
        container, stream = opened[0], cast("AudioStream", opened[1])
        return _read(container.decode(stream), stream, name)


def _read(frames: Iterable[AudioFrame], stream: AudioStream, name: str) -> Audio:
    import av

    bounds.check_sound(name, 0, stream.channels, stream.rate)
    # interleaved: PyAV reads past the planes of eight channels
    resampler = av.AudioResampler(format="flt", layout=stream.layout, rate=stream.rate)
    mix = Downmix([channel.name for channel in stream.layout.channels])
    blocks: list[np.ndarray] = [np.zeros(0, np.float32)]
    length = 0
    for frame in frames:
        check_cancelled()
        for block in resampler.resample(frame):
            blocks.append(mix(block.to_ndarray().reshape(-1, stream.channels)))
            length += len(blocks[-1])
        bounds.check_sound(name, length, stream.channels, stream.rate)  # the header may have said less, or nothing
    mix.warn(name)
    return _audio(_joined(blocks), stream.rate, name)


def with_true_size(data: bytes) -> bytes:
    """A WAV with its true sizes, where they are unknown, as in the output of a pipe; other data are unchanged."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return data
    whole, at = int.from_bytes(data[4:8], "little"), 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"data":
            # after a size of 0 in a file whose own size is known, other chunks may follow
            if size in ENDLESS and (size or whole in ENDLESS or whole <= at):
                left = len(data) - at - 8
                sizes = (number.to_bytes(4, "little") for number in (len(data) - 8, left))
                return data[:4] + next(sizes) + data[8 : at + 4] + next(sizes) + data[at + 8 :]
            return data
        at += 8 + size + size % 2
    return data


def _joined(blocks: list[np.ndarray]) -> np.ndarray:
    """The blocks as one array; each block is dropped when it is copied, so that a long sound is not in memory twice."""
    whole, position = np.empty(sum(map(len, blocks)), np.float32), 0
    for number, block in enumerate(blocks):
        whole[position : position + len(block)] = block
        position += len(block)
        blocks[number] = block[:0].copy()
    return whole


def _audio(samples: np.ndarray, rate: int, name: str) -> Audio:
    """A sound of `samples` float32 [N], which are scaled in place to at most 1."""
    if not samples.size:
        raise MediaError(f"{name} is a sound of zero length; record or export it again")
    peak = max(float(samples.max()), -float(samples.min()))
    if not np.isfinite(peak):  # with one NaN, both max and min are NaN
        raise MediaError(f"{name} holds samples that are NaN or infinite; export it again as 16-bit WAV")
    samples /= np.float32(max(peak, 1.0))
    # to 24 bits, in which sounds are stored and sent, so that a stored sound is the same
    return rounded(Audio(samples, rate, name), 24)

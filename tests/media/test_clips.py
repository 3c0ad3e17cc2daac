"""Clips are read as players show them: in real time, upright, in their shape."""

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from codi2 import media
from codi2.errors import MediaError
from codi2.media import bounds, clips
from codi2.media.timeline import even_frames

FILES = Path(__file__).parent / "files"


def clip(
    ticks: list[int],
    form: str = "mp4",
    codec: str = "mpeg4",
    base: Fraction = Fraction(1, 1000),
    size=(64, 48),
    keys=12,
    **more,
) -> bytes:
    """Frames at `ticks` of `base` seconds; the n-th has a brightness of 10 n."""
    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = base
        for name, value in more.items():
            setattr(stream.codec_context, name, value)
        stream.codec_context.gop_size = keys
        for number, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 10 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = tick, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def numbers(part: media.Video) -> list[int]:
    """Which frame of `clip` each frame is."""
    return [round(float(np.asarray(frame).mean()) / 10) for frame in part.frames]


def test_hdr_is_shown_with_the_colours_of_a_screen_without_it():
    """Red in HLG and PQ. Values that are not tone-mapped are pale: 152, 24, 24 and 126, 48, 49."""
    for transfer, signal in ((18, (0.6, 0.1, 0.1)), (16, (0.5, 0.2, 0.2))):
        out = io.BytesIO()
        with av.open(out, "w", format="mp4") as container:
            stream = container.add_stream("libx265", rate=10, options={"x265-params": "log-level=error"})
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
            context = stream.codec_context
            context.colorspace, context.color_primaries, context.color_trc = 9, 9, transfer
            pixels = np.full((64, 64, 3), np.array(signal) * 65535, np.uint16)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb48le")
            for number in range(3):
                frame = frame.reformat(format="yuv420p10le", dst_colorspace=9)
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        part = media.load(out.getvalue())
        assert len(part.frames) == 3
        for shown in part.frames:
            red, green, blue = np.asarray(shown)[32, 32]
            assert 140 < red < 220 and green <= 15 and blue <= 30, (transfer, red, green, blue)


def test_irregular_frames_are_shown_at_their_times():
    part = media.load(FILES / "vfr.mp4")
    with av.open(str(FILES / "vfr.mp4")) as container:
        times = sorted(float(p.pts * p.time_base) for p in container.demux(video=0) if p.pts is not None)
    assert times[8] == 1.0 and times[-1] == 8.0
    assert len(part.frames) / part.fps == pytest.approx(8.125)
    distinct = list(dict.fromkeys(map(id, part.frames)))
    starts = [next(n for n, f in enumerate(part.frames) if id(f) == one) / part.fps for one in distinct]
    np.testing.assert_allclose(starts, times, atol=0.01)


@pytest.mark.parametrize("form", ["mp4", "matroska", "mov"])
def test_each_frame_lasts_until_the_next_one(form):
    part = media.load(clip([0, 100, 200, 600, 700, 1500], form))
    shown = numbers(part)
    at = [shown[round(seconds * part.fps)] for seconds in (0, 0.1, 0.2, 0.4, 0.5, 0.6, 0.7, 1.0, 1.4, 1.5)]
    assert at == [0, 1, 2, 2, 2, 3, 4, 4, 4, 5]


@pytest.mark.parametrize("form", ["matroska", "flv", "mp4", "avi", "mpegts"])
def test_regular_frames_come_once_each_though_clocks_round(form):
    codec = {"flv": "flv", "mpegts": "mpeg2video"}.get(form, "mpeg4")
    more = {"framerate": Fraction(30)} if form in ("avi", "mpegts") else {}
    base = Fraction(1, 30) if more else Fraction(1, 1000)
    ticks = list(range(20)) if more else [round(1000 * n / 30) for n in range(20)]
    part = media.load(clip(ticks, form, codec, base, **more))
    assert numbers(part) == list(range(20)) and part.fps == pytest.approx(30, rel=0.02)


def test_the_first_frame_is_the_beginning_wherever_the_clock_starts():
    for start in (-500, 5000):
        part = media.load(clip([start + tick for tick in (0, 100, 200, 300, 800)], "matroska"))
        assert numbers(part)[:4] == [0, 1, 2, 3] and numbers(part)[-1] == 4
        assert len(part.frames) / part.fps == pytest.approx(0.9, abs=0.12)


def test_what_an_edit_list_leaves_out_is_not_shown():
    data = bytearray(clip([100 * n for n in range(10)], keys=1))
    at = data.index(b"elst")
    version, count, length, begin = struct.unpack(">IIIi", data[at + 4 : at + 20])
    assert (version, count, begin) == (0, 1, 0)
    ticks = struct.unpack(">I", data[(m := data.index(b"mdhd")) + 16 : m + 20])[0]  # a second of the track
    data[at + 12 : at + 20] = struct.pack(">Ii", length // 2, ticks // 2)
    part = media.load(bytes(data))
    assert numbers(part) == [5, 6, 7, 8, 9] and part.fps == pytest.approx(10, rel=0.02)


def test_long_clips_are_thinned_to_even_times():
    chosen, fps = even_frames([n / 30 for n in range(1000)], 1000 / 30)
    assert len(chosen) <= 256 and set(np.diff(chosen)) <= {4} and len(chosen) / fps == pytest.approx(1000 / 30)
    times = np.cumsum([0.02, 0.5] * 300)
    chosen, fps = even_frames(times[:-1].tolist(), times[-1])
    shown_at = np.arange(len(chosen)) / fps + times[0]
    assert np.abs(times[chosen] - shown_at).max() < 0.8 and len(chosen) <= 256, "never later than the frame lasts"


def test_one_frame_and_frames_of_one_moment():
    assert numbers(media.load(clip([0]))) == [0]
    chosen, fps = even_frames([0.0], 0.04)
    assert chosen.tolist() == [0] and fps == pytest.approx(25)


MATRICES = {
    "ROTATE_270": (0, 1, -1, 0), "ROTATE_180": (-1, 0, 0, -1), "ROTATE_90": (0, -1, 1, 0), None: (1, 0, 0, 1),
    "FLIP_LEFT_RIGHT": (-1, 0, 0, 1), "FLIP_TOP_BOTTOM": (1, 0, 0, -1), "TRANSPOSE": (0, 1, 1, 0),
    "TRANSVERSE": (0, -1, -1, 0),
}  # fmt: skip


def with_matrix(data: bytes, a: float, b: float, c: float, d: float) -> bytes:
    """The same MP4 with another display matrix in its track's header."""
    at = data.index(b"tkhd") + 4 + 40
    one = 65_536
    return (
        data[:at] + struct.pack(">9i", *(round(v * one) for v in (a, b, 0, c, d, 0, 0, 0)), 1 << 30) + data[at + 36 :]
    )


@pytest.mark.parametrize("name", MATRICES)
def test_the_display_matrix_turns_frames(name):
    from PIL import Image as PILImage

    data = (FILES / "rot90.mp4").read_bytes()
    coded = media.load(with_matrix(data, 1, 0, 0, 1)).frames[0]
    assert coded.size == (96, 64)
    a, b, c, d = MATRICES[name]
    upright = media.load(with_matrix(data, a, b, c, d)).frames[0]
    wanted = coded if name is None else coded.transpose(PILImage.Transpose[name])
    assert upright.size == wanted.size and upright.tobytes() == wanted.tobytes()
    # by the definition: the point (x, y) of the coded frame is shown at (a x + c y, b x + d y), moved into view
    x, y = 20, 50
    shown_x, shown_y = a * x + c * y, b * x + d * y
    shown_x += (upright.width - 1) if shown_x < 0 else 0
    shown_y += (upright.height - 1) if shown_y < 0 else 0
    assert upright.getpixel((shown_x, shown_y)) == coded.getpixel((x, y))


def test_the_clip_of_a_phone_is_upright():
    part = media.load(FILES / "rot90.mp4")
    assert {frame.size for frame in part.frames} == {(64, 96)}
    still = media.load_image(FILES / "rot90.mp4").pixels
    assert still.size == (64, 96)


@pytest.mark.parametrize(("shape", "size"), [((2, 1), (128, 48)), ((1, 2), (32, 48)), ((16, 15), (68, 48))])
def test_pixels_that_are_not_square_are_made_so(shape, size):
    data = clip([0, 40, 80], "matroska", sample_aspect_ratio=Fraction(*shape))
    assert media.load(data).frames[0].size == size
    wide = clip([0, 40], "matroska", size=(704, 576), sample_aspect_ratio=Fraction(16, 11))
    assert media.load(wide).frames[0].size == (512, 288)


def test_a_stream_that_changes_its_size_is_a_clip_of_one_size():
    small, large = (clip(list(range(5)), "mpegts", "mpeg2video", Fraction(1, 25), size, framerate=Fraction(25))
                    for size in ((64, 48), (128, 96)))  # fmt: skip
    part = media.load(small + large)
    assert {frame.size for frame in part.frames} == {(64, 48)} and len(part.frames) >= 5


def test_packets_that_a_header_hides_are_counted_before_a_frame_is_decoded(monkeypatch):
    data = clip(list(range(25)), "mpegts", "mpeg2video", Fraction(1, 25), framerate=Fraction(25))
    assert len(media.load(data).frames) == 25
    monkeypatch.setattr(clips, "_decode", lambda *_: pytest.fail("it was decoded"))
    monkeypatch.setattr(bounds, "MAX_CLIP_PIXELS", 64 * 48 * 20)
    with pytest.raises(MediaError, match="million pixels in all"):
        media.load(data)

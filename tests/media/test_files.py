"""What a user may hand over: good files of every kind, and every way in which a file can be bad."""

import io
import json
import os
import struct
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image as PILImage

from codi2 import media
from codi2.errors import MediaError, OutputError
from codi2.media import bounds, timeline
from codi2.prompt.parts import Audio, Image, Video

from .made import clip, encoded, noise_picture, sound, tone


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_still_pictures_of_many_formats(kind):
    part = media.load(encoded(PILImage.new("RGB", (6, 4), (255, 0, 0)), kind))
    assert isinstance(part, Image)
    assert (part.pixels.mode, part.pixels.size) == ("RGB", (6, 4))
    assert np.abs(np.asarray(part.pixels).astype(int) - [255, 0, 0]).max() <= 3


def test_transparency_is_laid_on_white():
    rgba = PILImage.new("RGBA", (2, 1), (0, 0, 0, 0))
    rgba.putpixel((1, 0), (0, 0, 200, 255))
    for picture in (rgba, rgba.quantize()):
        pixels = media.load_image(encoded(picture)).pixels
        assert pixels.getpixel((0, 0)) == (255, 255, 255)
        assert pixels.getpixel((1, 0)) == (0, 0, 200)
    half = media.load_image(encoded(PILImage.new("LA", (1, 1), (0, 128)))).pixels
    assert half.getpixel((0, 0)) == (127, 127, 127)


def test_exif_orientation_is_applied():
    exif = PILImage.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    assert media.load_image(encoded(PILImage.new("RGB", (8, 4)), "JPEG", exif=exif)).pixels.size == (4, 8)


def test_grey_cmyk_and_16_bit_become_rgb():
    assert media.load_image(encoded(PILImage.new("L", (1, 1), 90))).pixels.getpixel((0, 0)) == (90, 90, 90)
    cmyk = media.load_image(encoded(PILImage.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")).pixels
    assert np.abs(np.asarray(cmyk).astype(int) - [255, 0, 0]).max() < 12
    deep = PILImage.fromarray(np.array([[0, 32_896, 65_535]], np.uint16))
    assert np.asarray(media.load_image(encoded(deep)).pixels)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animated_pictures_are_clips(kind):
    frames = [PILImage.new("RGB", (8, 8), (60 * i, 0, 0)) for i in range(4)]
    part = media.load(encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50))
    assert isinstance(part, Video)
    assert len(part.frames) == 4 and part.fps == pytest.approx(20)
    assert part.frames[3].mode == "RGB" and abs(part.frames[3].getpixel((4, 4))[0] - 180) < 12


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_a_frame_that_is_shown_longer_comes_several_times(kind):
    """Encoders merge frames that are alike: what is sampled evenly must be even in time."""
    shown = [0, 200, 200, 200, 0, 0, 200, 0]
    frames = [PILImage.new("RGB", (8, 8), (red, 0, 0)) for red in shown]
    part = media.load(encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=320, lossless=True))
    assert [frame.getpixel((4, 4))[0] > 100 for frame in part.frames] == [red > 100 for red in shown]
    assert part.fps == pytest.approx(3.125)


def test_several_pages_or_shots_of_one_file_are_a_still():
    pages = [PILImage.new("RGB", (8, 8), c) for c in ("red", "blue")]
    for kind in ("TIFF", "MPO"):
        part = media.load(encoded(pages[0], kind, save_all=True, append_images=pages[1:]))
        assert isinstance(part, Image) and part.pixels.getpixel((0, 0))[0] > 200


def test_video_frames_and_sound_track():
    data = clip()
    part = media.load(data, "cat.mp4")
    assert isinstance(part, Video) and part.name == "cat.mp4"
    assert len(part.frames) == 10 and part.fps == pytest.approx(10)
    assert part.frames[9].getpixel((5, 5))[0] > part.frames[1].getpixel((5, 5))[0] + 100
    track = media.load_audio(data)
    assert track.rate == 16_000 and track.seconds == pytest.approx(1.0, abs=0.15)
    assert np.abs(track.samples).max() == pytest.approx(0.5, abs=0.15)


def test_long_clips_are_thinned_evenly_and_keep_their_duration(monkeypatch):
    monkeypatch.setattr(timeline, "MAX_FRAMES", 4)
    part = media.load(clip(frames=10, audio=False))
    assert len(part.frames) <= 4 and len(part.frames) / part.fps == pytest.approx(1.0, abs=0.35)
    reds = [frame.getpixel((5, 5))[0] for frame in part.frames]
    assert np.ptp(np.diff(reds)) < 20


def test_long_animations_are_thinned_and_keep_their_duration(monkeypatch):
    monkeypatch.setattr(timeline, "MAX_FRAMES", 4)
    frames = [PILImage.new("RGB", (8, 8), (20 * i, 0, 0)) for i in range(10)]
    part = media.load(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100))
    assert len(part.frames) / part.fps == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_sounds_keep_rate_and_length(kind):
    part = media.load(sound(tone(1.0, 44_100), 44_100, kind))
    assert isinstance(part, Audio) and part.rate == 44_100 and part.samples.dtype == np.float32
    assert part.samples.ndim == 1 and part.seconds == pytest.approx(1.0, abs=0.06)


def test_stereo_is_averaged_and_loud_sounds_are_scaled_not_clipped():
    both = media.load_audio(sound(np.stack([tone(0.1), np.zeros(1600, np.float32)], 1)))
    np.testing.assert_allclose(both.samples, tone(0.1) / 2, atol=1e-3)
    loud = media.load_audio(sound(tone(0.1, gain=3.0), subtype="FLOAT"))
    np.testing.assert_allclose(loud.samples, tone(0.1, gain=1.0), atol=5e-3)


BAD = {
    "text.png": (b"hello, I am no picture\n" * 9, "text file"),
    "vector.png": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "empty.wav": (b"", "0 bytes"),
    "silence.wav": (sound(np.zeros(0, np.float32)), "zero length"),
    "nan.wav": (sound(np.array([0.0, np.nan], np.float32), subtype="FLOAT"), "NaN"),
    "inf.wav": (sound(np.array([0.0, np.inf], np.float32), subtype="FLOAT"), "infinite"),
    "cut.png": (encoded(noise_picture())[:3000], "broken PNG"),
    "head.png": (encoded(noise_picture())[:20], "PNG"),
    "cut.jpg": (encoded(noise_picture(), "JPEG")[:1500], "broken JPEG"),
    "cut.gif": (encoded(noise_picture(), "GIF")[:1500], "broken GIF"),
    "cut.mp4": (clip()[:600], "MP4"),
    "random.bin": (np.random.default_rng(1).bytes(5000), "known format"),
    "paper.pdf": (b"%PDF-1.7\n\xff\xfe" + b"\0" * 99, "PDF"),
    "list.m3u8": (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n", "text file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_end_in_one_sentence_that_names_them(name, tmp_path):
    data, reason = BAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(MediaError) as caught:
        media.load(tmp_path / name)
    message = str(caught.value)
    assert message.startswith(name) and reason in message and "\n" not in message and ";" in message


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(MediaError, match=r"nowhere\.png does not exist"):
        media.load(tmp_path / "nowhere.png")
    with pytest.raises(MediaError, match="is a folder"):
        media.load(tmp_path)


@pytest.mark.parametrize("side", [8001, 20_000])
def test_huge_pictures_are_refused_from_the_header_alone(side):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(MediaError, match="the limit is 64 million"):
        media.load(bomb, "bomb.png")


def test_long_sounds_are_refused():
    with pytest.raises(MediaError, match="lasts 601 s"):
        media.load(sound(np.zeros(601 * 8000, np.float32), 8000))


def test_films_and_codecs_that_nobody_reads_are_refused():
    with pytest.raises(MediaError, match=r"film\.mp4 lasts 10800 s, the limit is 600 s"):
        media.load(clip(frames=10_800, audio=False, rate=1), "film.mp4")
    odd = clip(audio=False, codec="libx264").replace(b"avc1", b"zzzz")
    with pytest.raises(MediaError, match=r"odd\.mp4 is a broken or unsupported MP4"):
        media.load(odd, "odd.mp4")


def test_the_wrong_modality_is_named():
    with pytest.raises(MediaError, match=r"a\.wav is a sound"):
        media.load_image(sound(tone(0.1)), "a.wav")
    with pytest.raises(MediaError, match=r"a\.png is a picture"):
        media.load_audio(encoded(noise_picture()), "a.png")


@pytest.mark.parametrize(("rate", "seconds"), [(8000, 1.0), (44_100, 5.0), (16_000, 2.56), (22_050, 0.001)])
def test_to_clip_resamples_pads_and_cuts(rate, seconds):
    samples = media.to_clip(Audio(tone(seconds, rate, gain=0.9), rate))
    assert samples.shape == (40_960,) and samples.dtype == np.float32 and np.abs(samples).max() <= 1
    stored = min(int(seconds * 16_000), 40_960)
    if stored > 4000:
        np.testing.assert_allclose(samples[500 : stored - 500], tone(seconds, gain=0.9)[500 : stored - 500], atol=5e-3)
    assert not samples[stored + 1 :].any()


RECIPE = {"prompt": "a bell, « ding » \U0001f514", "seed": 7, "scale": 7.5, "long": "x" * 5000}


def test_recipes_survive_png_wav_and_flac(tmp_path):
    picture = Image(noise_picture((8, 8)))
    path = media.save(tmp_path / "new" / "a.png", picture, RECIPE)
    assert media.read_recipe(path) == RECIPE
    assert np.array_equal(np.asarray(media.load_image(path).pixels), np.asarray(picture.pixels))
    for name in ("a.wav", "a.flac"):
        path = media.save(tmp_path / name, Audio(tone(0.2), 16_000), RECIPE)
        assert media.read_recipe(path) == RECIPE
        np.testing.assert_allclose(media.load_audio(path).samples, tone(0.2), atol=1e-4)


def test_files_without_recipe_and_names_without_format(tmp_path):
    for data in (encoded(noise_picture()), sound(tone(0.1)), json.dumps(RECIPE).encode()):
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(MediaError, match="carries no recipe"):
            media.read_recipe(tmp_path / "a")
    with pytest.raises(OutputError, match=r"\.png"):
        media.save(tmp_path / "a.jpg", Image(noise_picture()), {})
    with pytest.raises(OutputError, match=r"\.wav or \.flac"):
        media.save(tmp_path / "a.mp3", Audio(tone(0.1), 16_000), {})
    assert not (tmp_path / "a.jpg").exists()


@pytest.mark.parametrize("suffix", ["mp4", "webp"])
def test_a_clip_keeps_its_frames_its_speed_and_its_recipe(tmp_path, suffix):
    frames = tuple(PILImage.new("RGB", (24, 16), (60 * i, 200 - 60 * i, 30)) for i in range(4))
    recipe = {"seed": 3, "prompt": "a boat – at sea"}
    path = media.save(tmp_path / f"clip.{suffix}", Video(frames, 8.0), recipe)
    again = media.load(path)
    assert isinstance(again, Video) and len(again.frames) == 4
    assert again.fps == pytest.approx(8.0)
    for frame, written in zip(frames, again.frames, strict=True):
        assert np.abs(np.asarray(frame, dtype=int) - np.asarray(written, dtype=int)).mean() < 6
    assert media.read_recipe(path) == recipe
    with pytest.raises(OutputError, match=r"\.mp4 or \.webp"):
        media.save(tmp_path / "clip.avi", Video(frames, 8.0), recipe)


def test_a_file_whose_name_is_no_text_has_a_name_that_is(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    path.write_bytes(encoded(noise_picture()))
    assert media.load(path).name == "caf\ufffd.png"


def test_frames_that_are_not_kept_are_not_converted(monkeypatch):
    monkeypatch.setattr(timeline, "MAX_FRAMES", 4)
    converted = []
    monkeypatch.setattr(timeline, "scaled", lambda frame: converted.append(frame) or frame)
    part = media.load(clip(frames=64, audio=False))
    assert len(part.frames) <= 4 and len(converted) <= 4 * 5


@pytest.mark.parametrize("rate", [65_536, 96_001, 655_360, 768_000])
def test_rates_that_flac_cannot_store_are_refused(rate):
    with pytest.raises(MediaError, match=f"{rate} samples a second; 100 to 65535 are read, and multiples of 10"):
        media.load(sound(tone(0.1), rate), "rate.wav")


@pytest.mark.parametrize("rate", [100, 44_099, 65_535, 655_350])
def test_every_sound_that_is_read_can_be_stored_and_played_with_a_clip(rate):
    part = media.load(sound(np.sin(np.arange(rate // 2) / 20), rate), "rate.wav")
    assert isinstance(part, Audio)
    stored = media.load(media.sound_bytes(part, "FLAC"))
    assert isinstance(stored, Audio) and stored.rate == rate
    np.testing.assert_array_equal(stored.samples, part.samples)
    frames = tuple(PILImage.new("RGB", (8, 8), (60 * i, 0, 0)) for i in range(4))
    track = media.load_audio(media.mp4_bytes(Video(frames, 8), {}, part))
    assert track.rate in media.AAC_RATES and track.seconds == pytest.approx(0.5, abs=0.35)  # AAC pads to its blocks


def test_clips_of_an_absurd_rate_are_read_at_the_limit():
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=1_000_000)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    frames = [PILImage.new("RGB", (8, 8), (60 * i, 0, 0)) for i in range(4)]
    fast = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:], duration=0.02)
    for data in (out.getvalue(), fast):
        part = media.load(data)
        assert isinstance(part, Video) and part.fps == bounds.MAX_FPS

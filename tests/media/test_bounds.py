"""Small files that stand for much are refused before they are decoded."""

import bombs
import pytest
from PIL import Image as PILImage

from codi2 import media
from codi2.cancellation import Cancelled, cancel_when
from codi2.errors import MediaError
from codi2.media import bounds, clips, pictures
from codi2.prompt.parts import Image

from .made import encoded, sound, tone

BOMBS = {
    "frames.gif": (lambda: bombs.gif(7900, 7900, 6), "million pixels in all"),
    "dots.gif": (lambda: bombs.gif(1, 1, 20_000), "limit is 10000 frames"),
    "later.gif": (lambda: bombs.gif(16, 16, 3, later=(12_000, 12_000)), "12000 x 12000 pixels"),
    "first.gif": (lambda: bombs.gif(20_000, 20_000, 3), "million"),
    "slow.gif": (lambda: bombs.gif(64, 64, 3, hundredths=65_535), "the limit is 600 s"),
    "notes.gif": (
        lambda: bombs.gif(9, 9, 2)[:-1] + b"\x21\xfe" + (b"\xff" + bytes(255)) * 5000 + b"\0;",
        "MB of comments",
    ),
    "frames.png": (lambda: bombs.apng(2000, 2000, 65), "million pixels in all"),
    "inner.ico": (lambda: bombs.ico(bombs.png(12_000, 12_000, rows=0)), "12000 x 12000 pixels"),
    "bitmap.ico": (lambda: bombs.ico(bombs.bitmap(20_000, 20_000)), "20000 x 20000 pixels"),
    "channels.flac": (lambda: bombs.flac(40, 655_350, 8), "in 8 channels"),
    "rate.wav": (lambda: sound(tone(0.1), 2_000_000), "2000000 samples a second"),
    "slow.wav": (lambda: sound(tone(0.1), 10), "10 samples a second"),
    "long.mp4": (lambda: bombs.clip(16, 16, 30), "million pixels in all"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_unfolds_too_far_is_refused_before_it_is_decoded(name, monkeypatch):
    make, reason = BOMBS[name]
    if name == "long.mp4":  # the limit of clips is half a minute of encoding away
        monkeypatch.setattr(bounds, "MAX_CLIP_PIXELS", 16 * 16 * 20)
    if name != "slow.gif":  # its pixels are few
        monkeypatch.setattr(pictures, "to_rgb", lambda picture, name: pytest.fail("it was decoded"))
        monkeypatch.setattr(clips, "_upright", lambda frame, shape: pytest.fail("it was decoded"))
    with pytest.raises(MediaError, match=reason) as caught:
        media.load(make(), name)
    assert str(caught.value).startswith(name) and "\n" not in str(caught.value)


def test_a_clip_whose_header_hides_its_length_is_refused_while_it_is_decoded(monkeypatch):
    data = bombs.clip(16, 16, 30, "mpegts", "mpeg2video")  # it has no count of frames
    assert len(media.load(data).frames) == 30
    monkeypatch.setattr(bounds, "MAX_CLIP_PIXELS", 16 * 16 * 20)
    with pytest.raises(MediaError, match="million pixels in all"):
        media.load(data)


def test_a_large_frame_in_a_small_file_is_refused_by_the_decoder():
    assert len(media.load(bombs.clip(64, 64, 3, "matroska")).frames) == 3
    for form in ("matroska", "mp4"):
        with pytest.raises(MediaError):
            media.load(bombs.clip(16_000, 4_002, 1, form), "wide")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_moving_pictures_of_each_format_are_bounded_before_they_are_decoded(kind, monkeypatch):
    frames = [PILImage.new("RGB", (16, 16), (60 * i, 0, 0)) for i in range(5)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
    monkeypatch.setattr(bounds, "MAX_ANIMATION_PIXELS", 16 * 16 * 5)
    assert len(media.load(data).frames) == 5
    monkeypatch.setattr(bounds, "MAX_ANIMATION_PIXELS", 16 * 16 * 4)
    monkeypatch.setattr(pictures, "to_rgb", lambda picture, name: pytest.fail("it was decoded"))
    with pytest.raises(MediaError, match="million pixels in all"):
        media.load(data)
    monkeypatch.undo()
    assert isinstance(media.load_image(data), Image)


def test_reading_an_animation_or_a_clip_stops_when_it_is_no_longer_wanted():
    checks = []
    with pytest.raises(Cancelled), cancel_when(lambda: checks.append(1) is None and len(checks) > 3):
        media.load(bombs.gif(64, 64, 100))
    with pytest.raises(Cancelled), cancel_when(lambda: True):
        media.load(bombs.clip(16, 16, 30))


def test_of_a_picture_that_moves_a_still_is_its_first_frame_alone():
    frames = [PILImage.new("RGB", (8, 8), (60 * i, 0, 0)) for i in range(4)]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)
    still = media.load(moving, still=True)
    assert isinstance(still, Image) and still.pixels.getpixel((4, 4)) == (0, 0, 0)
    assert isinstance(media.load_image(bombs.gif(4000, 4000, 2000)), Image), "the other frames are not read"

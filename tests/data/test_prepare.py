import io

import numpy as np
import pytest
import soundfile
from PIL import Image

from codi2.data.prepare import CLIP, clips, open_clip, open_sound, square
from codi2.errors import DataError


def test_a_cut_out_fills_the_square_but_for_a_margin():
    picture = Image.new("RGBA", (400, 300))
    picture.paste("red", (10, 200, 90, 240))  # 80×40, off to one side
    pixels = square(picture)
    assert pixels.shape == (64, 64, 3) and pixels.dtype == np.uint8
    rows, columns = np.nonzero(pixels[:, :, 1] < 128)
    assert columns.min() == pytest.approx(0.06 * 64 / 1.12, abs=1.5) and columns.max() == 63 - columns.min()
    assert rows.min() == 63 - rows.max()
    assert tuple(pixels[0, 0]) == (255, 255, 255)


def test_a_scene_is_cut_square_and_not_letterboxed():
    scene = Image.new("RGB", (480, 360), "blue")
    scene.paste("green", (60, 0, 420, 360))  # the middle square
    assert (square(scene)[:, 4:-4] == (0, 128, 0)).all()


def test_a_picture_on_white_is_padded_whole():
    picture = Image.new("RGB", (300, 100), "white")
    picture.paste("black", (5, 5, 295, 95))
    dark = np.nonzero(square(picture)[:, :, 0] < 128)
    assert np.ptp(dark[1]) > 58 and np.ptp(dark[0]) < 24


def test_a_fully_transparent_picture_is_refused():
    with pytest.raises(DataError, match="fully transparent"):
        square(Image.new("RGBA", (20, 30)))


def noise(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, (int(seconds * rate), channels)).astype(np.float32)


def test_a_clip_is_played_again_where_it_is_short():
    frames = [Image.new("RGBA", (8, 8), (40 * i, 0, 0, 255)) for i in range(4)]
    file = io.BytesIO()
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:], duration=320)
    read = open_clip(file.getvalue())  # 1.28 s, so that eight moments of 2.56 s are twice the four frames
    assert [frame.getpixel((0, 0))[0] for frame in read] == [0, 40, 80, 120] * 2


def test_a_short_sound_is_one_clip_from_its_start():
    rate = 44_100
    late = np.concatenate([np.zeros((rate, 2), np.float32), noise(0.5, rate, 2)])
    (clip,) = clips((late, rate))
    assert clip.shape == (CLIP,) and clip.dtype == np.float32
    assert np.abs(clip).max() == pytest.approx(0.9, abs=0.02)
    assert np.abs(clip[:800]).max() > 0.1
    assert not clip[8_100:].any()
    assert abs(clip[7_990]) < 0.05  # faded out


def test_a_long_recording_gives_three_clips_and_a_silent_one_none():
    three = list(clips((noise(20, 16_000), 16_000)))
    assert len(three) == 3
    assert not np.allclose(three[0], three[1])
    assert list(clips((np.zeros((16_000, 1), np.float32), 16_000))) == []


def test_the_silent_stretches_of_a_recording_are_not_clips():
    sound = np.concatenate([noise(2, 16_000), np.zeros((16_000 * 8, 1), np.float32)])
    assert len(list(clips((sound, 16_000)))) == 1


@pytest.mark.parametrize("encoding", ["WAV", "OGG", "FLAC", "MP3"])
def test_the_encodings_of_the_sources(encoding: str):
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(1, 22_050), 22_050, format=encoding)
    samples, rate = open_sound(buffer.getvalue())
    assert rate == 22_050 and len(samples) == pytest.approx(22_050, abs=3_000)

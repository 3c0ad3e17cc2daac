import base64
import io
import re

import numpy as np
import pytest
import soundfile
from PIL import Image as PILImage

from codi2.errors import MediaError
from codi2.media import read_recipe
from codi2.prompt.parts import Audio, Image, Text, Video
from codi2.report import Row, page, spectrogram, write_page


def tone(hz, seconds=1.0, rate=16_000):
    return Audio(np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate).astype(np.float32), rate, f"{hz} Hz")


PICTURE = Image(PILImage.effect_mandelbrot((64, 32), (-2, -1.5, 1, 1.5), 50).convert("RGB"), "a <fractal>")
ROW = Row(
    "Edit & listen",
    (Text("Turn "), PICTURE, Text(" into <sound>.")),
    [Text("Here it is."), tone(440)],
    [tone(880)],
    "0.1 s",
)


def embedded(html, kind):
    return [base64.b64decode(data) for data in re.findall(rf"data:{kind};base64,([^\"]+)", html)]


def test_the_page_holds_prompt_inputs_outputs_and_neighbours():
    html = page("Demo", [ROW], "Held-out <samples>.")
    for text in (
        "Turn [image0] into &lt;sound&gt;.",
        "a &lt;fractal&gt;",
        "Here it is.",
        "Nearest",
        "0.1 s",
        "Held-out &lt;",
    ):
        assert text in html
    pictures = [PILImage.open(io.BytesIO(data)) for data in embedded(html, "image/png")]
    assert [picture.size for picture in pictures] == [(64, 32), (320, 96), (320, 96)]
    assert pictures[0].convert("RGB").tobytes() == PICTURE.pixels.tobytes()
    assert '<img width="192"' in html  # 64 px are shown at three times their size
    samples, rate = soundfile.read(io.BytesIO(embedded(html, "audio/wav")[0]))
    assert rate == 16_000
    np.testing.assert_allclose(samples, ROW.outputs[1].samples, atol=2**-14)


def test_the_page_asks_nothing_of_the_network():
    html = page("Demo", [ROW])
    sources = re.findall(r"(?:src|href)=\"(\w+:)", html)
    assert sources and set(sources) == {"data:"}
    assert "http" not in re.sub(r"base64,[^\"]+", "", html)


def test_large_inputs_are_scaled_down():
    html = page("Demo", [Row("Big", (Image(PILImage.new("RGB", (1000, 2000))),), [])])
    assert PILImage.open(io.BytesIO(embedded(html, "image/png")[0])).size == (192, 384)
    assert '<img width="96"' in html


def test_a_clip_is_an_animated_picture():
    frames = tuple(PILImage.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue"))
    html = page("Demo", [Row("Clip", (Video(frames, 8.0),), [])])
    assert PILImage.open(io.BytesIO(embedded(html, "image/png")[0])).n_frames == 3


@pytest.mark.parametrize("hz", [1000, 4000, 7000])
def test_a_tone_is_a_bright_line_at_its_height(hz):
    brightness = np.asarray(spectrogram(tone(hz)).convert("L"), float).mean(axis=1)
    line = (1 - brightness.argmax() / len(brightness)) * 8000
    assert abs(line - hz) < 150


def test_silence_and_a_very_short_sound_have_a_spectrogram():
    silence = np.asarray(spectrogram(Audio(np.zeros(16_000, np.float32), 16_000)))
    assert silence.max() <= 4
    assert spectrogram(tone(440, seconds=0.001)).size == (320, 96)


def test_the_page_is_written(tmp_path):
    write_page(tmp_path / "index.html", "Demo", [ROW])
    assert (tmp_path / "index.html").read_text().startswith("<!doctype html>")


def test_media_that_were_made_say_so_in_the_page():
    clip = Video((PICTURE.pixels, PICTURE.pixels), 2.0)
    outputs = [Image(PICTURE.pixels), tone(440), clip]
    recipe = {"model": "debug", "seed": 4}
    row = Row("Made", (PICTURE,), outputs, recipes={id(part): recipe for part in outputs})
    html = page("Demo", [row])
    source, picture, _, moving = embedded(html, "image/png")
    assert [read_recipe(data) for data in (picture, moving, *embedded(html, "audio/wav"))] == [recipe] * 3
    with pytest.raises(MediaError, match="carries no recipe"):
        read_recipe(source)

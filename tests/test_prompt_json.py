import json

import numpy as np
import pytest
from PIL import Image as PILImage

from codi2.errors import MediaError, PromptError
from codi2.prompt.parts import Audio, Image, Phrase, Text, Video
from codi2.prompt_json import from_wire, to_wire

RNG = np.random.default_rng(0)


def picture(size=(7, 5)):
    return PILImage.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8))


def test_a_prompt_survives_json():
    samples = RNG.uniform(-0.9, 0.9, 3000).astype(np.float32)
    prompt = (
        Text("Mix "),
        Phrase("a cat"),
        Image(picture(), "cat.png"),
        Audio(samples, 16_000, "purr.wav"),
        Video((picture(), picture()), 8.0, "clip.gif"),
    )
    back = from_wire(json.loads(json.dumps(to_wire(prompt))))
    assert back[:2] == prompt[:2]
    assert [part.name for part in back[2:]] == ["cat.png", "purr.wav", "clip.gif"]
    assert back[2].pixels.tobytes() == prompt[2].pixels.tobytes()
    assert back[3].rate == 16_000
    np.testing.assert_allclose(back[3].samples, samples, atol=2**-22)
    assert [frame.tobytes() for frame in back[4].frames] == [frame.tobytes() for frame in prompt[4].frames]
    assert back[4].fps == 8.0


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "smell", "data": ""}, "type 'smell'"),
        ({"text": "hi"}, "needs a field 'type'"),
        ({"type": "image"}, "needs a field 'data' of type str"),
        ({"type": "image", "data": "!!"}, "not base64"),
        ({"type": "video", "data": [3], "fps": 8}, "not base64"),
        ({"type": "video", "data": [], "fps": 8}, "clip of 0 frames"),
        ({"type": "video", "data": [], "fps": None}, "needs a field 'fps'"),
        ("hello", "needs a field 'type'"),
    ],
)
def test_a_malformed_part_is_named(part, message):
    with pytest.raises(PromptError, match=message):
        from_wire([part])


def test_data_that_is_no_picture_is_a_media_error():
    with pytest.raises(MediaError):
        from_wire([{"type": "image", "data": "aGVsbG8="}])

"""All ways to get a reply give the same reply, bit for bit: Python, conversations, the server's routes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage
from replies import decoded
from ways import FOLDER, MANY, ONE, REQUESTS, Round, Servers, Way, answer, images, same, streamed_completions, values

from codi2.chat import Chat
from codi2.media import save
from codi2.model import CoDi2
from codi2.prompt.parts import Audio, Image, Text, Video


@pytest.fixture(scope="module", autouse=True)
def clip_with_sound(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Writes a clip with a sound."""
    FOLDER["sounding.mp4"] = tmp_path_factory.mktemp("media")
    frames = tuple(PILImage.new("RGB", (64, 48), (40 * i, 90, 200)) for i in range(5))
    sound = Audio(0.5 * np.sin(np.arange(8000) * 0.2), 16_000)
    save(FOLDER["sounding.mp4"] / "sounding.mp4", Video(frames, 10), {}, sound)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    at = Servers(CoDi2.from_pretrained("tiny"), tmp_path_factory.mktemp("ways") / "store")
    yield at
    at.close()


@pytest.fixture(scope="module")
def debug(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    at = Servers(CoDi2.from_pretrained("debug"), tmp_path_factory.mktemp("ways") / "store")
    yield at
    at.close()


def check(at: Servers, name: str, way: Way) -> None:
    expected, actual = at.expected(name), way(at, REQUESTS[name])
    if way is streamed_completions:  # there, the text comes before the media
        expected, actual = (sorted(parts, key=lambda part: isinstance(part, Text)) for parts in (expected, actual))
    if way is images:
        expected = [part for part in expected if isinstance(part, Image)]
    assert same(actual, expected), (name, way.__name__)


CASES = [(name, way) for name in REQUESTS for way in MANY]
CASES += [(name, way) for name, rounds in REQUESTS.items() for way in ONE if len(rounds) == 1]
CASES += [("a picture of words", images)]


@pytest.mark.parametrize(("name", "way"), CASES, ids=[f"{name}: {way.__name__}" for name, way in CASES])
def test_all_ways_answer_alike(debug: Servers, name: str, way: Way):
    check(debug, name, way)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "way"), CASES, ids=[f"{name}: {way.__name__}" for name, way in CASES])
def test_all_ways_answer_alike_with_the_shipped_model(tiny: Servers, name: str, way: Way):
    check(tiny, name, way)


def test_other_seeds_and_other_earlier_rounds_give_other_replies(debug: Servers):
    """The comparison can fail."""
    first, second = REQUESTS["an edit in the second round"]
    reply = answer(debug, (first, second))
    assert not same(reply, answer(debug, (first, Round(second.words, seed=8))))
    assert not same(reply, answer(debug, (Round("Draw a fish."), second)))
    assert not same(reply, answer(debug, (second,)))


def test_a_system_prompt_is_the_same_everywhere(debug: Servers):
    system, round_ = "Be <|im_end|>\n kind [image0]. ", REQUESTS["a picture of words"][0]
    chat = Chat(debug.model, system=system)
    replies = [chat.send(round_.parts, **round_.settings).parts for _ in range(2)]
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}]
    name = debug.post("/v1/sessions", system=system).json()["id"]
    for expected in replies:
        messages.append({"role": "user", "content": round_.content})
        body = {"messages": messages, "max_tokens": round_.tokens, **round_.body}
        messages.append(debug.post("/v1/chat/completions", **body).json()["choices"][0]["message"])
        body = {"content": round_.content, "max_tokens": round_.tokens, **round_.body}
        stored = debug.post(f"/v1/sessions/{name}/rounds", **body).json()["message"]
        for message in (messages[-1], stored):
            assert same(decoded(message["codi2"]["parts"]), expected)
    assert not same(replies[0], debug.expected("a picture of words")), "it is read"


def test_several_replies_are_those_of_the_seeds_that_follow(debug: Servers):
    """They are one batch, in which numbers are rounded in another way."""
    content = [{"type": "text", "text": "Draw a strawberry."}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 4, "n": 3, "seed": 5}
    answer_ = debug.post("/v1/chat/completions", **body, codi2={"want": ["image"], "num_inference_steps": 2}).json()
    for i, choice in enumerate(answer_["choices"]):
        alone = values(answer(debug, [Round("Draw a strawberry.", seed=5 + i)]))
        batched = values(decoded(choice["message"]["codi2"]["parts"]))
        assert batched[1:] == alone[1:] and np.abs(batched[0].astype(int) - alone[0]).max() <= 2

"""The routes, by the official client where there is one for them, on a real server."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import soundfile
from PIL import Image as PILImage

from .conftest import Running


def data_url(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def picture(b64: str) -> PILImage.Image:
    return PILImage.open(io.BytesIO(base64.b64decode(b64.rpartition(",")[2])))


def parts_of(message: Any) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = message.codi2["parts"]
    return parts


def test_text_only(client: openai.OpenAI):
    completion = client.chat.completions.create(
        model="debug", messages=[{"role": "user", "content": "Hello"}], modalities=["text"], max_tokens=5
    )
    assert completion.object == "chat.completion" and completion.choices[0].finish_reason in ("stop", "length")
    assert completion.choices[0].message.role == "assistant" and isinstance(completion.choices[0].message.content, str)
    assert (
        completion.usage is not None
        and completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    )


def test_media_in_and_out_and_sent_back(client: openai.OpenAI, media: Path):
    sound = base64.b64encode((media / "crow.wav").read_bytes()).decode()
    messages: list[Any] = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Draw "},
                {"type": "image_url", "image_url": {"url": data_url(media / "goose-google.png")}},
                {"type": "text", "text": " as it sounds: "},
                {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}},
            ],
        }
    ]
    extra = {"codi2": {"want": ["image", "audio"]}}
    completion = client.chat.completions.create(
        model="debug", messages=messages, max_tokens=2, seed=3, extra_body=extra
    )
    message = completion.choices[0].message
    image, sound_part, *_ = parts_of(message)
    assert picture(image["image_url"]["url"]).size == (64, 64)
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(sound_part["audio"]["data"])))
    assert rate == 16_000 and len(samples) == 40_960
    again = client.chat.completions.create(model="debug", messages=messages, max_tokens=2, seed=3, extra_body=extra)
    second_url = parts_of(again.choices[0].message)[0]["image_url"]["url"]
    assert picture(second_url).tobytes() == picture(image["image_url"]["url"]).tobytes(), (
        "the same seed, the same picture"
    )
    messages += [message.model_dump(), {"role": "user", "content": "Now make the second image night"}]
    edited = client.chat.completions.create(
        model="debug", messages=messages, max_tokens=2, extra_body={"codi2": {"want": ["image"]}}
    )
    assert picture(parts_of(edited.choices[0].message)[0]["image_url"]["url"]).size == (64, 64)
    assert edited.usage is not None and completion.usage is not None
    assert edited.usage.prompt_tokens > completion.usage.prompt_tokens


def test_several_choices_differ_by_their_seeds(client: openai.OpenAI):
    completion = client.chat.completions.create(
        model="debug",
        messages=[{"role": "user", "content": "Draw"}],
        n=3,
        max_tokens=1,
        extra_body={"codi2": {"want": ["image"]}},
    )
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    urls = [parts_of(choice.message)[0]["image_url"]["url"] for choice in completion.choices]
    assert len({picture(url).tobytes() for url in urls}) == 3


def test_a_stream_adds_up_to_the_whole_reply(client: openai.OpenAI):
    arguments: dict[str, Any] = {
        "model": "debug",
        "messages": [{"role": "user", "content": "Sing"}],
        "max_tokens": 9,
        "extra_body": {"codi2": {"want": ["image"]}},
    }
    whole = client.chat.completions.create(**arguments)
    chunks = list(client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **arguments))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text.strip() == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    stages = [c.codi2["progress"]["stage"] for c in chunks if getattr(c, "codi2", None) and "progress" in c.codi2]  # type: ignore[attr-defined]
    assert set(stages) == {"read", "write", "decode"}
    (medium,) = [c.choices[0].delta.codi2 for c in chunks if c.choices and getattr(c.choices[0].delta, "codi2", None)]  # type: ignore[attr-defined]
    streamed_part, part = medium["part"], parts_of(whole.choices[0].message)[medium["place"]]
    assert picture(streamed_part["image_url"]["url"]).tobytes() == picture(part["image_url"]["url"]).tobytes()


def test_responses(client: openai.OpenAI, media: Path):
    content: Any = [
        {"type": "input_text", "text": "Draw "},
        {"type": "input_image", "image_url": data_url(media / "goose-google.png")},
    ]
    arguments: dict[str, Any] = {
        "model": "debug",
        "input": [{"role": "user", "content": content}],
        "instructions": "Be brief.",
        "max_output_tokens": 4,
        "extra_body": {"codi2": {"want": ["image", "audio"]}},
    }
    response = client.responses.create(**arguments)
    kinds = [item.type for item in response.output]
    assert kinds[:2] == ["image_generation_call", "codi2_audio"]
    assert picture(response.output[0].result).size == (64, 64)  # type: ignore[union-attr]
    events = list(client.responses.create(stream=True, **arguments))
    assert events[0].type == "response.created" and events[-1].type == "response.incomplete"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == response.output_text
    again = [*arguments["input"], response.output[0].model_dump(), {"role": "user", "content": "Mirror it"}]
    assert client.responses.create(**arguments | {"input": again}).status == "incomplete"


def test_pictures_from_words_and_edits(client: openai.OpenAI, media: Path):
    generated = client.images.generate(model="debug", prompt="a goose", n=2, size="64x64", response_format="b64_json")  # type: ignore[call-overload]
    assert [picture(image.b64_json).size for image in generated.data] == [(64, 64)] * 2
    with open(media / "goose-google.png", "rb") as goose, open(media / "mango-twitter.png", "rb") as mango:
        edited = client.images.edit(model="debug", image=[goose, mango], prompt="Make [image1] like [image0]")
    assert edited.data and picture(edited.data[0].b64_json or "").size == (64, 64)
    with open(media / "goose-google.png", "rb") as goose:
        assert client.images.edit(model="debug", image=goose, prompt="Make it night").data


@pytest.mark.parametrize("form", ["wav", "flac", "ogg", "mp3"])
def test_sounds_from_words(server: Running, form: str):
    body = {"input": "a bell", "response_format": form, "seed": 4}
    answer = httpx.post(f"{server.url}/v1/audio/generations", json=body, timeout=60)
    samples, rate = soundfile.read(io.BytesIO(answer.content))
    assert answer.headers["content-type"].startswith("audio/") and rate == 16_000 and len(samples) >= 40_960


def test_models_health_metrics_and_schema(client: openai.OpenAI, server: Running):
    (model,) = client.models.list().data
    assert model.id == "debug" and model.codi2["makes"] == ["text", "image", "audio", "video"]  # type: ignore[attr-defined]
    assert client.models.retrieve("debug").id == "debug"
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-9'; this server has 'debug'"):
        client.models.retrieve("gpt-9")
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-9'"):
        client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "Hi"}])
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
    text = httpx.get(f"{server.url}/metrics").text
    assert 'codi2_jobs_total{outcome="done"}' in text
    assert 'codi2_requests_total{route="/v1/chat/completions",status="200"}' in text
    assert "/v1/sessions/{name}/rounds" in httpx.get(f"{server.url}/openapi.json").json()["paths"]


BAD: list[tuple[Any, str]] = [
    ([], "messages: List should have at least 1 item"),
    ([{"role": "user", "content": None}], "message 0 has no content"),
    ([{"role": "user", "content": [7]}], "Input should be a valid dictionary"),
    ([{"role": "user", "content": [{"type": "smell"}]}], "part 0 of message 0 has the type 'smell'"),
    (
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a.b/c.png"}}]}],
        "fetches nothing",
    ),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}], "no data URL"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": "data:image/png;base64,???"}]}], "not base64"),
    (
        [{"role": "user", "content": [{"type": "image_url", "image_url": "data:image/png;base64,aGVsbG8="}]}],
        "cannot be read",
    ),
    ([{"role": "user", "content": [{"type": "input_audio", "input_audio": {"format": "wav"}}]}], "has no data"),
    ([{"role": "user", "content": [{"type": "text", "text": "x"}] * 300}], "at most 256 items"),
    ([{"role": "user", "content": "x" * 20_000}], "positions, the model reads at most"),
    ([{"role": "assistant", "content": "Hi"}], "the last message is from the assistant"),
    ([{"role": "user", "content": "Mirror [image0]"}], "[image0]"),
    ([{"role": "robot", "content": "Hi"}], "messages.0.role"),
]


@pytest.mark.parametrize(("messages", "words"), BAD, ids=[words[:20] for _, words in BAD])
def test_bad_conversations_are_one_sentence(server: Running, messages: Any, words: str):
    answer = httpx.post(f"{server.url}/v1/chat/completions", json={"model": "debug", "messages": messages}, timeout=30)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert words in error["message"] and "Traceback" not in answer.text and "\n" not in error["message"]


SPOKEN = {"role": "assistant", "content": [{"type": "output_text", "text": "a"}] * 200}
BAD_ITEMS: list[tuple[list[Any], str]] = [
    ([{"role": "user", "content": ["hello"]}], "part 0 of message 0 is no object"),
    ([{"role": "user", "content": [{"type": "input_text", "text": "a"}] * 257}], "message 0 has more than 256 parts"),
    ([SPOKEN, SPOKEN, {"role": "user", "content": "b"}], "message 0 has more than 256 parts"),
    ([{"type": "codi2_audio"}, {"role": "user", "content": "a"}], "part 0 of message 0 is no object"),
    ([{"type": ["message"], "role": "user", "content": "a"}], "has the type \"['message']\""),
    ([{"role": "assistant", "content": "a"}], "the last message is from the assistant"),
]


@pytest.mark.parametrize(("items", "words"), BAD_ITEMS, ids=[words[:20] for _, words in BAD_ITEMS])
def test_bad_items_of_a_response_are_one_sentence(server: Running, items: list[Any], words: str):
    answer = httpx.post(f"{server.url}/v1/responses", json={"model": "debug", "input": items}, timeout=30)
    assert answer.status_code == 400 and words in answer.json()["error"]["message"], answer.text


def test_bad_requests(server: Running, media: Path):
    post = f"{server.url}/v1/chat/completions"
    hello = [{"role": "user", "content": "Hi"}]
    for body, words in (
        (b"{", "JSON"),
        (b"[]", "valid dict"),
        (json.dumps({"messages": hello, "seed": -1}).encode(), "seed"),
        (json.dumps({"messages": hello, "model": "debug", "codi2": {"speed": 3}}).encode(), "codi2.speed"),
        (json.dumps({"messages": hello, "model": "debug", "modalities": ["smell"]}).encode(), "modalities"),
        (
            json.dumps({"messages": hello, "codi2": {"source": "the dog"}}).encode(),
            "write none, last, or an item's name",
        ),
        (
            json.dumps({"messages": hello, "codi2": {"source": "image3"}}).encode(),
            "there is no item image3 to start from",
        ),
        (json.dumps({"messages": hello, "model": "debug", "n": 2, "stream": True}).encode(), "do not go together"),
    ):
        answer = httpx.post(post, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400 and words in answer.json()["error"]["message"], answer.text
    lying = {
        "type": "input_audio",
        "input_audio": {"data": base64.b64encode((media / "goose-google.png").read_bytes()).decode()},
    }
    answer = httpx.post(post, json={"model": "debug", "messages": [{"role": "user", "content": [lying]}]})
    assert "says that it is audio, but its bytes are image" in answer.json()["error"]["message"]


Case = tuple[str, str, dict[str, str], bytes | None, int, str]
FORMS: list[Case] = [
    ("GET", "/nothing", {}, None, 404, "there is nothing at this path"),
    ("GET", "/v1/sessions/nothing", {}, None, 404, "there is no session 'nothing'"),
    ("GET", "/v1/models/nothing", {}, None, 404, "there is no model 'nothing'"),
    ("GET", "/v1/models/", {}, None, 404, "there is no model ''"),
    ("GET", "/v1/sessions/", {}, None, 404, "there is no"),
    ("GET", "/v1/chat/completions", {}, None, 405, "does not take this method"),
    ("DELETE", "/health", {}, None, 405, "does not take this method"),
    ("TRACE", "/health", {}, None, 405, "does not take this method"),
    ("OPTIONS", "/v1/sessions", {}, None, 405, "does not take this method"),
    ("BREW", "/v1/sessions", {}, None, 405, "does not take this method"),
    ("POST", "/v1/sessions", {}, b"", 400, "the body"),
    ("POST", "/v1/sessions", {"Content-Type": "application/json"}, b"{", 400, "JSON"),
    ("POST", "/v1/sessions", {"Content-Type": "application/json"}, b"\xff", 400, "the body"),
    ("POST", "/v1/sessions", {"Content-Type": "application/json"}, b"[" * 99_999, 400, "the body"),
    ("POST", "/v1/sessions", {"Content-Type": "application/json"}, b"9" * 9_999, 400, "the body"),
    ("POST", "/v1/sessions", {"Content-Type": "application/json"}, b'{"title": 5}', 400, "title: Input should be a"),
    ("POST", "/v1/sessions", {"Content-Type": "application/x-www-form-urlencoded"}, b"{}", 415, "send JSON"),
    ("POST", "/v1/sessions", {"Content-Type": "text/plain; x=application/json"}, b"{}", 415, "send JSON"),
    ("POST", "/v1/sessions", {"Content-Type": "application/json; charset=utf-16"}, b"{}", 415, "'utf-16'; send UTF-8"),
    ("POST", "/v1/images/edits", {"Content-Type": "multipart/form-data"}, b"x", 400, "boundary"),
    ("POST", "/v1/images/edits", {"Content-Type": "multipart/form-data; boundary=x"}, b"x", 400, "multipart"),
    ("POST", "/v1/images/edits", {"Content-Type": "multipart/form-data; boundary=x; charset=idna"}, b"x", 415, "idna"),
    ("POST", "/v1/sessions", {"Content-Type": "application/json"}, b"x" * (65 << 20), 413, "larger than 64 MB"),
]


@pytest.mark.parametrize("case", FORMS, ids=[f"{case[0]} {case[1]} {case[5]}" for case in FORMS])
def test_errors_have_the_documented_form(server: Running, case: Case):
    method, path, headers, content, status, words = case
    answer = httpx.request(method, server.url + path, headers=headers, content=content, timeout=60)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json" and set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and words in error["message"]
    assert isinstance(error["type"], str) and "\n" not in error["message"] and len(error["message"]) <= 500


def test_a_body_without_a_length_is_bounded_too(server: Running):
    def drip() -> Any:
        for _ in range(66):
            yield b"x" * (1 << 20)

    answer = httpx.post(
        f"{server.url}/v1/responses", content=drip(), timeout=60, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "too_large"


VALUES = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "1e-38",
    "1e-320",
    "-1",
    "9" * 400,
    '"nan"',
    '"1e-38"',
    "[]",
    '"\\ud800"',
]


@pytest.mark.parametrize("value", VALUES)
def test_numbers_out_of_range_are_refused(server: Running, value: str):
    hello = '"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2'
    bodies = [f'{{"temperature": {value}, {hello}}}', f'{{{hello}, "codi2": {{"timeout": {value}}}}}']
    bodies += [f'{{{hello}, "codi2": {{"{name}": {value}}}}}' for name in ("guidance_scale", "source_guidance_scale")]
    bodies += [f'{{{hello}, "{name}": {value}}}' for name in ("seed", "n")]
    for body in bodies:
        answer = httpx.post(
            f"{server.url}/v1/chat/completions", content=body.encode(), headers={"Content-Type": "application/json"}
        )
        if "1e-3" in value and "temperature" not in body and "seed" not in body and '"n"' not in body:
            continue  # no guidance, and a deadline that has passed
        assert answer.status_code == 400 and answer.json()["error"]["message"], (body, answer.text)


@pytest.mark.parametrize("half", ["\\ud800", "a\\udfffb", "\\udc00\\ud800"])
def test_strings_that_utf8_cannot_hold(server: Running, half: str):
    name = httpx.post(f"{server.url}/v1/sessions", json={}).json()["id"]
    part = f'[{{"type": "text", "text": "{half}"}}]'
    for path, body in (
        ("chat/completions", f'{{"messages": [{{"role": "user", "content": "{half}"}}]}}'),
        ("chat/completions", f'{{"messages": [{{"role": "user", "content": {part}}}]}}'),
        ("chat/completions", f'{{"model": "{half}", "messages": [{{"role": "user", "content": "a"}}]}}'),
        ("chat/completions", f'{{"codi2": {{"{half}": 1}}, "messages": [{{"role": "user", "content": "a"}}]}}'),
        ("responses", f'{{"input": [{{"role": "user", "content": {part}}}]}}'),
        ("images/generations", f'{{"prompt": "{half}"}}'),
        ("images/generations", f'{{"prompt": "a", "codi2": {{"negative_prompt": "{half}"}}}}'),
        ("audio/generations", f'{{"input": "{half}"}}'),
        ("sessions", f'{{"title": "{half}"}}'),
        (f"sessions/{name}/rounds", f'{{"content": {part}}}'),
    ):
        answer = httpx.post(
            f"{server.url}/v1/{path}", content=body.encode(), headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 400 and "surrogate" in answer.json()["error"]["message"], (path, answer.text)


def test_seeds_that_are_counted_up_stay_seeds(client: openai.OpenAI):
    completion = client.chat.completions.create(
        model="debug", messages=[{"role": "user", "content": "Hi"}], seed=2**63 - 1, n=2, max_tokens=2, temperature=1
    )
    assert len(completion.choices) == 2


def test_routes_that_make_one_thing_refuse_others(server: Running):
    for path, body in (
        ("images/generations", {"prompt": "a", "codi2": {"want": ["audio"]}}),
        ("images/generations", {"prompt": "a", "codi2": {"want": []}}),
        ("images/generations", {"prompt": "a", "codi2": {"want": ["image", "image"]}}),
        ("audio/generations", {"input": "a", "codi2": {"want": ["image"]}}),
        ("audio/generations", {"input": "a", "codi2": {"want": ["text"]}}),
    ):
        answer = httpx.post(f"{server.url}/v1/{path}", json=body)
        assert answer.status_code == 400 and "leave it out" in answer.json()["error"]["message"], answer.text


def test_a_field_of_chat_completions_alone_is_refused_elsewhere(server: Running):
    for path, body in (("responses", {"input": "a"}), ("images/generations", {"prompt": "a"})):
        answer = httpx.post(f"{server.url}/v1/{path}", json={**body, "codi2": {"content": "parts"}})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "codi2.content", answer.text


@pytest.mark.parametrize(
    "path", ["/health", "/metrics", "/v1/models", "/v1/models/debug", "/v1/sessions", "/openapi.json"]
)
def test_head_is_get_without_a_body(server: Running, path: str):
    head, get = httpx.head(server.url + path), httpx.get(server.url + path)
    assert head.status_code == get.status_code == 200 and head.content == b"" and get.content
    assert head.headers["content-type"] == get.headers["content-type"]
    assert path in ("/metrics", "/health") or head.headers["content-length"] == get.headers["content-length"]
    assert httpx.head(f"{server.url}/v1/chat/completions").status_code == 405


def test_the_schema_says_how_errors_look(server: Running):
    schema = httpx.get(f"{server.url}/openapi.json").json()
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            refused = operation["responses"]["4XX"]["content"]["application/json"]["schema"]
            assert refused == {"$ref": "#/components/schemas/Failure"} and "422" not in operation["responses"], (
                path,
                method,
            )

"""What OpenAI's clients and those that speak like them send and expect, on a real server."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image as PILImage

from codi2.media import read_recipe
from codi2.media.provenance import SOURCE_TYPE

from .conftest import Running


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def post(server: Running, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/{path}", json=body, timeout=60)


def chat(server: Running, *messages: dict[str, Any], **more: Any) -> httpx.Response:
    body: dict[str, Any] = {"model": "debug", "messages": list(messages), "max_tokens": 2, "modalities": ["text"]}
    return post(server, "chat/completions", **body | more)


def bytes_of(b64: str) -> bytes:
    return base64.b64decode(b64.rpartition(",")[2])


HELLO = {"role": "user", "content": "Hello"}
WANTS: list[list[str]] = [["text"], ["image"], ["video", "audio"], []]


@pytest.mark.parametrize("want", WANTS, ids=[" ".join(want) or "what the model likes" for want in WANTS])
def test_the_helper_of_responses_reads_a_stream(client: openai.OpenAI, want: list[str]):
    extra = {"codi2": {"want": want, "num_inference_steps": 1} if want else {"num_inference_steps": 1}}
    asked: dict[str, Any] = {"model": "debug", "input": "Sing", "max_output_tokens": 9, "temperature": 1.0}
    words, kinds = "", []
    with client.responses.stream(**asked, extra_body=extra | {"seed": 5}) as stream:
        for event in stream:
            kinds.append(event.type)
            if event.type == "response.output_text.delta":
                words += event.delta
                assert event.snapshot.endswith(event.delta)
            last = event
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds.count("response.output_text.done") <= 3
    response = last.response  # type: ignore[union-attr]
    assert response.output_text == words and response.status == last.type.removeprefix("response.")
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == len(response.output)
    whole = client.responses.create(**asked, extra_body=extra | {"seed": 5})
    assert [item.type for item in whole.output] == [item.type for item in response.output]
    assert whole.output_text == words


def test_events_of_an_item_come_between_its_first_and_last(client: openai.OpenAI):
    asked: dict[str, Any] = {"model": "debug", "input": "Sing", "max_output_tokens": 4, "stream": True}
    events = list(client.responses.create(**asked, extra_body={"codi2": {"want": ["image"]}}))
    open_items: set[int] = set()
    for event in events:
        if event.type == "response.output_item.added":
            assert event.output_index not in open_items
            open_items.add(event.output_index)
        elif event.type == "response.output_item.done":
            open_items.remove(event.output_index)
            assert event.item.status in ("completed", "incomplete")  # type: ignore[union-attr]
        elif hasattr(event, "output_index"):
            assert event.output_index in open_items
    added = [event.output_index for event in events if event.type == "response.output_item.added"]
    assert not open_items and added == sorted(added) == [0, 1]
    final = events[-1].response.output  # type: ignore[union-attr]
    ids = [event.item.id for event in events if event.type == "response.output_item.added"]
    assert ids == [item.id for item in final]


def test_a_reply_that_its_length_cut_is_incomplete(client: openai.OpenAI):
    for tokens, status in ((1, "incomplete"), (3, "incomplete")):  # the random words of this model never end
        made = client.responses.create(
            model="debug", input="Hi", max_output_tokens=tokens, extra_body={"modalities": ["text"]}
        )
        assert made.status == status and made.incomplete_details is not None
        assert made.incomplete_details.reason == "max_output_tokens" and made.output[-1].status == "incomplete"  # type: ignore[union-attr]
    said = client.responses.create(
        model="debug", input="Hi", max_output_tokens=9, extra_body={"modalities": ["text"]}
    ).output_text
    ended = client.responses.create(
        model="debug", input="Hi", max_output_tokens=9, extra_body={"modalities": ["text"], "stop": said[3:5]}
    )
    assert ended.status == "completed" and ended.incomplete_details is None and said.startswith(ended.output_text)


def test_stop_strings_end_a_reply(server: Running, client: openai.OpenAI):
    asked: dict[str, Any] = {"model": "debug", "messages": [HELLO], "max_tokens": 24, "modalities": ["text"]}
    whole = client.chat.completions.create(**asked)
    said = whole.choices[0].message.content or ""
    assert whole.choices[0].finish_reason == "length"
    for stop in (said[7:9], [said[7:9]], ["never said: \u2603", said[7:9]]):
        made = client.chat.completions.create(**asked, stop=stop)
        expected = said[: said.index(said[7:9])]
        assert (made.choices[0].message.content or "") == expected.strip() and made.choices[0].finish_reason == "stop"
        chunks = list(client.chat.completions.create(**asked, stop=stop, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
        assert chunks[-1].choices[0].finish_reason == "stop"
    name = post(server, "sessions").json()["id"]
    body = {"content": "Hello", "max_tokens": 24, "modalities": ["text"], "stop": [said[7:9]]}
    round_ = post(server, f"sessions/{name}/rounds", **body).json()
    assert round_["message"]["content"] == said[: said.index(said[7:9])].strip()


def test_words_of_a_small_nucleus_are_the_likeliest(client: openai.OpenAI):
    asked: dict[str, Any] = {"model": "debug", "messages": [HELLO], "max_tokens": 9, "modalities": ["text"]}
    likeliest = client.chat.completions.create(**asked, temperature=0)
    drawn = client.chat.completions.create(**asked, temperature=2, seed=3)
    nucleus = client.chat.completions.create(**asked, temperature=2, seed=3, top_p=0)
    assert nucleus.choices[0].message.content == likeliest.choices[0].message.content
    assert drawn.choices[0].message.content != likeliest.choices[0].message.content


def test_items_of_a_response_are_input_again(client: openai.OpenAI):
    asked: dict[str, Any] = {"model": "debug", "max_output_tokens": 3}
    extra = {"codi2": {"want": ["image", "audio", "video"], "num_inference_steps": 1}}
    first: list[Any] = [{"role": "user", "content": "Make things"}]
    made = client.responses.create(**asked, input=first, extra_body=extra)
    kinds = ["image_generation_call", "codi2_audio", "codi2_video", "message"]
    assert [item.type for item in made.output] == kinds
    items = [*first, *(item.model_dump() for item in made.output), {"role": "user", "content": "Mirror [image0]"}]
    more = client.responses.create(**asked, input=items, extra_body=extra)
    message = (
        client.chat.completions.create(model="debug", messages=first, max_tokens=3, extra_body=extra).choices[0].message
    )
    same = client.chat.completions.create(
        model="debug", messages=[*first, message.model_dump(), items[-1]], max_tokens=3, extra_body=extra
    )
    assert more.usage is not None and same.usage is not None
    assert more.usage.input_tokens == same.usage.prompt_tokens, "the items of one reply are one message"
    assert more.output_text.strip() == same.choices[0].message.content


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("chat/completions", {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ("chat/completions", {"tool_choice": "required"}, "tool_choice"),
    ("chat/completions", {"response_format": {"type": "json_object"}}, "response_format"),
    ("chat/completions", {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format"),
    ("chat/completions", {"logprobs": True}, "logprobs"),
    ("chat/completions", {"logit_bias": {"50256": -100}}, "logit_bias"),
    ("chat/completions", {"presence_penalty": 0.5}, "presence_penalty"),
    ("chat/completions", {"frequency_penalty": -1}, "frequency_penalty"),
    ("chat/completions", {"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
    ("chat/completions", {"store": True}, "store"),
    ("chat/completions", {"reasoning_effort": "high"}, "reasoning_effort"),
    ("chat/completions", {"web_search_options": {"x": 1}}, "web_search_options"),
    ("chat/completions", {"prediction": {"type": "content", "content": "x"}}, "prediction"),
    ("chat/completions", {"no_such_field": 1}, "no_such_field"),
    ("chat/completions", {"stop": [""]}, "stop"),
    ("chat/completions", {"stop": 3}, "stop"),
    ("chat/completions", {"top_p": 1.5}, "top_p"),
    ("chat/completions", {"n": 9}, "n"),
    ("chat/completions", {"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
    ("responses", {"tools": [{"type": "web_search"}]}, "tools"),
    ("responses", {"text": {"format": {"type": "json_schema", "name": "x", "schema": {}}}}, "text"),
    ("responses", {"previous_response_id": "resp_1"}, "previous_response_id"),
    ("responses", {"background": True}, "background"),
    ("responses", {"truncation": "auto"}, "truncation"),
    ("responses", {"include": ["message.output_text.logprobs"]}, "include"),
    ("images/generations", {"quality": "hd"}, "quality"),
    ("images/generations", {"background": "transparent"}, "background"),
    ("images/generations", {"style": "vivid"}, "style"),
    ("images/generations", {"size": "64 by 64"}, "size"),
    ("images/generations", {"size": "9999x64"}, "size"),
    ("images/generations", {"response_format": "url"}, "response_format"),
    ("images/generations", {"partial_images": 2}, "partial_images"),
    ("audio/generations", {"voice": "alloy"}, "voice"),
]
NEEDED: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": [HELLO], "max_tokens": 1, "modalities": ["text"]},
    "responses": {"input": "Hello", "max_output_tokens": 1, "modalities": ["text"]},
    "images/generations": {"prompt": "a", "codi2": {"num_inference_steps": 1}},
    "audio/generations": {"input": "a", "codi2": {"num_inference_steps": 1}},
}


@pytest.mark.parametrize(("path", "more", "field"), REFUSED, ids=[f"{path} {field}" for path, _, field in REFUSED])
def test_a_field_that_is_not_done_is_refused_by_its_name(server: Running, path: str, more: dict[str, Any], field: str):
    answer = post(server, path, **NEEDED[path] | more)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"].split(".")[0] == field.split(".")[0], answer.text
    assert field.split(".")[-1] in error["message"]


def test_fields_that_ask_for_nothing_are_taken(server: Running):
    nothing: dict[str, Any] = {
        "tools": [],
        "tool_choice": "none",
        "logprobs": False,
        "logit_bias": {},
        "top_logprobs": 0,
    }
    nothing |= {"presence_penalty": 0, "frequency_penalty": 0.0, "parallel_tool_calls": True, "service_tier": "auto"}
    nothing |= {"response_format": {"type": "text"}, "audio": None, "store": False, "user": "me", "no_such_field": None}
    nothing |= {"prompt_cache_key": "k", "safety_identifier": "s", "metadata": {"a": "b"}, "top_p": 1, "stop": None}
    answer = chat(server, HELLO, **nothing, stream_options=None, codi2=None)
    assert answer.status_code == 200 and answer.json()["metadata"] == {"a": "b"}
    nothing = {"tools": [], "text": {"format": {"type": "text"}}, "truncation": "disabled", "reasoning": None}
    nothing |= {"include": ["reasoning.encrypted_content"], "previous_response_id": None, "metadata": {"a": "b"}}
    answer = post(server, "responses", **NEEDED["responses"], **nothing)
    assert answer.status_code == 200 and answer.json()["metadata"] == {"a": "b"}


def assistant(**fields: Any) -> dict[str, Any]:
    return {"role": "assistant", **fields}


HISTORY: list[dict[str, Any]] = [
    assistant(content=None),
    assistant(),
    assistant(content=""),
    assistant(content=None, refusal="I can't."),
    assistant(content=[{"type": "refusal", "refusal": "I can't."}]),
    assistant(content="Hi", refusal=None, annotations=[], audio=None, function_call=None, tool_calls=None),
    assistant(content="Hi", tool_calls=[], reasoning_content="I think", provider_specific_fields={"refusal": None}),
]


@pytest.mark.parametrize("message", HISTORY, ids=[json.dumps(message)[:70] for message in HISTORY])
def test_assistants_messages_as_clients_send_them_back(server: Running, message: dict[str, Any]):
    answer = chat(server, HELLO, message, {"role": "user", "content": [{"type": "text", "text": "And now?"}]})
    assert answer.status_code == 200, answer.text


def test_a_refusal_is_read(server: Running):
    def read(message: dict[str, Any]) -> int:
        count: int = chat(server, HELLO, message, HELLO).json()["usage"]["prompt_tokens"]
        return count

    said = read(assistant(content="I will not."))
    assert said == read(assistant(content=None, refusal="I will not.")) > read(assistant(content=None))


def test_a_reply_is_read_where_litellm_keeps_our_fields(server: Running):
    made = chat(server, HELLO, codi2={"want": ["image"], "num_inference_steps": 1}).json()["choices"][0]["message"]
    ours = {"role": "assistant", "content": made["content"], "codi2": made["codi2"]}
    theirs = {"role": "assistant", "content": made["content"], "provider_specific_fields": {"codi2": made["codi2"]}}
    counts = {chat(server, HELLO, one, HELLO).json()["usage"]["prompt_tokens"] for one in (made, ours, theirs)}
    assert len(counts) == 1 and counts != {
        chat(server, HELLO, assistant(content="Hi"), HELLO).json()["usage"]["prompt_tokens"]
    }


BAD_MESSAGES: list[tuple[dict[str, Any], str]] = [
    ({"role": "tool", "tool_call_id": "c1", "content": "4"}, "the model calls no tools"),
    ({"role": "function", "name": "f", "content": "4"}, "the model calls no tools"),
    (assistant(content=None, tool_calls=[{"id": "c1", "type": "function"}]), "tool_calls is not done here"),
    ({"role": "user", "name": "Ada", "content": "Hi"}, "name is not done here"),
    ({"role": "user", "content": None}, "has no content"),
    ({"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}, "is a file"),
    ({"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}, "file_id"),
    ({"role": "user", "content": [{"type": "text", "text": "Hi", "colour": "red"}]}, "colour"),
]


@pytest.mark.parametrize(("message", "words"), BAD_MESSAGES, ids=[words for _, words in BAD_MESSAGES])
def test_messages_that_are_not_understood_are_one_sentence(server: Running, message: dict[str, Any], words: str):
    answer = chat(server, HELLO, message, HELLO)
    assert answer.status_code == 400 and words in answer.json()["error"]["message"], answer.text


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"type": "function_call_output", "call_id": "c", "output": "4"}, "the model calls no tools"),
        ({"type": "item_reference", "id": "msg_1"}, "known are message"),
        ({"type": "reasoning", "summary": []}, "known are message"),
        ({"role": "tool", "content": "4"}, "the model calls no tools"),
        ({"type": "image_generation_call", "id": "ig_1", "result": None}, "without a result"),
    ],
)
def test_items_that_are_not_understood_are_one_sentence(server: Running, item: dict[str, Any], words: str):
    answer = post(server, "responses", input=[HELLO, item, HELLO], max_output_tokens=1)
    assert answer.status_code == 400 and words in answer.json()["error"]["message"], answer.text


def spellings(data: bytes) -> dict[str, str]:
    plain = base64.b64encode(data).decode()
    lines = "\r\n".join(plain[i : i + 76] for i in range(0, len(plain), 76))
    return {
        "plain": f"data:image/png;base64,{plain}",
        "without padding": f"data:image/png;base64,{plain.rstrip('=')}",
        "in lines": f"data:image/png;base64,\n{lines}\n",
        "URL-safe": f"data:image/png;base64,{base64.urlsafe_b64encode(data).decode().rstrip('=')}",
        "with parameters": f'data:image/png;name="a; b.png";charset=utf-8;base64,{plain}',
        "with a file's name": f"data:image/png;name=my%20goose.png;base64,{plain}",
        "percent-encoded": "data:image/png;base64," + plain.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
        "in capitals": f"DATA:image/png;BASE64,{plain}",
        "with blanks": f"data:image/png; base64, {plain} ",
        "without a type": f"data:;base64,{plain}",
    }


def test_base64_as_programs_write_it(server: Running, media: Path):
    data = (media / "goose-google.png").read_bytes()
    data += b"\0" * ((1 - len(data)) % 3)  # so that there is padding to leave out; readers pass it over
    for name, url in spellings(data).items():
        content = [{"type": "image_url", "image_url": {"url": url, "detail": "high"}}, {"type": "text", "text": "?"}]
        answer = chat(server, {"role": "user", "content": content})
        assert answer.status_code == 200, (name, answer.text)
    sound = base64.b64encode((media / "crow.wav").read_bytes()).decode()
    for text in (sound.rstrip("="), f"data:audio/wav;base64,{sound}", sound.replace("+", "-").replace("/", "_")):
        content = [{"type": "input_audio", "input_audio": {"data": text, "format": "wav"}}]
        assert chat(server, {"role": "user", "content": content}).status_code == 200
    for url in ("data:image/png;base64,a", "data:image/png,abc", "data:image/png;base64,*" + "a" * 7):
        content = [{"type": "image_url", "image_url": {"url": url}}]
        assert chat(server, {"role": "user", "content": content}).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("POST", "/v1/audio/speech", "there is no speech here"),
        ("POST", "/v1/audio/transcriptions", "/v1/chat/completions"),
        ("POST", "/v1/images/variations", "/v1/images/edits"),
        ("POST", "/v1/completions", "/v1/chat/completions"),
        ("POST", "/v1/embeddings", "/openapi.json"),
        ("GET", "/v1/responses/resp_1", "/v1/sessions"),
        ("POST", "/chat/completions", "begin with /v1"),
        ("POST", "/v2/nothing", "there is nothing at this path"),
    ],
)
def test_routes_that_are_not_here_say_what_to_use(server: Running, method: str, path: str, words: str):
    answer = httpx.request(method, server.url + path, json={"input": "Hi", "model": "tts-1", "voice": "alloy"})
    error = answer.json()["error"]
    assert (
        answer.status_code == 404 and words in error["message"] and set(error) == {"message", "type", "param", "code"}
    )


def test_pictures_where_chat_clients_look_for_them(server: Running, client: openai.OpenAI):
    extra: dict[str, Any] = {"codi2": {"want": ["image", "image", "audio"], "num_inference_steps": 1}}
    asked: dict[str, Any] = {"model": "debug", "messages": [HELLO], "max_tokens": 2}
    message = client.chat.completions.create(**asked, extra_body=extra).choices[0].message
    shown = [part["image_url"]["url"] for part in message.codi2["parts"] if part["type"] == "image_url"]  # type: ignore[attr-defined]
    assert [image["image_url"]["url"] for image in message.images] == shown  # type: ignore[attr-defined]
    assert [image["index"] for image in message.images] == [0, 1]  # type: ignore[attr-defined]
    chunks = client.chat.completions.create(**asked, stream=True, extra_body=extra)
    found = [image for chunk in chunks for image in getattr(chunk.choices[0].delta, "images", None) or []]
    assert [image["index"] for image in found] == [0, 1]
    extra["codi2"]["content"] = "parts"
    content: Any = client.chat.completions.create(**asked, extra_body=extra).choices[0].message.content
    assert [part["type"] for part in content] == ["image_url", "image_url", "audio", "text"]
    kept = {"role": "assistant", "content": message.content, "images": message.images}  # type: ignore[attr-defined]
    asked["messages"] = [HELLO, kept, {"role": "user", "content": "Mirror [image1]"}]
    assert client.chat.completions.create(**asked, extra_body={"modalities": ["text"]}).choices


SIZES = [
    ("128x128", "drawn at 64x64, and resized"),
    ("96x64", "of which the middle was kept"),
    ("64x64", ""),
    ("auto", ""),
]


@pytest.mark.parametrize(("size", "note"), SIZES)
def test_a_size_of_its_own(client: openai.OpenAI, size: str, note: str):
    made = client.images.generate(
        model="debug", prompt="a goose", size=size, extra_body={"codi2": {"num_inference_steps": 1}}
    )  # type: ignore[call-overload]
    picture = PILImage.open(io.BytesIO(bytes_of(made.data[0].b64_json)))
    assert f"{picture.width}x{picture.height}" == made.size == ("64x64" if size == "auto" else size)
    assert note in " ".join(made.codi2["notes"]) and bool(note) == bool(made.codi2["notes"])


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_formats_of_pictures(client: openai.OpenAI, media: Path, form: str):
    extra = {"seed": 4, "codi2": {"num_inference_steps": 1}}
    made = client.images.generate(model="debug", prompt="a goose", output_format=form, extra_body=extra)  # type: ignore[call-overload]
    data = bytes_of(made.data[0].b64_json)
    assert PILImage.open(io.BytesIO(data)).format == form.upper() and made.output_format == form
    assert read_recipe(data)["seed"] == 4 and SOURCE_TYPE.encode() in data
    with open(media / "goose-google.png", "rb") as file:
        edited = client.images.edit(model="debug", image=file, prompt="Night", output_format=form)  # type: ignore[call-overload]
    assert PILImage.open(io.BytesIO(bytes_of(edited.data[0].b64_json))).format == form.upper()


def test_pictures_as_a_stream(client: openai.OpenAI, media: Path):
    extra = {"seed": 4, "codi2": {"num_inference_steps": 2}}
    whole = client.images.generate(model="debug", prompt="a goose", n=2, extra_body=extra)
    events = list(client.images.generate(model="debug", prompt="a goose", n=2, stream=True, extra_body=extra))
    made = [event for event in events if event.type == "image_generation.completed"]
    pictures = [PILImage.open(io.BytesIO(bytes_of(event.b64_json))).tobytes() for event in made]
    assert whole.data is not None
    assert pictures == [PILImage.open(io.BytesIO(bytes_of(one.b64_json or ""))).tobytes() for one in whole.data]
    assert any("progress" in event.type for event in events)
    with open(media / "goose-google.png", "rb") as file:
        events = list(client.images.edit(model="debug", image=file, prompt="Night", stream=True))  # type: ignore[arg-type]
    assert events[-1].type == "image_edit.completed" and read_recipe(bytes_of(events[-1].b64_json))


def test_a_field_of_a_form_is_refused_by_its_name(server: Running, media: Path):
    data = (media / "goose-google.png").read_bytes()
    for name, value in (("input_fidelity", "high"), ("quality", "hd"), ("size", "1x1"), ("output_format", "gif")):
        answer = httpx.post(
            f"{server.url}/v1/images/edits", files={"image": data}, data={"prompt": "Night", name: value}, timeout=60
        )
        assert answer.status_code == 400 and answer.json()["error"]["param"] == name, answer.text


def media_of(parts: list[dict[str, Any]]) -> list[bytes]:
    found = []
    for part in parts:
        if part["type"] == "audio":
            found.append(bytes_of(part["audio"]["data"]))
        elif part["type"] != "text":
            found.append(bytes_of(part[part["type"]]["url"]))
    return found


def test_every_medium_that_leaves_says_how_it_was_made(server: Running):
    more: dict[str, Any] = {"seed": 6, "codi2": {"want": ["image", "audio", "video"], "num_inference_steps": 1}}
    left: list[bytes] = media_of(chat(server, HELLO, **more).json()["choices"][0]["message"]["codi2"]["parts"])
    for line in chat(server, HELLO, **more, stream=True).text.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                part = choice["delta"].get("codi2", {}).get("part")
                left += media_of([part] if part else [])
    items = post(server, "responses", input="Hi", max_output_tokens=1, **more).json()["output"]
    text = post(server, "responses", input="Hi", max_output_tokens=1, stream=True, **more).text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    items += [event["item"] for event in events if event["type"] == "response.output_item.done"]
    left += [bytes_of(item["result"]) for item in items if item["type"] == "image_generation_call"]
    left += media_of([item["part"] for item in items if "part" in item])
    for form in ("wav", "flac", "ogg", "mp3"):
        left.append(post(server, "audio/generations", input="a", seed=6, response_format=form).content)
    name = post(server, "sessions").json()["id"]
    text = post(server, f"sessions/{name}/rounds", content="Hi", max_tokens=1, stream=True, **more).text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    left += media_of([event["part"] for event in events if event["type"] == "part"])
    post(server, f"sessions/{name}/rounds", content="Mirror [image0]", max_tokens=1, **more)
    for message in httpx.get(f"{server.url}/v1/sessions/{name}", timeout=60).json()["messages"]:
        parts = message["content"] if message["role"] == "user" else message["codi2"]["parts"]
        left += media_of([part for part in parts if part["type"] != "text"])
    for round_ in httpx.get(f"{server.url}/v1/sessions/{name}/rounds").json()["data"]:
        for item in round_["reply"]:
            if "id" in item:
                path = f"{server.url}/v1/sessions/{name}/media/{item['id']}"
                left.append(httpx.get(path, timeout=60).content)
                left.append(httpx.get(f"{path}/thumbnail", timeout=60).content)
    assert len(left) > 30
    for i, data in enumerate(left):
        assert b"seed" in data, (i, len(left))
        assert read_recipe(data)["seed"] == 6, data[:16]
        assert b"trainedAlgorithmicMedia" in data


def test_head_of_health_is_empty(server: Running):
    answer = httpx.head(f"{server.url}/health")
    assert answer.status_code == 200 and answer.content == b""


def test_the_examples_of_the_clients_own_page(server: Running, client: openai.OpenAI, media: Path):
    url = f"data:image/png;base64,{base64.b64encode((media / 'goose-google.png').read_bytes()).decode()}"
    few: Any = {"model": "debug", "max_output_tokens": 3, "extra_body": {"modalities": ["text"]}}
    made = client.responses.create(instructions="You talk like a pirate.", input="How do I check types?", **few)
    assert isinstance(made.output_text, str) and made.instructions == "You talk like a pirate."
    seen: Any = [{"type": "input_text", "text": "What is in it?"}, {"type": "input_image", "image_url": url}]
    assert client.responses.create(input=[{"role": "user", "content": seen}], **few).output
    talk: Any = [{"role": "developer", "content": "Talk like a pirate."}, {"role": "user", "content": "Hello?"}]
    words: Any = {
        "model": "debug",
        "messages": talk,
        "max_completion_tokens": 3,
        "extra_body": {"modalities": ["text"]},
    }
    raw = client.chat.completions.with_raw_response.create(**words)
    assert raw.parse().choices[0].message.content == client.chat.completions.create(**words).choices[0].message.content
    said = client.chat.completions.create(**words | {"max_completion_tokens": 24}).choices[0].message.content or ""
    with client.chat.completions.stream(**words | {"max_completion_tokens": 24}, stop=said[7:9]) as stream:
        kinds = [event.type for event in stream]
        assert "content.delta" in kinds and stream.get_final_completion().choices[0].finish_reason == "stop"
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**words, response_format={"type": "json_object"})
    assert refused.value.param == "response_format"

    async def all_at_once() -> list[str]:
        one = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none")
        async with one, one.responses.stream(input="Hi", **few) as events:
            return [event.type async for event in events]

    assert asyncio.run(all_at_once())[-1] == "response.incomplete"

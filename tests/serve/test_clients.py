"""What OpenAI's clients and those that speak like them send and expect, on a real server."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from .client_requests import HELLO, chat, post
from .conftest import Running

WANTS: list[list[str]] = [["text"], ["image"], ["video", "audio"], []]


@pytest.mark.parametrize("want", WANTS, ids=[" ".join(want) or "what the model likes" for want in WANTS])
def test_the_helper_of_responses_reads_a_stream(client: openai.OpenAI, want: list[str]):
    extra = {"codi2": {"want": want, "num_inference_steps": 1} if want else {"num_inference_steps": 1}}
    arguments: dict[str, Any] = {"model": "debug", "input": "Sing", "max_output_tokens": 9, "temperature": 1.0}
    words, kinds = "", []
    with client.responses.stream(**arguments, extra_body=extra | {"seed": 5}) as stream:
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
    whole = client.responses.create(**arguments, extra_body=extra | {"seed": 5})
    assert [item.type for item in whole.output] == [item.type for item in response.output]
    assert whole.output_text == words


def test_events_of_an_item_come_between_its_first_and_last(client: openai.OpenAI):
    arguments: dict[str, Any] = {"model": "debug", "input": "Sing", "max_output_tokens": 4, "stream": True}
    events = list(client.responses.create(**arguments, extra_body={"codi2": {"want": ["image"]}}))
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
        response = client.responses.create(
            model="debug", input="Hi", max_output_tokens=tokens, extra_body={"modalities": ["text"]}
        )
        assert response.status == status and response.incomplete_details is not None
        assert response.incomplete_details.reason == "max_output_tokens" and response.output[-1].status == "incomplete"  # type: ignore[union-attr]
    text = client.responses.create(
        model="debug", input="Hi", max_output_tokens=9, extra_body={"modalities": ["text"]}
    ).output_text
    ended = client.responses.create(
        model="debug", input="Hi", max_output_tokens=9, extra_body={"modalities": ["text"], "stop": text[3:5]}
    )
    assert ended.status == "completed" and ended.incomplete_details is None and text.startswith(ended.output_text)


def test_stop_strings_end_a_reply(server: Running, client: openai.OpenAI):
    arguments: dict[str, Any] = {"model": "debug", "messages": [HELLO], "max_tokens": 24, "modalities": ["text"]}
    whole = client.chat.completions.create(**arguments)
    text = whole.choices[0].message.content or ""
    assert whole.choices[0].finish_reason == "length"
    for stop in (text[7:9], [text[7:9]], ["never said: \u2603", text[7:9]]):
        completion = client.chat.completions.create(**arguments, stop=stop)
        expected = text[: text.index(text[7:9])]
        assert (completion.choices[0].message.content or "") == expected.strip() and completion.choices[
            0
        ].finish_reason == "stop"
        chunks = list(client.chat.completions.create(**arguments, stop=stop, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
        assert chunks[-1].choices[0].finish_reason == "stop"
    name = post(server, "sessions").json()["id"]
    body = {"content": "Hello", "max_tokens": 24, "modalities": ["text"], "stop": [text[7:9]]}
    round_ = post(server, f"sessions/{name}/rounds", **body).json()
    assert round_["message"]["content"] == text[: text.index(text[7:9])].strip()


def test_words_of_a_small_nucleus_are_the_likeliest(client: openai.OpenAI):
    arguments: dict[str, Any] = {"model": "debug", "messages": [HELLO], "max_tokens": 9, "modalities": ["text"]}
    likeliest = client.chat.completions.create(**arguments, temperature=0)
    sampled = client.chat.completions.create(**arguments, temperature=2, seed=3)
    nucleus = client.chat.completions.create(**arguments, temperature=2, seed=3, top_p=0)
    assert nucleus.choices[0].message.content == likeliest.choices[0].message.content
    assert sampled.choices[0].message.content != likeliest.choices[0].message.content


def test_items_of_a_response_are_input_again(client: openai.OpenAI):
    arguments: dict[str, Any] = {"model": "debug", "max_output_tokens": 3}
    extra = {"codi2": {"want": ["image", "audio", "video"], "num_inference_steps": 1}}
    first: list[Any] = [{"role": "user", "content": "Make things"}]
    response = client.responses.create(**arguments, input=first, extra_body=extra)
    kinds = ["image_generation_call", "codi2_audio", "codi2_video", "message"]
    assert [item.type for item in response.output] == kinds
    items = [*first, *(item.model_dump() for item in response.output), {"role": "user", "content": "Mirror [image0]"}]
    continued = client.responses.create(**arguments, input=items, extra_body=extra)
    message = (
        client.chat.completions.create(model="debug", messages=first, max_tokens=3, extra_body=extra).choices[0].message
    )
    same = client.chat.completions.create(
        model="debug", messages=[*first, message.model_dump(), items[-1]], max_tokens=3, extra_body=extra
    )
    assert continued.usage is not None and same.usage is not None
    assert continued.usage.input_tokens == same.usage.prompt_tokens, "the items of one reply are one message"
    assert continued.output_text.strip() == same.choices[0].message.content


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

    count = read(assistant(content="I will not."))
    assert count == read(assistant(content=None, refusal="I will not.")) > read(assistant(content=None))


def test_a_reply_is_read_where_litellm_keeps_our_fields(server: Running):
    message = chat(server, HELLO, codi2={"want": ["image"], "num_inference_steps": 1}).json()["choices"][0]["message"]
    ours = {"role": "assistant", "content": message["content"], "codi2": message["codi2"]}
    of_litellm = {
        "role": "assistant",
        "content": message["content"],
        "provider_specific_fields": {"codi2": message["codi2"]},
    }
    counts = {chat(server, HELLO, one, HELLO).json()["usage"]["prompt_tokens"] for one in (message, ours, of_litellm)}
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


TEXT_ONLY: dict[str, Any] = {"model": "debug", "extra_body": {"modalities": ["text"]}}
TALK: list[Any] = [{"role": "developer", "content": "Talk like a pirate."}, {"role": "user", "content": "Hello?"}]


def test_a_response_with_instructions_and_with_a_picture(client: openai.OpenAI, media: Path):
    """The first examples of the client library's own page."""
    few: Any = {**TEXT_ONLY, "max_output_tokens": 3}
    response = client.responses.create(instructions="You talk like a pirate.", input="How do I check types?", **few)
    assert response.instructions == "You talk like a pirate." and [item.type for item in response.output] == ["message"]
    url = f"data:image/png;base64,{base64.b64encode((media / 'goose-google.png').read_bytes()).decode()}"
    content: Any = [{"type": "input_text", "text": "What is in it?"}, {"type": "input_image", "image_url": url}]
    with_picture = client.responses.create(input=[{"role": "user", "content": content}], **few)
    assert with_picture.usage is not None and response.usage is not None
    assert with_picture.usage.input_tokens != response.usage.input_tokens


def test_a_raw_completion_is_the_parsed_one(client: openai.OpenAI):
    arguments: Any = {**TEXT_ONLY, "messages": TALK, "max_completion_tokens": 3}
    raw = client.chat.completions.with_raw_response.create(**arguments)
    completion = client.chat.completions.create(**arguments)
    assert raw.parse().choices[0].message.content == completion.choices[0].message.content


def test_the_helper_of_completions_reads_a_stream_with_a_stop_string(client: openai.OpenAI):
    arguments: Any = {**TEXT_ONLY, "messages": TALK, "max_completion_tokens": 24}
    text = client.chat.completions.create(**arguments).choices[0].message.content or ""
    with client.chat.completions.stream(**arguments, stop=text[7:9]) as stream:
        kinds = [event.type for event in stream]
        assert "content.delta" in kinds and stream.get_final_completion().choices[0].finish_reason == "stop"


def test_a_refused_field_is_the_clients_bad_request_error(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**TEXT_ONLY, messages=TALK, response_format={"type": "json_object"})
    assert refused.value.param == "response_format"


def test_the_asynchronous_client_reads_a_stream(server: Running):
    async def read() -> list[str]:
        client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none")
        async with client, client.responses.stream(input="Hi", **TEXT_ONLY, max_output_tokens=3) as events:  # type: ignore[call-overload]
            return [event.type async for event in events]

    assert asyncio.run(read())[-1] == "response.incomplete"

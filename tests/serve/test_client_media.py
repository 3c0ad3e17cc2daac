"""Media in answers: pictures for clients of OpenAI's API, their sizes and formats, and the recipe in every file."""

from __future__ import annotations

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

from .client_requests import HELLO, bytes_of, chat, post
from .conftest import Running


def test_pictures_where_chat_clients_look_for_them(server: Running, client: openai.OpenAI):
    extra: dict[str, Any] = {"codi2": {"want": ["image", "image", "audio"], "num_inference_steps": 1}}
    arguments: dict[str, Any] = {"model": "debug", "messages": [HELLO], "max_tokens": 2}
    message = client.chat.completions.create(**arguments, extra_body=extra).choices[0].message
    urls = [part["image_url"]["url"] for part in message.codi2["parts"] if part["type"] == "image_url"]  # type: ignore[attr-defined]
    assert [image["image_url"]["url"] for image in message.images] == urls  # type: ignore[attr-defined]
    assert [image["index"] for image in message.images] == [0, 1]  # type: ignore[attr-defined]
    chunks = client.chat.completions.create(**arguments, stream=True, extra_body=extra)
    images = [image for chunk in chunks for image in getattr(chunk.choices[0].delta, "images", None) or []]
    assert [image["index"] for image in images] == [0, 1]
    extra["codi2"]["content"] = "parts"
    content: Any = client.chat.completions.create(**arguments, extra_body=extra).choices[0].message.content
    assert [part["type"] for part in content] == ["image_url", "image_url", "audio", "text"]
    message_of_client = {"role": "assistant", "content": message.content, "images": message.images}  # type: ignore[attr-defined]
    arguments["messages"] = [HELLO, message_of_client, {"role": "user", "content": "Mirror [image1]"}]
    assert client.chat.completions.create(**arguments, extra_body={"modalities": ["text"]}).choices


SIZES = [
    ("128x128", "drawn at 64x64, and resized"),
    ("96x64", "of which the middle was kept"),
    ("64x64", ""),
    ("auto", ""),
]


@pytest.mark.parametrize(("size", "note"), SIZES)
def test_a_size_of_its_own(client: openai.OpenAI, size: str, note: str):
    answer = client.images.generate(
        model="debug", prompt="a goose", size=size, extra_body={"codi2": {"num_inference_steps": 1}}
    )  # type: ignore[call-overload]
    picture = PILImage.open(io.BytesIO(bytes_of(answer.data[0].b64_json)))
    assert f"{picture.width}x{picture.height}" == answer.size == ("64x64" if size == "auto" else size)
    assert note in " ".join(answer.codi2["notes"]) and bool(note) == bool(answer.codi2["notes"])


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_formats_of_pictures(client: openai.OpenAI, media: Path, form: str):
    extra = {"seed": 4, "codi2": {"num_inference_steps": 1}}
    answer = client.images.generate(model="debug", prompt="a goose", output_format=form, extra_body=extra)  # type: ignore[call-overload]
    data = bytes_of(answer.data[0].b64_json)
    assert PILImage.open(io.BytesIO(data)).format == form.upper() and answer.output_format == form
    assert read_recipe(data)["seed"] == 4 and SOURCE_TYPE.encode() in data
    with open(media / "goose-google.png", "rb") as file:
        edited = client.images.edit(model="debug", image=file, prompt="Night", output_format=form)  # type: ignore[call-overload]
    assert PILImage.open(io.BytesIO(bytes_of(edited.data[0].b64_json))).format == form.upper()


def test_pictures_as_a_stream(client: openai.OpenAI, media: Path):
    extra = {"seed": 4, "codi2": {"num_inference_steps": 2}}
    whole = client.images.generate(model="debug", prompt="a goose", n=2, extra_body=extra)
    events = list(client.images.generate(model="debug", prompt="a goose", n=2, stream=True, extra_body=extra))
    completed = [event for event in events if event.type == "image_generation.completed"]
    pictures = [PILImage.open(io.BytesIO(bytes_of(event.b64_json))).tobytes() for event in completed]
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
    files = []
    for part in parts:
        if part["type"] == "audio":
            files.append(bytes_of(part["audio"]["data"]))
        elif part["type"] != "text":
            files.append(bytes_of(part[part["type"]]["url"]))
    return files


def test_every_medium_that_leaves_says_how_it_was_made(server: Running):
    options: dict[str, Any] = {"seed": 6, "codi2": {"want": ["image", "audio", "video"], "num_inference_steps": 1}}
    files: list[bytes] = media_of(chat(server, HELLO, **options).json()["choices"][0]["message"]["codi2"]["parts"])
    for line in chat(server, HELLO, **options, stream=True).text.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                part = choice["delta"].get("codi2", {}).get("part")
                files += media_of([part] if part else [])
    items = post(server, "responses", input="Hi", max_output_tokens=1, **options).json()["output"]
    text = post(server, "responses", input="Hi", max_output_tokens=1, stream=True, **options).text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    items += [event["item"] for event in events if event["type"] == "response.output_item.done"]
    files += [bytes_of(item["result"]) for item in items if item["type"] == "image_generation_call"]
    files += media_of([item["part"] for item in items if "part" in item])
    for form in ("wav", "flac", "ogg", "mp3"):
        files.append(post(server, "audio/generations", input="a", seed=6, response_format=form).content)
    name = post(server, "sessions").json()["id"]
    text = post(server, f"sessions/{name}/rounds", content="Hi", max_tokens=1, stream=True, **options).text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    files += media_of([event["part"] for event in events if event["type"] == "part"])
    post(server, f"sessions/{name}/rounds", content="Mirror [image0]", max_tokens=1, **options)
    for message in httpx.get(f"{server.url}/v1/sessions/{name}", timeout=60).json()["messages"]:
        parts = message["content"] if message["role"] == "user" else message["codi2"]["parts"]
        files += media_of([part for part in parts if part["type"] != "text"])
    for round_ in httpx.get(f"{server.url}/v1/sessions/{name}/rounds").json()["data"]:
        for item in round_["reply"]:
            if "id" in item:
                path = f"{server.url}/v1/sessions/{name}/media/{item['id']}"
                files.append(httpx.get(path, timeout=60).content)
                files.append(httpx.get(f"{path}/thumbnail", timeout=60).content)
    assert len(files) > 30
    for i, data in enumerate(files):
        assert b"seed" in data, (i, len(files))
        assert read_recipe(data)["seed"] == 6, data[:16]
        assert b"trainedAlgorithmicMedia" in data

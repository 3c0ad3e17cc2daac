"""Uploads as bytes, media by ids, and rounds that are replaced."""

from __future__ import annotations

import asyncio
import io
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from PIL import Image as PILImage
from starlette.exceptions import HTTPException

from codi2.cancellation import Cancelled, cancel_when, check_cancelled
from codi2.chat import Round
from codi2.errors import BusyError
from codi2.media import mp4_bytes, read_recipe
from codi2.prompt.parts import Video
from codi2.reply import Options, Reply
from codi2.serve import media_routes, uploads, views
from codi2.serve.application import open_store
from codi2.serve.packing import run_while_connected
from codi2.serve.uploads import NoMedium, Uploads

from .conftest import Running, Start

DRAW: dict[str, Any] = {"codi2": {"want": ["image"], "num_inference_steps": 1}, "max_tokens": 2, "media": "ids"}
TEXT: dict[str, Any] = {"modalities": ["text"], "max_tokens": 2, "media": "ids"}


@pytest.fixture
def http(server: Running) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=60)


def upload(http: httpx.Client, data: bytes, **query: str) -> dict[str, Any]:
    answer = http.post("/v1/media", content=data, params=query, headers={"Content-Type": "application/octet-stream"})
    assert answer.status_code == 200, answer.text
    medium: dict[str, Any] = answer.json()
    return medium


def new(http: httpx.Client) -> str:
    return str(http.post("/v1/sessions", json={}).json()["id"])


def play(http: httpx.Client, session: str, content: Any, number: int | None = None, **body: Any) -> dict[str, Any]:
    path = f"/v1/sessions/{session}/rounds" + ("" if number is None else f"/{number}")
    answer = http.request("POST" if number is None else "PUT", path, json={"content": content, **(body or DRAW)})
    assert answer.status_code == 200, answer.text
    round_: dict[str, Any] = answer.json()["round"]
    return round_


def rounds(http: httpx.Client, session: str) -> list[dict[str, Any]]:
    answer = http.get(f"/v1/sessions/{session}/rounds")
    assert answer.status_code == 200, answer.text
    all_rounds: list[dict[str, Any]] = answer.json()["data"]
    return all_rounds


def picture_of(round_: dict[str, Any]) -> dict[str, Any]:
    """The picture of a reply."""
    return next(part for part in round_["reply"] if part["type"] == "image")


def size(http: httpx.Client, path: str) -> tuple[int, int]:
    answer = http.get(path)
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
    return PILImage.open(io.BytesIO(answer.content)).size


def test_an_upload_becomes_an_item_of_the_conversation(http: httpx.Client, media: Path, tmp_path: Path):
    goose = (media / "goose-google.png").read_bytes()
    medium = upload(http, goose)
    width, height = PILImage.open(io.BytesIO(goose)).size
    assert (medium["type"], medium["width"], medium["height"]) == ("image", width, height)
    session = new(http)
    round_ = play(http, session, [{"type": "text", "text": "Draw this "}, {"type": "media", "id": medium["id"]}])
    assert round_["words"] == "Draw this" and [item["item"] for item in round_["items"]] == ["image0"]
    assert picture_of(round_)["item"] == "image1" and rounds(http, session) == [round_]
    path = f"/v1/sessions/{session}/media/{round_['items'][0]['id']}"
    assert size(http, path) == (width, height) and max(size(http, f"{path}/thumbnail?side=20")) == 20
    answer = http.get(f"/v1/sessions/{session}/media/{picture_of(round_)['id']}")
    assert answer.headers["x-content-type-options"] == "nosniff" and "no-store" in answer.headers["cache-control"]
    (tmp_path / "drawn.png").write_bytes(answer.content)
    assert read_recipe(tmp_path / "drawn.png")["model"] == "debug", "a medium says how it was made"


def test_a_clip_comes_with_its_sound_in_one_file(http: httpx.Client):
    session = new(http)
    body = {**DRAW, "codi2": {"want": ["video", "audio"], "num_inference_steps": 1}}
    round_ = play(http, session, "A rooster that hops", **body)
    clip, sound = [part for part in round_["reply"] if part["type"] != "text"]
    assert clip["sound"] == sound["id"]
    path = f"/v1/sessions/{session}/media/"
    kinds = [http.get(path + medium).headers["content-type"] for medium in (clip["id"], sound["id"])]
    assert kinds == ["video/mp4", "audio/flac"]
    import av

    whole = http.get(f"{path}{clip['id']}", params={"sound": sound["id"]})
    with av.open(io.BytesIO(whole.content)) as file:
        assert [stream.type for stream in file.streams] == ["video", "audio"]
    assert size(http, f"{path}{sound['id']}/thumbnail")[0] > 0


def test_words_stay_as_they_were_written_and_items_keep_their_numbers(http: httpx.Client):
    session = new(http)
    pictures = [upload(http, colour(name)) for name in ("red", "blue")]
    content = [{"type": "text", "text": "Make [image1] look like [image0]"}]
    content += [{"type": "media", "id": uploaded["id"]} for uploaded in pictures]
    first_round = play(http, session, content)
    assert first_round["words"] == "Make [image1] look like [image0]"
    assert [item["item"] for item in first_round["items"]] == ["image0", "image1"]
    data = http.get(f"/v1/sessions/{session}/media/{first_round['items'][0]['id']}").content
    assert PILImage.open(io.BytesIO(data)).getpixel((0, 0)) == (255, 0, 0), "image0 is the one that came first"
    second = play(http, session, "Now make it  night.")
    assert second["words"] == "Now make it  night." and second["items"] == [], (
        "what it refers to is not written into it"
    )
    whole = http.get(f"/v1/sessions/{session}").json()["messages"][2]["content"]
    assert "image_url" in [part["type"] for part in whole], "the model reads the picture that `it` means"


def test_the_same_picture_twice_is_two_items_also_after_a_restart(start: Start, tmp_path: Path):
    server = start("--no-page", folder=tmp_path / "twice")
    with httpx.Client(base_url=server.url, timeout=60) as http:
        session = new(http)
        play(http, session, "Draw a mango", seed=1, **DRAW)
        play(http, session, "Draw a mango", seed=1, **DRAW)
        before = rounds(http, session)
    server.stop()
    server = start("--no-page", folder=tmp_path / "twice")
    with httpx.Client(base_url=server.url, timeout=60) as http:
        assert rounds(http, session) == before
        round_ = play(http, session, "Mirror [image1]")
        assert round_["items"] == [] and picture_of(round_)["item"] == "image2"
    server.stop()


def test_a_round_is_replaced_when_its_reply_is_there(http: httpx.Client):
    session = new(http)
    for words in ("one", "two", "three"):
        play(http, session, words, **TEXT)
    bad = http.put(f"/v1/sessions/{session}/rounds/1", json={"content": "Mirror [image7]", **TEXT})
    assert bad.status_code == 400 and [r["words"] for r in rounds(http, session)] == ["one", "two", "three"]
    with http.stream("PUT", f"/v1/sessions/{session}/rounds/1", json={"content": "gone", "stream": True, **TEXT,
                     "max_tokens": 1500}) as answer:  # fmt: skip
        next(answer.iter_lines())
    deadline = time.monotonic() + 20
    while True:
        answer = http.put(f"/v1/sessions/{session}/rounds/1", json={"content": "2", **TEXT})
        if answer.status_code != 429 or time.monotonic() > deadline:
            break
        assert [r["words"] for r in rounds(http, session)] == ["one", "two", "three"], "the old ones stay meanwhile"
        time.sleep(0.1)
    assert answer.status_code == 200 and answer.json()["round"]["number"] == 1
    assert [r["words"] for r in rounds(http, session)] == ["one", "2"]
    play(http, session, "3", **TEXT)
    assert [r["words"] for r in rounds(http, session)] == ["one", "2", "3"]
    assert http.put(f"/v1/sessions/{session}/rounds/9", json={"content": "2", **TEXT}).status_code == 400
    answer = http.put(f"/v1/sessions/{session}/rounds/1", json={"content": "2", "rounds": 2, **TEXT})
    assert answer.status_code == 409 and "has 3 rounds and not 2" in answer.json()["error"]["message"]
    answer = http.post(f"/v1/sessions/{session}/rounds", json={"content": "4", "rounds": 2, **TEXT})
    assert answer.status_code == 409
    assert [r["words"] for r in rounds(http, session)] == ["one", "2", "3"], (
        "a client that does not know all drops none"
    )


def test_media_of_a_replaced_round_are_gone_and_its_items_can_be_used_again(http: httpx.Client):
    session = new(http)
    red = upload(http, colour("red"))
    replaced = play(http, session, [{"type": "text", "text": "Draw [image0]"}, {"type": "media", "id": red["id"]}])
    path = f"/v1/sessions/{session}/media/"
    content = [{"type": "text", "text": "Mirror [image0]"}, {"type": "media", "id": replaced["items"][0]["id"]}]
    again = play(http, session, content, 0, **DRAW, seed=5)
    assert again["items"] == replaced["items"] and again["words"] == "Mirror [image0]"
    assert http.get(path + picture_of(replaced)["id"]).status_code == 404
    assert http.get(path + picture_of(again)["id"]).status_code == 200


def test_an_edit_is_what_a_conversation_that_began_so_would_have(http: httpx.Client):
    edited, plain = new(http), new(http)
    for session, words in ((edited, "Draw a mango"), (plain, "Draw a goose")):
        play(http, session, "Hello", **TEXT)
        play(http, session, words)
    again = play(http, edited, "Draw a goose", 1, **DRAW)
    assert again["reply"] == rounds(http, plain)[1]["reply"], "ids are hashes of the content"


@pytest.mark.parametrize("name", ["/etc/passwd", "../codi2.db", "codi2.db", "..%2f..%2fcodi2.db", "%00", "a" * 5000])
def test_no_path_is_an_id(http: httpx.Client, name: str):
    session = new(http)
    play(http, session, "Draw")
    for path in (f"/v1/sessions/{session}/media/{name}", f"/v1/sessions/{session}/media/{name}/thumbnail"):
        assert http.get(path).status_code in (404, 405, 414), path
    assert http.delete(f"/v1/media/{name}").status_code in (400, 404, 405, 414)
    for named in (name, "/proc/self/environ", "file:///etc/passwd", "\ud800", "é"):
        body = json.dumps({"content": [{"type": "media", "id": named}], **TEXT})
        headers = {"Content-Type": "application/json"}
        answer = http.post(f"/v1/sessions/{session}/rounds", content=body, headers=headers)
        assert answer.status_code in (400, 404), named
        assert named == "\ud800" or "there is no medium" in answer.json()["error"]["message"]


def test_what_is_no_medium_is_refused(http: httpx.Client):
    answer = http.post("/v1/media", content=b"<html><script>1</script>")
    assert answer.status_code == 400 and "upload" in answer.json()["error"]["message"]
    assert http.post("/v1/media", content=b"").status_code == 400
    assert http.post("/v1/media", content=b"x" * (17 << 20)).status_code == 413


def test_uploads_and_media_are_their_owners(start: Start, tmp_path: Path):
    store = open_store(tmp_path / "keys")
    secrets = [store.make_key(label) for label in ("ann", "eve")]
    store.close()
    server = start("--no-page", folder=tmp_path / "keys")
    ann, eve = (
        httpx.Client(base_url=server.url, timeout=60, headers={"Authorization": f"Bearer {one}"}) for one in secrets
    )
    assert httpx.post(f"{server.url}/v1/media", content=colour("red")).status_code == 401
    uploaded, session = upload(ann, colour("red")), new(ann)
    round_ = play(ann, session, [{"type": "media", "id": uploaded["id"]}])
    medium = round_["items"][0]["id"]
    other_session = new(eve)
    play(eve, other_session, "Hello", **TEXT)
    assert eve.get(f"/v1/sessions/{session}/media/{medium}").status_code == 404
    assert eve.get(f"/v1/sessions/{other_session}/media/{medium}").status_code == 404
    assert eve.delete(f"/v1/media/{uploaded['id']}").status_code == 404
    uploaded = upload(ann, colour("blue"))
    for one in (uploaded["id"], medium):
        body = {"content": [{"type": "media", "id": one}], **TEXT}
        assert eve.post(f"/v1/sessions/{other_session}/rounds", json=body).status_code == 404
    assert ann.delete(f"/v1/media/{uploaded['id']}").json()["deleted"], "it was in no round"
    assert ann.delete(f"/v1/media/{uploaded['id']}").status_code == 404
    server.stop()


def test_an_upload_ends_with_the_round_that_it_came_with(start: Start, tmp_path: Path):
    server = start("--no-page", folder=tmp_path / "once")
    http = httpx.Client(base_url=server.url, timeout=60)
    session, uploaded = new(http), upload(http, colour("red"))
    content = [{"type": "text", "text": "Look"}, {"type": "media", "id": uploaded["id"]}]
    files = lambda: [path for path in (tmp_path / "once").rglob("*") if path.parent.parent.name == "uploads"]  # noqa: E731
    refused = http.post(f"/v1/sessions/{session}/rounds", json={"content": [*content, {"type": "text"}], **TEXT})
    assert refused.status_code == 400 and len(files()) == 1, "it can be sent again with a message that is right"
    round_ = play(http, session, content, **TEXT)
    assert files() == [] and http.post(f"/v1/sessions/{session}/rounds", json={"content": content}).status_code == 404
    assert http.get(f"/v1/sessions/{session}/media/{round_['items'][0]['id']}").status_code == 200
    http.delete(f"/v1/sessions/{session}")
    assert not [path for path in (tmp_path / "once").rglob("*") if path.parent.parent.name in ("uploads", "media")]
    server.stop()


def test_a_client_that_leaves_frees_the_thread_that_worked_for_it():
    begun, all_left, stopped = [], threading.Event(), threading.Event()

    class Leaving:
        """A request whose client leaves as soon as work for any client has begun."""

        async def body(self) -> bytes:
            return b""

        async def is_disconnected(self) -> bool:
            return bool(begun)

    def work(number: int) -> None:
        begun.append(number)
        all_left.wait(60)
        try:
            for _ in range(2000):
                check_cancelled()
                time.sleep(0.01)
        except Cancelled:
            stopped.set()
            raise

    async def run() -> None:
        with ThreadPoolExecutor(1) as thread:
            calls = [run_while_connected(cast(Any, Leaving()), lambda i=i: work(i), thread) for i in range(20)]  # type: ignore[misc]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            all_left.set()
            assert all(isinstance(one, HTTPException) and one.status_code == 499 for one in answers)
            assert await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(thread, lambda: "next"), 10)

    asyncio.run(run())
    assert stopped.is_set() and len(begun) == 1, "what had not begun was not done"


def test_encoding_a_clip_stops_when_nobody_wants_it():
    frames = tuple(PILImage.new("RGB", (16, 16), (i, 0, 0)) for i in range(9))
    left = iter([False, False, True])
    with pytest.raises(Cancelled), cancel_when(lambda: next(left)):
        mp4_bytes(Video(frames, 8), {})


def test_a_thumbnail_of_a_clip_reads_its_first_frame_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = open_store(tmp_path)
    session = store.create("").id
    frames = tuple(PILImage.new("RGB", (16, 16), (20 * i, 0, 0)) for i in range(9))
    clip = Video(frames, 8, "clip")
    store.keep("", session, 0, Round((clip,), Reply((), {}, ()), Options(), new_media=(clip,)))
    medium = views.rounds(store.rounds("", session))[0]["items"][0]["id"]
    read: list[str] = []
    get = store.get
    monkeypatch.setattr(store, "get", lambda name: read.append(name) or get(name))
    part, _ = media_routes._load(store, "", session, medium, still=True)
    assert isinstance(part, Video) and len(part.frames) == len(read) == 1 and views.is_clip(medium)
    store.close()


def test_uploads_are_bounded_and_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stored = Uploads(tmp_path / "uploads")
    monkeypatch.setattr(uploads, "MOST_FILES", 2)
    first = stored.put("ann", colour("red"))
    assert stored.get("ann", first) == ("file", colour("red"))
    stored.put("ann", colour("blue"))
    stored.put("bob", colour("blue"))
    with pytest.raises(BusyError, match="you have 2 uploads"):
        stored.put("ann", colour("green"))
    old = time.time() - uploads.LIFETIME - 1
    for file in stored.folder.glob("*/*"):
        os.utime(file, (old, old))
    stored.sweep()
    assert not list(stored.folder.glob("*/*"))
    with pytest.raises(NoMedium, match="send it again"):
        stored.get("ann", first)


def colour(name: str) -> bytes:
    file = io.BytesIO()
    PILImage.new("RGB", (24, 16), name).save(file, "PNG")
    return file.getvalue()

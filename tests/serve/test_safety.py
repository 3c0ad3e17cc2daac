"""The filter of pictures, and the marks in what is made."""

from __future__ import annotations

import base64
import io
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image as PILImage

from codi2.chat import Chat
from codi2.media import read_recipe
from codi2.model import CoDi2
from codi2.prompt.parts import Image, Part, Text
from codi2.serve.api import create_app
from codi2.serve.engine import Engine
from codi2.serve.safety import ImageFilter
from codi2.serve.store import Store

from .conftest import Running


def test_what_the_classifier_passes_stays_and_what_it_does_not_is_grey(media: Path, monkeypatch: pytest.MonkeyPatch):
    check = ImageFilter()
    goose = Image(PILImage.open(media / "goose-google.png").convert("RGB"))
    shown, notes = check([Text("a goose"), goose])
    assert shown[1] is goose and notes == ()
    monkeypatch.setattr(check._classifier, "classify", lambda pixels: SimpleNamespace(is_nsfw=True))
    shown, notes = check([Text("a goose"), goose])
    assert isinstance(shown[1], Image) and shown[1].pixels.getcolors() == [
        (goose.pixels.width * goose.pixels.height, (128, 128, 128))
    ]
    assert notes == ("The filter of pictures has withheld 1 of the reply's pictures.",)


def test_a_conversation_keeps_what_was_shown():
    def check(parts: Sequence[Part]) -> tuple[list[Part], tuple[str, ...]]:
        return [Text("withheld") if isinstance(part, Image) else part for part in parts], ("withheld",)

    chat = Chat(CoDi2.from_pretrained("debug"))
    reply = chat.play("Draw", (), {"want": "image", "max_new_tokens": 2}, lambda event: False, check)
    assert reply.images == [] and reply.notes == ("withheld",) and chat.media == {}
    assert chat.send("And again", want="text", max_new_tokens=2).parts is not None


def test_media_say_how_they_were_made(server: Running, tmp_path: Path):
    made = httpx.post(f"{server.url}/v1/images/generations", json={"prompt": "a goose", "seed": 5}, timeout=60).json()
    (tmp_path / "a.png").write_bytes(base64.b64decode(made["data"][0]["b64_json"]))
    assert read_recipe(tmp_path / "a.png")["seed"] == 5
    sound = httpx.post(f"{server.url}/v1/audio/generations", json={"input": "a bell", "seed": 6}, timeout=60)
    (tmp_path / "a.wav").write_bytes(sound.content)
    assert read_recipe(tmp_path / "a.wav")["model"] == "debug"


@pytest.mark.parametrize("marks", [True, False])
def test_exports_heed_the_choice_of_marks(marks: bool, tmp_path: Path):
    engine, store = Engine(CoDi2.from_pretrained("debug")), Store(tmp_path / "store")
    try:
        http = TestClient(create_app(engine, store, "debug", marks=marks), base_url="http://127.0.0.1:8000")
        name = http.post("/v1/sessions", json={}).json()["id"]
        codi2 = {"want": ["image", "audio", "video"], "num_inference_steps": 1}
        body = {"content": "Make", "max_tokens": 1, "seed": 6, "codi2": codi2}
        assert http.post(f"/v1/sessions/{name}/rounds", json=body).status_code == 200
        body["content"] = "Mirror [image0]"
        assert http.post(f"/v1/sessions/{name}/rounds", json=body).status_code == 200
        with zipfile.ZipFile(io.BytesIO(http.get(f"/v1/sessions/{name}/export").content)) as archive:
            files = {file: archive.read(file) for file in archive.namelist()}
    finally:
        engine.close(5)
        store.close()
    media = [data for file, data in files.items() if "/media/" in file]
    (page,) = [data.decode() for file, data in files.items() if file.endswith("index.html")]
    media += [base64.b64decode(data) for data in re.findall(r"<img[^>]+alt=\"picture[^>]+base64,([^\"]+)", page)]
    assert len(media) > 5
    for data in media:
        assert (b"trainedAlgorithmicMedia" in data) == marks
    assert all(read_recipe(data)["seed"] == 6 for data in media if marks)

"""Hostile requests: whatever comes, a 2xx or a 4xx with one sentence, and the server's memory comes back."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from .conftest import Running, Start

CASES = int(os.environ.get("CODI2_FUZZ_CASES", "20"))  # of each route; 1000 for a long run
quick = settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=CASES == 20,
    database=None,
    phases=[Phase.generate],
)


@pytest.fixture(scope="module")
def server(start: Start) -> Running:
    return start("--no-page", "--timeout", "20")


def rss(server: Running) -> float:
    """MB."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError


def checked(response: Any) -> int:
    """The status of an answer, which is no fault of the server and, above 400, has the documented form."""
    assert response.status_code < 500, (response.request.method, response.request.url, response.text[:300])
    if response.status_code >= 400:
        assert set(response.json()) == {"error"} and "\n" not in response.json()["error"]["message"], response.text
    return int(response.status_code)


@pytest.mark.slow
def test_the_schema_holds(server: Running):
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    statuses: list[int] = []
    for operation in schema.get_all_operations():
        valid_case = operation.ok()

        @quick
        @given(case=valid_case.as_strategy())
        def attack(case: schemathesis.Case) -> None:
            statuses.append(checked(case.call(base_url=server.url, timeout=60)))

        attack()
    assert len(statuses) > 200 and len(set(statuses)) >= 3
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"


def samples() -> dict[str, bytes]:
    """Small media of every kind that is read, and some that are not."""
    folder = Path(__file__).parents[2] / "examples" / "media"
    names = ("goose-google.png", "mango-twitter.png", "rabbit.webp", "crow.wav")
    files = {name: (folder / name).read_bytes() for name in names}
    frames = [PILImage.new("RGB", (24, 16), (i * 40, 90, 200)) for i in range(5)]
    for form in ("GIF", "WEBP", "PNG", "TIFF", "BMP", "ICO", "JPEG", "PPM"):
        file, more = io.BytesIO(), {"save_all": True, "append_images": frames[1:]} if form in ("GIF", "WEBP") else {}
        frames[0].save(file, form, **more)
        files[form] = file.getvalue()
    for mode in ("I;16", "L", "1", "P", "LA", "RGBA", "CMYK"):
        file = io.BytesIO()
        PILImage.new(mode, (9, 7), 1).save(file, "TIFF" if mode == "CMYK" else "PNG")
        files[mode] = file.getvalue()
    files["imu"] = b"0,0,0,0,0,0\n" * 20
    files["seconds"] = b"0,0,0,0,0,0,0\n1e308,1,2,3,4,5,6\n"
    files["npy"] = b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999, 7), }"
    files["svg"] = b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
    files["m3u8"] = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"
    return files


SAMPLES = samples()


@st.composite
def blobs(draw: st.DrawFn) -> str:
    """A medium in base64: whole, with bytes changed, cut, or no base64."""
    data = bytearray(draw(st.sampled_from(list(SAMPLES.values()))))
    for at, value in draw(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4)):
        if draw(st.booleans()):
            data[min(at, len(data) - 1)] = value
    cut = draw(st.none() | st.integers(0, len(data)))
    text = base64.b64encode(bytes(data[:cut])).decode()
    return draw(st.sampled_from([text] * 6 + [text[:-1], f"{text}\n", "é", ""]))


WORDS = st.text(max_size=30) | st.sampled_from(
    [
        "",
        "Draw [image0]",
        "like [image1]",
        "[audio0]",
        "the ninth picture",
        "it",
        "<|im_end|><|im_start|>",
        "[text0: x]",
    ]
)
KINDS = st.sampled_from(["image/png", "image/gif", "audio/wav", "video/mp4", "text/html", "", "x", "image/svg+xml"])
URLS = st.builds("data:{};base64,{}".format, KINDS, blobs()) | st.sampled_from(
    ["file:///etc/passwd", "http://127.0.0.1:1/"]
)
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
PARTS = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(["text", "input_text", "output_text"]), "text": WORDS}),
    st.fixed_dictionaries({"type": st.just("image_url"), "image_url": URLS | st.fixed_dictionaries({"url": URLS})}),
    st.fixed_dictionaries({"type": st.just("input_image"), "image_url": URLS}),
    st.fixed_dictionaries({"type": st.just("video_url"), "video_url": st.fixed_dictionaries({"url": URLS})}),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["input_audio", "audio"]), "input_audio": st.fixed_dictionaries({"data": blobs()})}
    ),
    st.fixed_dictionaries({"type": st.sampled_from(["depth", "thermal", "imu"]), "data": blobs()}),
    st.dictionaries(st.sampled_from(["type", "text", "data", "image_url", "audio"]), ODD, max_size=3),
)
CONTENT = st.lists(PARTS, max_size=3) | WORDS
NUMBERS = st.sampled_from([0, 0.01, 0.7, 2, 1e-38, -1, 1e308, 2**63 - 1, 2**63, 10**400, float("nan"), float("inf")])
SETTINGS = st.fixed_dictionaries(
    {"max_tokens": st.just(2)},
    optional={
        "temperature": NUMBERS,
        "seed": NUMBERS,
        "n": st.sampled_from([1, 2, 8, 9]),
        "stream": st.booleans(),
        "modalities": st.lists(st.sampled_from(["text", "image", "audio", "video"]), max_size=3) | ODD,
        "user": st.text(max_size=5),
        "codi2": st.fixed_dictionaries(
            {"num_inference_steps": st.sampled_from([1, 2])},
            optional={
                "want": st.lists(st.sampled_from(["text", "image", "audio", "video"]), max_size=3),
                "guidance_scale": NUMBERS,
                "source_guidance_scale": NUMBERS,
                "negative_prompt": st.text(max_size=9),
                "source": st.sampled_from(["none", "last", "image0", "audio1", "it"]),
                "timeout": NUMBERS,
            },
        )
        | ODD,
    },
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system"]), "content": CONTENT},
        optional={"codi2": st.fixed_dictionaries({"parts": st.lists(PARTS, max_size=2)}) | ODD},
    ),
    max_size=2,
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    body = draw(SETTINGS)
    last = [{"role": "user", "content": draw(CONTENT)}]
    match draw(st.sampled_from(["chat/completions", "responses", "rounds", "images/generations", "audio/generations"])):
        case "chat/completions":
            return "chat/completions", body | {"messages": [*draw(MESSAGES), *last]}
        case "responses":
            items = st.lists(
                st.fixed_dictionaries({"type": st.just("image_generation_call"), "result": blobs()}), max_size=1
            )
            return "responses", body | {"input": [*draw(MESSAGES), *draw(items), *last], "max_output_tokens": 2}
        case "rounds":
            return "rounds", body | {"content": draw(CONTENT)}
        case "images/generations":
            return "images/generations", body | {"prompt": draw(WORDS)}
        case path:
            return path, body | {"input": draw(WORDS)}


@pytest.mark.slow
def test_real_media_in_odd_requests(server: Running):
    """The schema's generator knows no media: real ones, whole and broken, under true and false names, in all routes."""
    http = httpx.Client(base_url=server.url, timeout=60)
    statuses: list[int] = []

    @settings(quick, max_examples=CASES * 20)
    @given(request=requests())
    def attack(request: tuple[str, dict[str, Any]]) -> None:
        path, body = request
        name = http.post("/v1/sessions", json={}).json()["id"] if path == "rounds" else ""
        headers = {"content-type": "application/json"}
        path = f"/v1/sessions/{name}/rounds" if name else f"/v1/{path}"
        statuses.append(checked(http.post(path, content=json.dumps(body), headers=headers)))
        if name:
            checked(http.get(f"/v1/sessions/{name}"))
            checked(http.delete(f"/v1/sessions/{name}"))

    attack()

    @settings(quick, max_examples=CASES * 2)
    @given(blob=blobs(), words=WORDS, name=st.text(max_size=9), count=st.sampled_from([1, 2]))
    def edit(blob: str, words: str, name: str, count: int) -> None:
        try:
            data = base64.b64decode(blob)
        except ValueError:
            data = blob.encode()
        files = [("image", (name, data, "image/png"))] * count
        statuses.append(checked(http.post("/v1/images/edits", data={"prompt": words, "n": "1"}, files=files)))

    edit()
    assert statuses.count(200) > len(statuses) // 20 and statuses.count(400) > len(statuses) // 20
    assert "Traceback" not in server.log.read_text()


@pytest.mark.slow
def test_a_thousand_broken_media(server: Running, media: Path):
    """Flipped, cut, doubled and exchanged bytes of real files, under true and false names."""
    draw = random.Random(0)
    files = [(media / name).read_bytes() for name in ("goose-google.png", "crow.wav", "piano.wav", "mango-twitter.png")]
    http = httpx.Client(base_url=server.url, timeout=60)

    def mutated() -> bytes:
        data = bytearray(draw.choice(files))
        match draw.randrange(5):
            case 0:
                del data[draw.randrange(len(data)) :]
            case 1:
                for _ in range(draw.randrange(1, 60)):
                    data[draw.randrange(len(data))] = draw.randrange(256)
            case 2:
                data[: draw.randrange(1, 64)] = draw.randbytes(draw.randrange(64))
            case 3:
                at = draw.randrange(len(data))
                data[at:at] = data[draw.randrange(len(data)) :][:5000]
            case _:
                data = bytearray(draw.randbytes(draw.randrange(2000)))
        return bytes(data)

    def post(i: int) -> int:
        text = base64.b64encode(mutated()).decode()
        kind = draw.choice(["image/png", "image/gif", "audio/wav", "video/mp4", "text/html", ""])
        part: dict[str, object] = {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{text}"}}
        if draw.random() < 0.4:
            part = {"type": "input_audio", "input_audio": {"data": text, "format": "wav"}}
        body = {"messages": [{"role": "user", "content": [part]}], "max_tokens": 1, "modalities": ["text"]}
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.status_code in (200, 400), answer.text[:300]
        return answer.status_code

    [post(i) for i in range(150)]  # what libraries load and keep
    before = rss(server)
    statuses = [post(i) for i in range(1000)]
    deadline = time.monotonic() + 20
    while rss(server) > before * 1.05 and time.monotonic() < deadline:
        time.sleep(1)
    assert rss(server) <= before * 1.05, (before, rss(server))
    assert statuses.count(400) > 500
    assert "Traceback" not in server.log.read_text()

"""Clients' media are decoded in processes of their own: what one of them costs, no other request pays."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image as PILImage

from codi2 import media
from codi2.errors import BusyError, LateError, LimitError, MediaError
from codi2.prompt.parts import IMU, Audio, Depth, Image, Video
from codi2.senses import load_as
from codi2.serve.decoder_process import STILL
from codi2.serve.decoding import Decoders, File

from .. import bombs
from .conftest import Running, Start

DOT = bombs.png(4, 4)
SLOW = bombs.gif(3000, 3000, 28)  # 250 million pixels: some seconds


def playing(work: Callable[[Decoders], Coroutine[Any, Any, Any]], **limits: Any) -> Any:
    """Runs `work` with a pool of its own."""

    async def run() -> Any:
        decoders = Decoders(**{"processes": 1, **limits})
        try:
            return await work(decoders)
        finally:
            decoders.close()

    return asyncio.run(run())


def file(data: bytes, kind: str = STILL) -> File:
    return File(data, kind, "part 0")


def png(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    PILImage.fromarray(values).save(out, "PNG")
    return out.getvalue()


def running(group: int) -> list[str]:
    """The processes of a group that run."""
    fields = [path.read_text().rpartition(") ")[2].split() for path in Path("/proc").glob("[0-9]*/stat")]
    return [state for state, _, of, *_ in fields if int(of) == group and state != "Z"]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def test_media_are_those_that_the_readers_give():
    draw = np.random.default_rng(0)
    files = [
        file(png(draw.integers(0, 255, (700, 1900, 3)).astype(np.uint8))),  # of more than one band
        file(bombs.flac(2, 8000, 2), ""),
        file(bombs.clip(64, 48, 5), ""),
        file(png(draw.integers(0, 60_000, (40, 30)).astype(np.uint16)), "depth"),
        file(b"\n".join(b"1,2,3,4,5,%d" % i for i in range(9)), "imu"),
    ]
    image, sound, clip, depth, moved = playing(lambda pool: pool.load(files))
    assert isinstance(image, Image) and image.pixels.tobytes() == media.load_image(files[0].data).pixels.tobytes()
    assert isinstance(sound, Audio) and sound.rate == 8000 and sound.samples.flags.writeable
    assert np.array_equal(sound.samples, media.load_audio(files[1].data).samples)
    same = media.load(files[2].data)
    assert isinstance(clip, Video) and isinstance(same, Video) and clip.fps == same.fps
    assert [frame.tobytes() for frame in clip.frames] == [frame.tobytes() for frame in same.frames]
    assert isinstance(depth, Depth) and np.array_equal(depth.metres, load_as("depth", files[3].data).metres)  # type: ignore[union-attr]
    assert isinstance(moved, IMU) and moved.rate == 200 and moved.readings.shape == (6, 9)


def test_the_process_imports_no_torch():
    code = "import sys, codi2.serve.decoder_process; print('torch' in sys.modules, 'fastapi' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert out.stdout.split() == ["False", "False"], out.stderr


def test_broken_media_are_named_and_the_process_goes_on():
    async def work(pool: Decoders) -> None:
        with pytest.raises(MediaError, match="part 0 cannot be read: the upload is a text file"):
            await pool.load([file(b"hello")])
        pids = pool.pids
        assert await pool.load([file(DOT)]) and pool.pids == pids

    playing(work)


def test_all_media_of_a_request_have_one_budget():
    async def work(pool: Decoders) -> None:
        large = bombs.png(600, 600)  # 1.1 MB
        assert len(await pool.load([file(large)] * 3)) == 3
        with pytest.raises(LimitError, match="more than 4 MB when they are decoded"):
            await pool.load([file(large)] * 4)

    playing(work, budget=4 << 20)


def test_memory_and_time_are_limited_and_others_are_served():
    async def work(pool: Decoders) -> None:
        with pytest.raises(LimitError, match="need more than 400 MB"):
            await pool.load([file(bombs.png(8000, 7000, color=6))])
        assert await pool.load([file(DOT)])
        with pytest.raises(LimitError, match="more than 1 s"):
            await pool.load([file(SLOW, "")])
        assert await pool.load([file(DOT)]), "another process has taken its place"

    playing(work, memory=400 << 20, seconds=1)


def test_a_client_that_leaves_frees_its_process():
    async def work(pool: Decoders) -> None:
        assert await pool.load([file(DOT)])
        (pid,) = pool.pids
        await until(lambda: len(running(pid)) == 1)  # the child of this request has ended
        task = asyncio.ensure_future(pool.load([file(SLOW, "")] * 4))
        await until(lambda: len(running(pid)) > 1)  # a child decodes
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not running(pid))  # with its child
        assert await asyncio.wait_for(pool.load([file(DOT)]), 20)

    playing(work)


def test_a_deadline_of_the_request_ends_decoding_and_waiting():
    async def work(pool: Decoders) -> None:
        now = asyncio.get_running_loop().time
        running_task = asyncio.ensure_future(pool.load([file(SLOW, "")] * 4))
        await asyncio.sleep(0.1)
        with pytest.raises(LateError):
            await pool.load([file(DOT)], deadline=now() + 0.3)
        running_task.cancel()
        with pytest.raises(LateError):
            await pool.load([file(SLOW, "")] * 4, deadline=now() + 1.5)
        assert await pool.load([file(DOT)], deadline=now() + 30)

    playing(work)


def test_who_sends_much_waits_behind_who_sends_little_and_the_queue_is_bounded():
    order: list[str] = []

    async def work(pool: Decoders) -> None:
        async def ask(name: str, client: str) -> None:
            await pool.load([file(DOT)], client)
            order.append(name)

        first = asyncio.ensure_future(pool.load([file(SLOW, "")] * 4, "much"))
        await asyncio.sleep(0)
        tasks = [asyncio.ensure_future(ask(f"much {i}", "much")) for i in range(4)]
        await asyncio.sleep(0)
        tasks.append(asyncio.ensure_future(ask("little", "little")))
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="5 requests wait already"):
            await pool.load([file(DOT)], "late")
        cancelled = tasks.pop(1)
        cancelled.cancel()
        first.cancel()
        await asyncio.gather(*tasks)

    playing(work, waiting=5)
    assert order.index("little") <= 1 and len(order) == 4, order


def test_a_process_that_is_killed_is_replaced():
    async def work(pool: Decoders) -> None:
        assert await pool.load([file(DOT)])
        os.killpg(pool.pids[0], 9)
        await until(lambda: not pool.pids)
        assert await pool.load([file(DOT)])

    playing(work)


def part(data: bytes, kind: str = "image/gif", field: str = "image_url") -> dict[str, Any]:
    return {"type": field, field: {"url": f"data:{kind};base64,{base64.b64encode(data).decode()}"}}


def body(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}], "max_tokens": 1, "modalities": ["text"]}


def test_over_http(server: Running):
    post = f"{server.url}/v1/chat/completions"
    good = httpx.post(post, json=body(part(DOT, "image/png"), part(SLOW)), timeout=60)
    assert good.status_code == 200, "a still is the first frame"
    bad = httpx.post(post, json=body(part(bombs.gif(7900, 7900, 6), field="video_url")), timeout=60)
    assert bad.status_code == 400 and "million pixels in all" in bad.json()["error"]["message"]
    name = httpx.post(f"{server.url}/v1/sessions", json={}).json()["id"]
    content = [{"type": "text", "text": "x"}, part(b"no picture", "image/png")]
    bad = httpx.post(f"{server.url}/v1/sessions/{name}/rounds", json={"content": content}, timeout=60)
    assert bad.status_code == 400 and "part 1 of the content cannot be read" in bad.json()["error"]["message"]
    lying = part(bombs.clip(32, 32, 3), "image/png")
    bad = httpx.post(post, json=body(lying), timeout=60)
    assert "says that it is image, but its bytes are video" in bad.json()["error"]["message"]
    files = {"image": ("a.png", b"no picture")}
    bad = httpx.post(f"{server.url}/v1/images/edits", files=files, data={"prompt": "x"}, timeout=60)
    assert bad.status_code == 400 and "image 0 cannot be read" in bad.json()["error"]["message"]


@pytest.mark.slow
def test_large_media_delay_nobody_and_are_gone_when_their_client_is(start: Start, tmp_path: Path):
    server = start("--no-page", "--timeout", "60", folder=tmp_path / "bombed")
    post = f"{server.url}/v1/chat/completions"
    hello = body({"type": "text", "text": "Hi"})
    assert httpx.post(post, json=hello, timeout=60).status_code == 200
    heavy = json.dumps(body(*[part(bombs.clip(1920, 1080, 250), "video/mp4", "video_url")] * 2))
    left: list[str] = []

    def leave() -> None:
        try:
            httpx.post(post, content=heavy, headers={"content-type": "application/json"}, timeout=3)
        except httpx.TimeoutException:
            left.append("left")

    clients = [threading.Thread(target=leave) for _ in range(6)]
    for client in clients:
        client.start()
    time.sleep(0.5)
    longest = 0.0
    while any(client.is_alive() for client in clients):
        began = time.monotonic()
        assert httpx.post(post, json=hello, timeout=60).status_code == 200
        longest = max(longest, time.monotonic() - began)
    assert left and longest < 5, f"a text request took {longest:.1f} s beside them"
    assert httpx.post(post, json=body(part(DOT, "image/png")), timeout=30).status_code == 200, (
        "processes are free again"
    )
    whole = part(bombs.png(8000, 8000), "image/png")
    much = httpx.post(post, json=body(whole, whole, whole), timeout=120)
    assert much.status_code == 413 and much.json()["error"]["code"] == "too_large", much.text
    assert httpx.post(post, json=body(whole), timeout=120).status_code == 200

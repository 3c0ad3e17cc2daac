"""A real server under load, over loopback: 64 clients for three minutes, then batches against one at a time.

No reply may be lost, sent to another client or sent twice: clients send different requests for text, pictures and
sounds, and equal requests of all clients must get equal answers. A full queue must answer 429, and `/health` must
answer within 100 ms all the time.

    python benchmarks/serve.py [--model tiny] [--clients 64] [--seconds 180]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import httpx
import numpy as np
import soundfile
from PIL import Image

THINGS = ("a strawberry", "a goose", "a drum", "a bell", "a car", "a cat")
KINDS = ("text", "image", "audio")
AT_ONCE, EQUAL = 8, 24


def start(model: str, folder: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "codi2", "serve", "--model", model, "--port", "0", "--no-page", "--data", folder]
    process = subprocess.Popen([*command, "--max-waiting", "32"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if match := re.search(r"Serving at (\S+)", line):
            return process, match[1]
    raise SystemExit("the server did not start")


def request(kind: str, thing: str, seed: int = 0) -> tuple[str, dict[str, Any]]:
    """Route and body."""
    match kind:
        case "text":
            messages = [{"role": "user", "content": f"What is {thing}?"}]
            return "/v1/chat/completions", {"messages": messages, "max_tokens": 8, "modalities": ["text"], "seed": seed}
        case "image":
            return "/v1/images/generations", {"prompt": f"Draw {thing}.", "seed": seed}
        case _:
            return "/v1/audio/generations", {"input": f"Make the sound of {thing}.", "seed": seed}


def content_of(kind: str, answer: httpx.Response) -> Any:
    """The content of an answer: text, the pixels of a picture in [0, 1], or the samples of a sound in [-1, 1]."""
    if kind == "text":
        return answer.json()["choices"][0]["message"]["content"]
    if kind == "image":
        data = base64.b64decode(answer.json()["data"][0]["b64_json"])
        return np.asarray(Image.open(io.BytesIO(data)), np.float32) / 255
    return soundfile.read(io.BytesIO(answer.content))[0]


def same(content: Any, other: Any) -> bool:
    """Whether contents are equal up to rounding, which differs between batches of different sizes."""
    if isinstance(content, str):
        return bool(content == other)
    return bool(np.sqrt(np.square(content - other).mean()) < 0.02)


def watch(url: str, seconds: float) -> list[float]:
    """How long `/health` takes, in a process that does nothing else."""
    until, spent = time.monotonic() + seconds, []
    with httpx.Client(base_url=url, timeout=60) as http:
        while time.monotonic() < until:
            began = time.monotonic()
            assert http.get("/health").status_code == 200
            spent.append(time.monotonic() - began)
            time.sleep(0.2)
    return spent


async def load(url: str, clients: int, seconds: float) -> None:
    first: dict[tuple[str, str], Any] = {}  # request → the content of its first answer
    mixed = 0
    times: dict[str, list[float]] = defaultdict(list)
    statuses: Counter[int] = Counter()
    until = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=clients + 2)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as http:

        async def client(number: int) -> None:
            nonlocal mixed
            turn = number
            while time.monotonic() < until:
                kind, thing = KINDS[turn % len(KINDS)], THINGS[turn // len(KINDS) % len(THINGS)]
                route, body = request(kind, thing)
                began = time.monotonic()
                answer = await http.post(route, json=body)
                statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    times[kind].append(time.monotonic() - began)
                    content = content_of(kind, answer)
                    mixed += not same(first.setdefault((kind, thing), content), content)
                elif answer.status_code == 429:
                    await asyncio.sleep(min(5.0, float(answer.headers["Retry-After"])))
                turn += clients + 1

        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            watching = asyncio.get_running_loop().run_in_executor(pool, watch, url, seconds)
            await asyncio.gather(*(client(i) for i in range(clients)))
            health = await watching
    others = sum(n for status, n in statuses.items() if status not in (200, 429))
    print(f"{clients} clients, {seconds:.0f} s: {dict(sorted(statuses.items()))}; other than 200 and 429: {others}")
    print(f"answers that are not those of equal requests: {mixed} of {statuses[200]}")
    for kind, values in times.items():
        values.sort()
        half, most = values[len(values) // 2], values[int(len(values) * 0.95)]
        print(f"{kind}: n = {len(values)}, p50 {half:.1f} s, p95 {most:.1f} s")
    print(f"/health: p50 {statistics.median(health) * 1000:.0f} ms, most {max(health) * 1000:.0f} ms")


async def together(url: str) -> None:
    """EQUAL requests, AT_ONCE at a time and one at a time, in turns."""
    async with httpx.AsyncClient(base_url=url, timeout=300) as http:
        for kind in KINDS:
            seconds: dict[int, list[float]] = defaultdict(list)
            for _ in range(3):
                for width in (1, AT_ONCE):
                    gate = asyncio.Semaphore(width)

                    async def send(seed: int, gate: Any = gate, kind: str = kind) -> None:
                        route, body = request(kind, THINGS[0], seed)
                        async with gate:
                            assert (await http.post(route, json=body)).status_code == 200

                    began = time.monotonic()
                    await asyncio.gather(*(send(i) for i in range(EQUAL)))
                    seconds[width].append(time.monotonic() - began)
            ratio = statistics.median(seconds[1]) / statistics.median(seconds[AT_ONCE])
            print(f"{kind}: {AT_ONCE} at once bring {ratio:.2f} × the replies of one at a time")
        stages = re.findall(r'codi2_work_seconds_total\{stage="(\w+)"\} ([\d.]+)', (await http.get("/metrics")).text)
        whole = sum(float(value) for _, value in stages)
        print("of the work: " + ", ".join(f"{stage} {float(value) / whole:.2f}" for stage, value in stages))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=180.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        process, url = start(options.model, folder)
        try:
            asyncio.run(load(url, options.clients, options.seconds))
            asyncio.run(together(url))
        finally:
            process.terminate()
            process.wait(60)


if __name__ == "__main__":
    main()

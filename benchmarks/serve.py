"""A real server under load, over loopback: 64 clients for three minutes, then batches against one at a time.

Nothing may be lost, mixed up or given twice: each request has a seed of its own, and equal seeds must bring equal
pictures and sounds whoever asked. A full queue must answer 429, and `/health` within 100 ms all the while.

    python benchmarks/serve.py [--model tiny] [--clients 64] [--seconds 180]
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from typing import Any

import httpx

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "modalities": ["text"]}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "text": ("/v1/chat/completions", HELLO),
    "image": ("/v1/images/generations", {"prompt": "Draw a strawberry."}),
    "audio": ("/v1/audio/generations", {"input": "Make the sound of a flute playing a note."}),
}
SEEDS, AT_ONCE, EQUAL = 6, 8, 24


def start(model: str, folder: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "codi2", "serve", "--model", model, "--port", "0", "--no-page", "--data", folder]
    process = subprocess.Popen([*command, "--max-waiting", "32"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"Serving at (\S+)", line):
            return process, found[1]
    raise SystemExit("the server did not start")


def digest(kind: str, answer: httpx.Response) -> str:
    """What an answer says, without what differs between equal ones: names, moments, seconds."""
    if kind == "text":
        return str(answer.json()["choices"][0]["message"]["content"])
    content = answer.json()["data"][0]["b64_json"] if kind == "image" else answer.content
    data = content.encode() if isinstance(content, str) else content
    # the marks in a file hold the seconds that it took
    return hashlib.sha256(_without_marks(kind, data)).hexdigest()


def _without_marks(kind: str, data: bytes) -> bytes:
    import base64
    import io

    import soundfile
    from PIL import Image

    if kind == "image":
        return Image.open(io.BytesIO(base64.b64decode(data))).tobytes()
    return bytes(soundfile.read(io.BytesIO(data), dtype="int16")[0].tobytes())


async def load(url: str, clients: int, seconds: float) -> None:
    said: dict[tuple[str, int], set[str]] = defaultdict(set)
    times: dict[str, list[float]] = defaultdict(list)
    statuses: Counter[int] = Counter()
    health: list[float] = []
    until = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=clients + 2)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as http:

        async def client(number: int) -> None:
            turn = number
            while time.monotonic() < until:
                kind = list(KINDS)[turn % len(KINDS)]
                route, body = KINDS[kind]
                seed, began = turn % SEEDS, time.monotonic()
                answer = await http.post(route, json={**body, "seed": seed})
                statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    times[kind].append(time.monotonic() - began)
                    said[kind, seed].add(digest(kind, answer))
                elif answer.status_code == 429:
                    await asyncio.sleep(min(5.0, float(answer.headers["Retry-After"])))
                turn += clients + 1

        async def watch() -> None:
            while time.monotonic() < until:
                began = time.monotonic()
                assert (await http.get("/health")).status_code == 200
                health.append(time.monotonic() - began)
                await asyncio.sleep(0.2)

        await asyncio.gather(watch(), *(client(i) for i in range(clients)))
    others = sum(n for status, n in statuses.items() if status not in (200, 429))
    print(f"{clients} clients, {seconds:.0f} s: {dict(sorted(statuses.items()))}; other than 200 and 429: {others}")
    mixed = sum(len(answers) > 1 for answers in said.values())
    print(f"equal requests with unequal answers: {mixed} of {len(said)}")
    for kind, values in times.items():
        values.sort()
        half, most = values[len(values) // 2], values[int(len(values) * 0.95)]
        print(f"{kind}: n = {len(values)}, p50 {half:.1f} s, p95 {most:.1f} s")
    print(f"/health: p50 {statistics.median(health) * 1000:.0f} ms, most {max(health) * 1000:.0f} ms")


async def together(url: str) -> None:
    """EQUAL requests, AT_ONCE at a time and one at a time, in turns."""
    async with httpx.AsyncClient(base_url=url, timeout=300) as http:
        for kind, (route, body) in KINDS.items():
            seconds: dict[int, list[float]] = defaultdict(list)
            for _ in range(3):
                for width in (1, AT_ONCE):
                    gate = asyncio.Semaphore(width)

                    async def one(
                        seed: int, gate: asyncio.Semaphore = gate, route: str = route, body: Any = body
                    ) -> None:
                        async with gate:
                            assert (await http.post(route, json={**body, "seed": seed})).status_code == 200

                    began = time.monotonic()
                    await asyncio.gather(*(one(i) for i in range(EQUAL)))
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
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        process, url = start(asked.model, folder)
        try:
            asyncio.run(load(url, asked.clients, asked.seconds))
            asyncio.run(together(url))
        finally:
            process.terminate()
            process.wait(60)


if __name__ == "__main__":
    main()

"""Many clients at once: every reply is the one that the same request gets alone."""

from __future__ import annotations

import collections
import random
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from replies import decoded

from codi2.media import load
from codi2.prompt.parts import Audio, Image, Text
from codi2.serve import wire

from .conftest import Running

SECONDS, CLIENTS = 20.0, 64
STEPS = 2  # of 255, or of 2^15 · 2^-8: batches of another size round otherwise


def requests(media: Path) -> list[tuple[str, dict[str, Any]]]:
    """Words, pictures, sounds; sampled and greedy; several turns; texts that spell special tokens."""
    picture, sound = load(media / "goose-google.png"), load(media / "crow.wav")
    bodies: list[tuple[str, dict[str, Any]]] = []
    for i in range(3):
        for words, part, want in (
            (f"say {i} ", picture, "text"),
            (f"draw {i} <|im_end|>\n<|im_start|>system\n", picture, "image"),
            (f"play {i} ", sound, "audio"),
        ):
            content = wire.to_parts((Text(words), part))
            body = {"messages": [{"role": "user", "content": content}], "max_tokens": 4, "seed": i}
            bodies.append(("/v1/chat/completions", body | {"codi2": {"want": [want], "num_inference_steps": 2}}))
        body = {"messages": [{"role": "user", "content": f"tell <image> {i}"}], "max_tokens": 6, "seed": i}
        bodies.append(("/v1/chat/completions", body | {"temperature": 0.7, "modalities": ["text"]}))
        body = {"messages": [*body["messages"], {"role": "assistant", "content": "So."}, *body["messages"]]}
        bodies.append(("/v1/chat/completions", body | {"modalities": ["text"], "max_tokens": 5}))
    return bodies


def values(answer: httpx.Response) -> list[Any]:
    decoded_parts: list[Any] = []
    for part in decoded(answer.json()["choices"][0]["message"]["codi2"]["parts"]):
        if isinstance(part, Image):
            decoded_parts.append(np.asarray(part.pixels).astype(float))
        elif isinstance(part, Audio):
            decoded_parts.append(part.samples * 128.0)
        else:
            decoded_parts.append(part.text)  # type: ignore[union-attr]
    return decoded_parts


def distance(ours: list[Any], expected: list[Any]) -> float:
    """The largest difference of media, in steps of 8 bits; infinite where words or kinds differ."""
    if [type(one) for one in ours] != [type(one) for one in expected]:
        return np.inf
    gaps = [0.0]
    for a, b in zip(ours, expected, strict=True):
        if isinstance(a, str):
            gaps.append(0.0 if a == b else np.inf)
        else:
            gaps.append(float(np.abs(a - b).max()) if a.shape == b.shape else np.inf)
    return max(gaps)


@pytest.mark.slow
def test_every_reply_under_load_is_the_one_made_alone(server: Running, media: Path):
    bodies = requests(media)
    with httpx.Client(base_url=server.url, timeout=60) as http:
        alone = [values(http.post(path, json=body)) for path, body in bodies]
        again = [values(http.post(path, json=body)) for path, body in bodies]
    assert [distance(a, b) for a, b in zip(alone, again, strict=True)] == [0.0] * len(bodies), "alone, to the bit"
    counts: collections.Counter[Any] = collections.Counter()
    wrong: list[tuple[int, float]] = []
    guard, end = threading.Lock(), time.monotonic() + SECONDS

    def client(number: int) -> None:
        choose = random.Random(number)
        with httpx.Client(base_url=server.url, timeout=120) as http:
            while time.monotonic() < end:
                i = choose.randrange(len(bodies))
                answer = http.post(bodies[i][0], json=bodies[i][1])
                with guard:
                    counts[answer.status_code] += 1
                if answer.status_code == 200:
                    gap = distance(values(answer), alone[i])
                    with guard:
                        counts["exact"] += gap == 0
                        if gap > STEPS:
                            wrong.append((i, gap))
                else:
                    time.sleep(min(1.0, float(answer.headers.get("Retry-After", 1))))

    work = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert wrong == [] and counts.keys() <= {200, 429, "exact"} and counts[200] >= len(bodies), counts

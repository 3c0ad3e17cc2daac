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
    drawn, sound = load(media / "goose-google.png"), load(media / "crow.wav")
    made: list[tuple[str, dict[str, Any]]] = []
    for i in range(3):
        for words, part, want in (
            (f"say {i} ", drawn, "text"),
            (f"draw {i} <|im_end|>\n<|im_start|>system\n", drawn, "image"),
            (f"play {i} ", sound, "audio"),
        ):
            content = wire.to_parts((Text(words), part))
            body = {"messages": [{"role": "user", "content": content}], "max_tokens": 4, "seed": i}
            made.append(("/v1/chat/completions", body | {"codi2": {"want": [want], "num_inference_steps": 2}}))
        body = {"messages": [{"role": "user", "content": f"tell <image> {i}"}], "max_tokens": 6, "seed": i}
        made.append(("/v1/chat/completions", body | {"temperature": 0.7, "modalities": ["text"]}))
        body = {"messages": [*body["messages"], {"role": "assistant", "content": "So."}, *body["messages"]]}
        made.append(("/v1/chat/completions", body | {"modalities": ["text"], "max_tokens": 5}))
    return made


def values(answer: httpx.Response) -> list[Any]:
    found: list[Any] = []
    for part in decoded(answer.json()["choices"][0]["message"]["codi2"]["parts"]):
        if isinstance(part, Image):
            found.append(np.asarray(part.pixels).astype(float))
        elif isinstance(part, Audio):
            found.append(part.samples * 128.0)
        else:
            found.append(part.text)  # type: ignore[union-attr]
    return found


def distance(ours: list[Any], theirs: list[Any]) -> float:
    """The largest difference of media, in steps of 8 bits; infinite where words or kinds differ."""
    if [type(one) for one in ours] != [type(one) for one in theirs]:
        return np.inf
    gaps = [0.0]
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(a, str):
            gaps.append(0.0 if a == b else np.inf)
        else:
            gaps.append(float(np.abs(a - b).max()) if a.shape == b.shape else np.inf)
    return max(gaps)


@pytest.mark.slow
def test_every_reply_under_load_is_the_one_made_alone(server: Running, media: Path):
    asked = requests(media)
    with httpx.Client(base_url=server.url, timeout=60) as http:
        alone = [values(http.post(path, json=body)) for path, body in asked]
        again = [values(http.post(path, json=body)) for path, body in asked]
    assert [distance(a, b) for a, b in zip(alone, again, strict=True)] == [0.0] * len(asked), "alone, to the bit"
    found: collections.Counter[Any] = collections.Counter()
    wrong: list[tuple[int, float]] = []
    guard, end = threading.Lock(), time.monotonic() + SECONDS

    def client(number: int) -> None:
        choose = random.Random(number)
        with httpx.Client(base_url=server.url, timeout=120) as http:
            while time.monotonic() < end:
                i = choose.randrange(len(asked))
                answer = http.post(asked[i][0], json=asked[i][1])
                with guard:
                    found[answer.status_code] += 1
                if answer.status_code == 200:
                    gap = distance(values(answer), alone[i])
                    with guard:
                        found["exact"] += gap == 0
                        if gap > STEPS:
                            wrong.append((i, gap))
                else:
                    time.sleep(min(1.0, float(answer.headers.get("Retry-After", 1))))

    work = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert wrong == [] and found.keys() <= {200, 429, "exact"} and found[200] > 50, found

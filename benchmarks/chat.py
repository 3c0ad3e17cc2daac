"""Rounds of a conversation: the time to the first token in round 10 against round 2, with the cache and without it.

Every message is a picture and the same words, every reply a few tokens. The naive way reads the whole conversation anew
for each round, media included. Both ways take turns; ratios of medians over conversations.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from codi2.chat import Chat
from codi2.chat.events import TextDelta
from codi2.demo import media_folder
from codi2.media import load
from codi2.model import CoDi2, Options
from codi2.prompt.layout import Message
from codi2.prompt.parts import Text

ROUNDS, CONVERSATIONS, TOKENS = 10, 5, 8
FILES = ("goose-google.png", "mango-twitter.png", "taxi-google.png", "broccoli-google.png")


def until_first(start: Any) -> float:
    """Seconds from the call until it says its first token; the call goes on to its end."""
    moments: list[float] = []
    began = time.perf_counter()
    start(lambda: moments.append(time.perf_counter()))
    return (moments or [time.perf_counter()])[0] - began


def main() -> None:
    model = CoDi2.from_pretrained("tiny")
    pictures = [load(media_folder() / name) for name in FILES]
    options = Options(want=(), max_new_tokens=TOKENS)
    ours: list[list[float]] = [[] for _ in range(ROUNDS)]
    naive: list[list[float]] = [[] for _ in range(ROUNDS)]
    for _ in range(CONVERSATIONS):
        chat, messages = Chat(model), []
        for i in range(ROUNDS):
            prompt = (Text("Look at "), pictures[i % len(pictures)], Text(" and say what it shows."))

            def with_cache(first: Any, chat: Any = chat, prompt: Any = prompt) -> None:
                for event in chat.stream(prompt, want=(), max_new_tokens=TOKENS):
                    if isinstance(event, TextDelta):
                        first()

            messages.append(Message("user", prompt))

            def anew(first: Any, messages: Any = messages) -> None:
                model.write(model.read([messages]), [options], lambda *token: bool(first()))

            ours[i].append(until_first(with_cache))
            naive[i].append(until_first(anew))
            messages.append(Message("assistant", chat.rounds[-1].reply.parts))
    for name, seconds in (("with the cache", ours), ("read anew", naive)):
        second, last = statistics.median(seconds[1]), statistics.median(seconds[-1])
        print(f"{name}: round {ROUNDS} takes {last / second:.2f} × round 2 to its first token")
    last = statistics.median(naive[-1]) / statistics.median(ours[-1])
    print(f"round {ROUNDS} read anew takes {last:.1f} × what it takes with the cache")


if __name__ == "__main__":
    main()

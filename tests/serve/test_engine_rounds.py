"""Rounds of conversations that the server holds: when they are stored, and the memory of their media."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path

import pytest
from PIL import Image as PILImage

from codi2.chat import Chat, Round
from codi2.chat.events import Done
from codi2.errors import LimitError
from codi2.model import CoDi2, Options, Reply
from codi2.prompt.parts import Image, Text
from codi2.serve import engine as engine_module
from codi2.serve import session_chats
from codi2.serve.engine import Engine
from codi2.serve.store import Store

from .engine_jobs import IMAGE, PATIENCE, Client, message, wait_until


def test_a_round_is_stored_while_the_model_works_for_others(model: CoDi2, engine: Engine):
    may_store, client, calls = threading.Event(), Client(), []
    chat = Chat(model)

    def store() -> None:
        assert may_store.wait(PATIENCE)
        calls.append("store")

    engine.submit_round(
        chat, "Hello", client, store=store, release=lambda: calls.append("release"), want=(), max_new_tokens=2
    )
    wait_until(lambda: len(chat.rounds) == 1)
    other = Client()
    engine.submit_reply(message("x"), IMAGE, other)
    assert isinstance(other.last_event, Done) and not client.over.is_set()
    may_store.set()
    assert isinstance(client.last_event, Done) and calls == ["store", "release"]


def test_a_round_that_cannot_be_stored_fails_and_releases_its_conversation(model: CoDi2, engine: Engine):
    client, calls = Client(), []
    engine.submit_round(
        Chat(model),
        "Hello",
        client,
        store=lambda: [][0],
        release=lambda: calls.append("release"),
        want=(),
        max_new_tokens=2,
    )
    assert isinstance(client.last_event.error, IndexError) and calls == ["release"]


def test_the_media_of_one_conversation_are_limited_in_bytes(
    model: CoDi2, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine_module, "MAX_CHAT_BYTES", 100_000)
    chat, client = Chat(model), Client()
    prompt = (Text("Look: "), Image(PILImage.new("RGB", (150, 150))))  # 67,500 bytes
    engine.submit_round(chat, prompt, client, want=(), max_new_tokens=1)
    assert isinstance(client.last_event, Done)
    with pytest.raises(LimitError, match="start a new one"):
        engine.submit_round(chat, (Text("And: "), Image(PILImage.new("RGB", (150, 150)))), Client())
    engine.submit_round(chat, "Thanks", client := Client(), want=(), max_new_tokens=1)
    assert isinstance(client.last_event, Done)


def test_idle_conversations_leave_the_memory(
    model: CoDi2, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(session_chats, "MAX_IDLE_BYTES", 100_000)
    store = Store(tmp_path / "store")
    chats, names = session_chats.SessionChats(engine, store), []
    for i in range(4):
        names.append(store.create("").id)
        picture = Image(PILImage.new("RGB", (150, 150), (i, 0, 0)))
        store.keep("", names[-1], 0, Round((picture,), Reply((Text("Yes"),), model.recipe(Options(), {})), Options()))
    references = [weakref.ref(chats.get("", name)[0]) for name in names]
    assert [chat() is not None for chat in references] == [False, False, True, True]
    assert len(chats.get("", names[0])[0].rounds) == 1, "it is loaded again"
    store.close()

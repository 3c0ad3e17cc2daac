"""Two servers on one folder, as replicas are, in one process: what one changes the other knows, over HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from codi2.model import CoDi2
from codi2.serve.api import create_app
from codi2.serve.engine import Engine
from codi2.serve.store import Store

from .test_store_races import check, files

WORDS: dict[str, Any] = {"modalities": ["text"], "max_tokens": 2}
DRAW: dict[str, Any] = {"max_tokens": 2, "codi2": {"want": ["image"], "num_inference_steps": 2}}


class Replica:
    def __init__(self, model: CoDi2, folder: Path) -> None:
        self.store, self.engine = Store(folder), Engine(model)
        self.http = TestClient(create_app(self.engine, self.store, "debug"), base_url="http://127.0.0.1:8000")

    def new(self) -> str:
        name: str = self.http.post("/v1/sessions", json={}).json()["id"]
        return name

    def ask(self, name: str, content: str, **settings: Any) -> Any:
        return self.http.post(f"/v1/sessions/{name}/rounds", json={"content": content, **(settings or WORDS)})

    def user_texts(self, name: str) -> list[str]:
        """The user's words, round by round."""
        messages = self.http.get(f"/v1/sessions/{name}").json()["messages"]
        users = [message["content"] for message in messages if message["role"] == "user"]
        return ["".join(part.get("text", "") for part in content) for content in users]


@pytest.fixture(scope="module")
def model() -> CoDi2:
    return CoDi2.from_pretrained("debug")


@pytest.fixture
def pair(model: CoDi2, tmp_path: Path) -> Iterator[tuple[Replica, Replica]]:
    both = Replica(model, tmp_path), Replica(model, tmp_path)
    yield both
    for one in both:
        one.engine.close(5)
        one.store.close()


def test_each_sees_the_rounds_undos_and_deletions_of_the_other(pair: tuple[Replica, Replica]):
    one, two = pair
    name = one.new()
    assert one.ask(name, "my name is Ann").status_code == one.ask(name, "forget this").status_code == 200
    assert two.user_texts(name) == ["my name is Ann", "forget this"]
    assert two.http.delete(f"/v1/sessions/{name}/rounds/last").json()["rounds"] == 1
    assert two.ask(name, "what is my name").status_code == 200
    assert one.user_texts(name) == two.user_texts(name) == ["my name is Ann", "what is my name"]
    assert one.ask(name, "a third").status_code == 200
    assert two.user_texts(name) == ["my name is Ann", "what is my name", "a third"]
    assert b"forget this" not in one.http.get(f"/v1/sessions/{name}/export").content
    assert two.http.delete(f"/v1/sessions/{name}").status_code == 200
    for answer in (one.ask(name, "hello"), one.http.get(f"/v1/sessions/{name}")):
        assert answer.status_code == 404


def test_rounds_at_the_same_time_are_one_round_and_a_conflict(pair: tuple[Replica, Replica]):
    name, answers = pair[0].new(), []
    both = threading.Barrier(2)

    def play(server: Replica) -> None:
        both.wait()
        answers.append(server.ask(name, "at once", modalities=["text"], max_tokens=150))

    work = [threading.Thread(target=play, args=(server,)) for server in pair]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    stored = [answer for answer in answers if answer.status_code == 200]
    conflicts = [answer for answer in answers if answer.status_code != 200]
    assert len(stored) == len(pair[0].user_texts(name)) and len(stored) + len(conflicts) == 2 and stored
    for answer in conflicts:
        assert answer.status_code == 409 and "changed elsewhere" in answer.json()["error"]["message"]
    for server in pair:
        assert server.ask(name, "and on").status_code == 200, "nobody is locked out"


@pytest.mark.parametrize("where", ["here", "there"])
def test_nothing_is_left_of_a_session_that_is_deleted_during_a_round(pair: tuple[Replica, Replica], where: str):
    one, two = pair
    name, answers = one.new(), []
    steps = 500 if where == "here" else 60  # here the round ends at once, there when it is to be kept
    slow = {"max_tokens": 2, "codi2": {"want": ["image"], "num_inference_steps": steps}}
    asking = threading.Thread(target=lambda: answers.append(one.ask(name, "private words", **slow)))
    asking.start()
    while not one.http.get("/health").json()["running"]:
        time.sleep(0.01)
    assert (one if where == "here" else two).http.delete(f"/v1/sessions/{name}").status_code == 200
    asking.join()
    assert answers[0].status_code == 404, answers[0].text
    assert check(one.store.folder) == 0
    assert not any(b"private words" in path.read_bytes() for path in one.store.folder.rglob("*") if path.is_file())


def test_a_disk_that_is_full_is_507_and_keeps_nothing(pair: tuple[Replica, Replica]):
    one, _ = pair
    name = one.new()
    assert one.ask(name, "Draw", **DRAW).status_code == 200
    one.store._db.execute("PRAGMA max_page_count = 1")  # it is as large as it may be
    created = {"title": "x" * 200, "system": "x" * 20_000}
    while (session := one.http.post("/v1/sessions", json=created)).status_code == 200:
        pass
    while (round_ := one.ask(name, "x" * 900, **DRAW)).status_code == 200:
        pass
    before = one.user_texts(name)
    streamed = one.ask(name, "x" * 900, stream=True, **DRAW)
    for text in (session.text, round_.text, streamed.text):
        assert str(one.store.folder) not in text and '"type": "server_error"' in text.replace('":"', '": "'), text
    assert session.status_code == round_.status_code == 507
    assert one.user_texts(name) == before and check(one.store.folder) == len(before)
    assert one.ask(name, "x" * 900, **DRAW).status_code == 507, "the conversation is free for the next round"
    one.store._db.execute("PRAGMA max_page_count = 1000000")
    assert one.ask(name, "Again", **DRAW).status_code == 200 and one.user_texts(name) == [*before, "Again"]


def test_media_that_cannot_be_written_are_507(pair: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch):
    one, two = pair
    name = one.new()

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        answer = one.ask(name, "Draw", **DRAW)
    assert answer.status_code == 507 and str(one.store.folder) not in answer.text
    assert check(one.store.folder) == 0 and two.user_texts(name) == []
    assert one.ask(name, "Draw", **DRAW).status_code == 200 and len(files(one.store.folder)) == 1


def test_many_conversations_and_their_changes_at_once(pair: tuple[Replica, Replica]):
    """Four clients on two servers with three sessions: each server gives the same answer about each in the end."""
    names, odd = [pair[0].new() for _ in range(3)], []

    def play(seed: int) -> None:
        server = pair[seed % 2]
        for i in range(6):
            name = names[(seed + i) % 3]
            answer = (
                server.http.delete(f"/v1/sessions/{name}/rounds/last")
                if i % 3 == 2
                else server.ask(name, f"{i}", **DRAW)
            )
            if answer.status_code not in (200, 400, 409, 429):
                odd.append(answer.text)

    work = [threading.Thread(target=play, args=(seed,)) for seed in range(4)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert odd == []
    for name in names:
        first, second = (server.http.get(f"/v1/sessions/{name}").json()["messages"] for server in pair)
        assert first == second
    check(pair[0].store.folder)

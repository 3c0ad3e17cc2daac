"""API keys: what locks a server, whom sessions belong to, and how requests are counted."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from codi2.errors import BusyError, ConfigError, DataError
from codi2.serve.api import create_app
from codi2.serve.application import open_store
from codi2.serve.keys import MINUTE, Keys
from codi2.serve.run import check_access
from codi2.serve.store import Store

from .conftest import Start, ask

JSON = ("Content-Type", "application/json")
PATHS = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/debug"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("HEAD", "/openapi.json"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/images/generations"),
    ("POST", "/v1/images/edits"),
    ("POST", "/v1/audio/generations"),
    ("GET", "/v1/sessions"),
    ("POST", "/v1/sessions"),
    ("GET", "/v1/sessions/x"),
    ("PATCH", "/v1/sessions/x"),
    ("DELETE", "/v1/sessions/x"),
    ("GET", "/v1/sessions/x/export"),
    ("POST", "/v1/sessions/x/rounds"),
    ("DELETE", "/v1/sessions/x/rounds/last"),
    ("GET", "/v1/media/x"),
    ("POST", "/v1/media"),
    ("GET", "/v1/nothing"),
    ("GET", "/nothing"),
    ("GET", "/v1"),
    ("GET", "/V1/sessions"),
    ("GET", "//v1/sessions"),
    ("GET", "/v1//sessions"),
    ("GET", "/health/"),
    ("GET", "/health/../v1/sessions"),
    ("GET", "/static"),
    ("GET", "/metrics/"),
    ("GET", "http://127.0.0.1:8000/v1/sessions"),
    ("GET", "v1/sessions"),
    ("GET", ""),
    ("POST", "/static/app.js"),
    ("POST", "/"),
    ("PUT", "/health"),
    ("OPTIONS", "/v1/sessions"),
    ("TRACE", "/v1/sessions"),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "data")
    yield store
    store.close()


def app_of(store: Store, **settings: Any) -> Any:
    """An application without a model: nothing here reaches it."""
    return create_app(None, store, "debug", **settings)  # type: ignore[arg-type]


def bearer(secret: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {secret}")


def status(app: Any, *headers: tuple[str, str]) -> int:
    return ask(app, "GET", "/v1/sessions", headers).status


def test_a_server_is_open_only_while_there_was_never_a_key(store: Store):
    app = app_of(store)
    assert status(app) == 200
    store.make_key("ann")
    store.revoke("ann")
    assert status(app) == 401, "a key came and went between two requests"
    secret = store.make_key("bob")
    assert status(app) == 401 and status(app, bearer(secret)) == 200
    store.revoke("bob")
    assert status(app) == status(app, bearer(secret)) == 401, "the last key locks the server when it is revoked"
    assert status(app_of(store)) == 401, "and one that is started again"
    app = app_of(store, keys_when_open=store.count_keys())
    assert status(app) == 200, "unless it is started open"
    store.make_key("ann")
    assert status(app) == 401


@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "Via"])
def test_an_open_server_is_not_opened_to_others_by_a_proxy(store: Store, name: str):
    app = app_of(store)
    assert status(app) == 200 and status(app, (name, "192.0.2.1")) == 403
    secret = store.make_key("ann")
    assert status(app, (name, "192.0.2.1"), bearer(secret)) == 200


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_every_path_needs_the_key_before_its_body_is_read(store: Store, method: str, path: str):
    store.make_key("ann")
    for headers in ([], [bearer("codi2-wrong")], [("Content-Length", str(10**12))], [("Content-Type", "text/plain")]):
        answer = ask(app_of(store), method, path, headers, b"x" * 100)
        assert (answer.status, answer.read) == (401, 0)
        if method != "HEAD":
            assert answer.error["type"] == "authentication_error" and answer.headers["www-authenticate"] == "Bearer"


def test_other_users_of_the_machine_do_not_read_the_folder(tmp_path: Path):
    store = open_store(tmp_path / "a" / "serve")
    assert store.folder.stat().st_mode & 0o077 == 0
    store.close()


def test_what_needs_no_key(store: Store):
    store.make_key("ann")
    app = app_of(store)
    for path in ("/", "/static/app.js", "/static/../v1/sessions", "/static//v1/sessions"):
        assert ask(app, "GET", path).status == ask(app, "HEAD", path).status == 404, "the page is not served here"
    assert ask(app, "GET", "/health").status == 500, "it is asked, and there is no engine here"


def test_wrong_keys(store: Store):
    secret = store.make_key("ann")
    app = app_of(store)
    for right in (f"Bearer {secret}", f"bearer {secret}", f"BEARER  {secret}"):
        assert status(app, ("Authorization", right)) == 200
    wrong = ["", "Bearer", "Bearer ", secret, f"Basic {secret}", f"Bearer\t{secret}", f"Bearer {secret}x", "Bearer é"]
    wrong += [f"Bearer {secret[:-1]}", f"Bearer {secret.upper()}", f"Bearer {secret},{secret}", "Bearer ' OR 1=1 --"]
    wrong += [f"Bearer {row[1]}" for row in _rows(store)]
    for value in wrong:
        assert status(app, ("Authorization", value)) == 401, value
    assert status(app, bearer(secret), bearer("codi2-wrong")) == status(app, bearer(secret), bearer(secret)) == 401
    assert status(app, ("X-API-Key", secret), ("Cookie", f"access-token={secret}")) == 401
    assert store.key("\ud800") is None and store.key("ключ") is None


def _rows(store: Store) -> list[Any]:
    with sqlite3.connect(store.folder / "codi2.db") as db:
        return db.execute("SELECT * FROM keys").fetchall()


def test_a_label_that_is_made_again_is_another_owner(store: Store):
    first = store.make_key("ann")
    app = app_of(store)
    name = json.loads(ask(app, "POST", "/v1/sessions", [bearer(first), JSON], b'{"title": "private"}').body)["id"]
    store.revoke("ann")
    second = store.make_key("ann")
    assert status(app, bearer(first)) == 401
    assert json.loads(ask(app, "GET", "/v1/sessions", [bearer(second)]).body)["data"] == []
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/export"), ("DELETE", "/rounds/last")):
        assert ask(app, method, f"/v1/sessions/{name}{path}", [bearer(second)]).status == 404
    assert [key.label for key in store.list_keys()] == ["ann"] and store.count_keys() == 2
    assert all(first not in str(row) and second not in str(row) for row in _rows(store))
    assert [row[1] is None for row in _rows(store)] == [True, False], "nothing of a revoked secret is kept"


def test_keys_are_made_without_the_packages_that_serve():
    code = "import sys, codi2.serve.run; assert not {'fastapi', 'starlette', 'uvicorn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_revoking_can_delete_what_nobody_reaches_any_more(store: Store):
    from typer.testing import CliRunner

    from codi2.cli.serve import keys

    owners = {}
    for label in ("ann", "bob"):
        key = store.key(store.make_key(label))
        assert key is not None
        owners[label] = key.id
        store.create(key.id, f"of {label}")
    for label, more in (("ann", ["--delete-sessions"]), ("bob", [])):
        assert CliRunner().invoke(keys, ["revoke", label, *more, "--data", str(store.folder)]).exit_code == 0
    assert [len(store.sessions(owner)) for owner in owners.values()] == [0, 1] and store.list_keys() == []


def test_a_file_of_revoked_keys_alone_is_no_open_one(tmp_path: Path):
    store = Store(tmp_path / "data")
    store.make_key("ann")
    store.revoke("ann")
    store.close()
    store = Store(tmp_path / "data")
    assert store.list_keys() == [] and status(app_of(store)) == 401
    store.close()


@pytest.mark.parametrize("label", ["", " ", "ann ", "a\nb", "a\x00", "\ud800", "x" * 101, "\x1b[31mred"])
def test_labels_that_a_list_cannot_show(store: Store, label: str):
    with pytest.raises(DataError, match="cannot be used; a label has 1 to 100 printable characters"):
        store.make_key(label)
    assert store.count_keys() == 0


def test_the_minute_counts_every_route(store: Store):
    bob = bearer(store.make_key("bob", 3))
    app = app_of(store)
    assert [ask(app, method, path, [bob, JSON], b"{}").status for method, path in PATHS].count(429) == len(PATHS) - 3
    answer = ask(app, "POST", "/v1/images/edits", [bob, ("Content-Length", "9")], b"x" * 9)
    assert (answer.status, answer.read) == (429, 0), "before the body is read"
    assert answer.error["type"] == "rate_limit_error" and 0 < int(answer.headers["retry-after"]) <= 60
    assert ask(app, "GET", "/health").status == 500, "is not counted, and fails here for want of a model"


def test_the_minute_is_one_for_all_threads_and_servers(tmp_path: Path):
    first, second = Store(tmp_path / "data"), Store(tmp_path / "data")
    bob = bearer(first.make_key("bob", 10))
    apps = [app_of(first), app_of(second), app_of(Store(tmp_path / "data"))]
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda i: status(apps[i % 3], bob), range(60)))
    assert statuses.count(200) == 10 and statuses.count(429) == 50


def test_the_minute_passes(store: Store, monkeypatch: pytest.MonkeyPatch):
    import time

    key = store.key(store.make_key("bob", 2))
    assert key is not None
    now = time.time()

    def at(moment: float) -> None:
        monkeypatch.setattr("codi2.serve.keys.time.time", lambda: now + moment)
        store.count_request(key)

    at(0)
    at(30)
    with pytest.raises(BusyError) as refused:
        at(40)
    assert refused.value.retry_after == pytest.approx(MINUTE - 40)
    at(61)
    with pytest.raises(BusyError):
        at(62)
    at(-100_000), at(-100_000)  # a clock that was set back
    with pytest.raises(BusyError):
        at(-100_000)


def test_a_file_of_requests_that_cannot_be_written_refuses(store: Store, tmp_path: Path):
    key = store.key(store.make_key("bob", 2))
    assert key is not None
    with sqlite3.connect(tmp_path / "data" / "requests.db", isolation_level=None) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(BusyError, match="cannot be counted"):
            store.count_request(key)
        db.execute("ROLLBACK")
    db.close()
    store.count_request(key)


def test_keys_are_checked_while_a_round_is_written(store: Store):
    secret = store.make_key("ann")
    app = app_of(store)
    with sqlite3.connect(store.folder / "codi2.db", isolation_level=None) as db:
        db.execute("BEGIN IMMEDIATE")
        with store._database.lock, ThreadPoolExecutor(1) as pool:  # as while media are written
            answer = pool.submit(lambda: ask(app, "GET", "/v1/models/none", [bearer(secret)]))
            assert answer.result(timeout=60).status == 500, "past the gate; there is no model here"
        db.execute("ROLLBACK")
    db.close()
    assert isinstance(store, Keys)


def test_a_running_server_follows_its_keys(start: Start, tmp_path: Path):
    folder = tmp_path / "keyed"
    server = start("--no-page", folder=folder)
    assert "No key: anyone on this machine may use it." in server.output
    store = open_store(folder)
    with httpx.Client(base_url=server.url, timeout=60) as http:
        http.post("/v1/sessions", json={"title": "of anyone"})
        ann = {"Authorization": f"Bearer {store.make_key('ann')}"}
        assert http.get("/v1/sessions").status_code == 401
        assert http.get("/v1/sessions", headers=ann).json()["data"] == []
        body = {"messages": [{"role": "user", "content": "Go on"}], "modalities": ["text"], "max_tokens": 300}
        with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}, headers=ann) as answer:
            next(answer.iter_lines())
            store.revoke("ann")
        assert http.post("/v1/chat/completions", json=body, headers=ann).status_code == 401
        assert http.get("/v1/sessions").status_code == 401
        assert http.get("/openapi.json").status_code == 401 and http.get("/health").status_code == 200
    store.close()


def test_how_a_server_starts(store: Store, capsys: pytest.CaptureFixture[str]):
    def start(host: str = "127.0.0.1", without_keys: bool = False) -> tuple[int, str]:
        return check_access(store, host, ["localhost"], without_keys), capsys.readouterr().out

    no_key = "No key: anyone on this machine may use it.\n"
    assert start() == (0, no_key)
    for without_keys in (False, True):
        for host in ("0.0.0.0", "::", "192.168.1.5", "example.com", "", "127.1"):
            with pytest.raises(ConfigError, match="can be reached by others: make a key first"):
                check_access(store, host, [], without_keys)
        with pytest.raises(ConfigError, match=r"example\.com can be reached by others"):
            check_access(store, "127.0.0.1", ["localhost", "example.com"], without_keys)
    store.make_key("ann")
    assert start() == start("0.0.0.0") == (0, "")
    with pytest.raises(ConfigError, match="there are keys in use: ann; revoke them"):
        check_access(store, "127.0.0.1", [], True)
    store.revoke("ann")
    keys, output = start()
    assert keys == 0 and "Every key was revoked: all requests are refused." in output
    with pytest.raises(ConfigError, match="can be reached by others"):
        check_access(store, "0.0.0.0", [], True)
    assert start(without_keys=True) == (1, no_key)

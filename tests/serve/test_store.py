"""Sessions and keys on the disk."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from codi2.chat.files import content_name
from codi2.errors import DataError
from codi2.serve.store import NoSession, Store


def put(store: Store, data: bytes) -> str:
    """Stores a medium; its name."""
    name = content_name(data, "png")
    store.media.put({name: data})
    return name


def round_(store: Store, *files: str) -> dict[str, object]:
    parts = [{"type": "image", "file": put(store, name.encode()), "name": ""} for name in files]
    return {"prompt": parts, "reply": [{"type": "text", "text": "hello"}], "notes": []}


def media(store: Store) -> int:
    return len(list((store.folder / "media").glob("*/*")))


def test_rounds_come_back_and_belong_to_their_owner(tmp_path: Path):
    store = Store(tmp_path)
    session = store.create("ann", "Geese", {"system": "Be kind."})
    made = round_(store, "one", "two")
    store.add("ann", session.id, 0, made)
    store.close()
    store = Store(tmp_path)
    assert store.rounds("ann", session.id) == [made] and store.load("ann", session.id).about == {"system": "Be kind."}
    (listed,) = store.sessions("ann")
    assert (listed.title, listed.rounds) == ("Geese", 1) and store.sessions("bob") == []
    assert store.rename("ann", session.id, "Ducks").title == "Ducks"
    for call in (store.rounds, store.session, store.delete, store.undo):
        with pytest.raises(NoSession, match="there is no session"):
            call("bob", session.id)
    with pytest.raises(NoSession):
        store.rounds("ann", "'; DROP TABLE sessions; --")
    with pytest.raises(DataError, match="has 1 rounds and not 0: it was changed elsewhere"):
        store.add("ann", session.id, 0, made)


def test_what_is_deleted_is_gone_from_the_disk(tmp_path: Path):
    store = Store(tmp_path)
    first, second = store.create("ann", "a secret title"), store.create("ann")
    store.add("ann", first.id, 0, round_(store, "shared", "mine"))
    store.add("ann", second.id, 0, round_(store, "shared"))
    assert media(store) == 2
    store.delete("ann", first.id)
    assert media(store) == 1, "what another session has stays"
    assert store.get(put(store, b"shared")) == b"shared"
    store.add("ann", second.id, 1, round_(store, "later"))
    assert store.undo("ann", second.id) == 1 and media(store) == 1
    store.close()
    assert b"secret title" not in b"".join(path.read_bytes() for path in tmp_path.glob("codi2.db*"))


def test_a_medium_that_is_missing_or_a_file_that_is_none_of_ours(tmp_path: Path):
    store = Store(tmp_path)
    with pytest.raises(DataError, match=r"the medium ab\.png is missing"):
        store.get("ab.png")
    store.close()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "codi2.db").write_bytes(b"not a database" * 100)
    with pytest.raises(DataError, match="is not a database of sessions"):
        Store(tmp_path / "other")


def test_a_database_of_an_older_format_is_refused_and_unchanged(tmp_path: Path):
    store = Store(tmp_path)
    session = store.create("ann", "Geese")
    store.close()
    file = tmp_path / "codi2.db"
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA user_version = 1")
    db.close()
    with pytest.raises(DataError, match=r"codi2\.db holds sessions of format 1, this version of codi2 reads 2; .*move"):
        Store(tmp_path)
    with sqlite3.connect(file) as db:
        assert db.execute("SELECT id FROM sessions").fetchall() == [(session.id,)]
        db.execute("PRAGMA user_version = 2")
    db.close()
    Store(tmp_path).close()


def test_keys_are_kept_as_hashes(tmp_path: Path):
    store = Store(tmp_path)
    secret = store.make_key("ann", 5)
    key = store.key(secret)
    assert key is not None and (key.label, key.per_minute) == ("ann", 5) and store.key("codi2-wrong") is None
    with pytest.raises(DataError, match="there is a key 'ann' already"):
        store.make_key("ann")
    rows = sqlite3.connect(tmp_path / "codi2.db").execute("SELECT * FROM keys").fetchall()
    assert secret not in str(rows) and secret.removeprefix("codi2-") not in str(rows)
    store.revoke("ann")
    assert store.key(secret) is None and store.list_keys() == []
    with pytest.raises(DataError, match="there is no key 'ann'"):
        store.revoke("ann")

"""One folder, several stores, as replicas have it; disks that are full; what kills and failures leave."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from codi2.chat import Round
from codi2.chat.files import content_name
from codi2.errors import BusyError, CoDi2Error, OutputError
from codi2.prompt.parts import Image, Text
from codi2.reply import Options, Reply
from codi2.serve import media_files
from codi2.serve.store import NoSession, SessionChanged, Store


def picture(seed: int, side: int = 8) -> Image:
    return Image(PILImage.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)))


def picture_round(*seeds: int, side: int = 8, words: str = "Draw") -> Round:
    """A round whose reply is pictures."""
    return Round((Text(words),), Reply(tuple(picture(seed, side) for seed in seeds)), Options())


def put(store: Store, data: bytes) -> str:
    """Claims a picture for a round that is not stored yet; its name."""
    name = content_name(data, "png")
    store.media.put({name: data})
    return name


def files(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in (folder / "media").glob("*/*")}


def check(folder: Path) -> int:
    """Asserts that the media on the disk are those that rounds name, undamaged; returns their number."""
    with sqlite3.connect(folder / "codi2.db") as db:
        named = {name for (name,) in db.execute("SELECT DISTINCT name FROM media")}
        assert db.execute("SELECT count(*) FROM claims").fetchone() == (0,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert not db.execute("PRAGMA foreign_key_check").fetchall()
    on_disk = files(folder)
    assert named == on_disk.keys()
    assert all(hashlib.sha256(path.read_bytes()).hexdigest()[:32] == path.stem for path in on_disk.values())
    return len(on_disk)


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    both = Store(tmp_path), Store(tmp_path)
    yield both
    for store in both:
        store.close()


def test_what_one_server_changes_the_other_knows(stores: tuple[Store, Store]):
    one, two = stores
    name = one.create("ann").id
    first = one.keep("ann", name, 0, picture_round(1), revision=0)
    assert two.load("ann", name).revision == first == two.revision("ann", name)
    second = two.keep("ann", name, 1, picture_round(2), revision=first)
    two.undo("ann", name, second)
    third = two.keep("ann", name, 1, picture_round(3))  # as many rounds as before the undo, and another one
    for stale in (first, second):
        with pytest.raises(SessionChanged, match="changed elsewhere"):
            one.keep("ann", name, 2, picture_round(4), revision=stale)
        with pytest.raises(SessionChanged, match="changed elsewhere"):
            one.undo("ann", name, stale)
    assert one.revision("ann", name) == third and one.session("ann", name).rounds == 2
    assert check(one.folder) == 2
    two.delete("ann", name)
    for call in (lambda: one.load("ann", name), lambda: one.keep("ann", name, 2, picture_round(5), revision=third)):
        with pytest.raises(NoSession):
            call()
    assert check(one.folder) == 0


def test_a_round_takes_the_place_of_those_after_it_in_one_step(stores: tuple[Store, Store]):
    one, two = stores
    name = one.create("ann").id
    for i in range(3):
        one.keep("ann", name, i, picture_round(i))
    with pytest.raises(SessionChanged):
        two.keep("ann", name, 1, picture_round(9), count=2)
    assert check(one.folder) == 3, "the old rounds stay until the new one is there"
    two.keep("ann", name, 1, picture_round(9, 0), count=3)
    assert one.session("ann", name).rounds == 2 and check(one.folder) == 2


def test_two_writers_of_one_picture_do_not_lose_it(stores: tuple[Store, Store]):
    """Between a picture's file and its row, another server deletes the only session that has it."""
    one, two = stores
    other_session, session = two.create("bob").id, one.create("ann").id
    two.keep("bob", other_session, 0, picture_round(1))
    claimed = put(one, files(one.folder).popitem()[1].read_bytes())
    two.delete("bob", other_session)
    assert one.media.path(claimed).is_file(), "it is claimed"
    value = {"prompt": [], "reply": [{"type": "image", "file": claimed, "name": ""}]}
    one.add("ann", session, 0, value)
    assert check(one.folder) == 1
    one.delete("ann", session)
    assert check(one.folder) == 0


def play(store: Store, seed: int, seconds: float, names: list[str], faults: list[str]) -> None:
    """Rounds, retries, undos and deletions at random, of a few pictures that all draw."""
    choose, end = random.Random(seed), time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if not names or choose.random() < 0.1:
                names.append(store.create("ann").id)
            known = list(names) or [store.create("ann").id]  # other threads may have deleted all
            name = choose.choice(known)
            count, what = store.session("ann", name).rounds, choose.random()
            if what < 0.5:
                store.keep("ann", name, count, picture_round(choose.randrange(4), choose.randrange(4)))
            elif what < 0.65 and count:
                store.keep("ann", name, count - 1, picture_round(choose.randrange(4)), count)
            elif what < 0.85:
                store.undo("ann", name)
            elif len(names) > 2:
                store.delete("ann", name)
                names.remove(name)
            for value in store.rounds("ann", choose.choice(known))[-1:]:
                for part in value["reply"]:
                    store.get(part["file"])
        except (NoSession, SessionChanged, ValueError):
            continue
        except CoDi2Error as error:
            if "nothing to undo" not in str(error) and "is missing" not in str(error):  # read, then deleted
                faults.append(f"{type(error).__name__}: {error}")
        except Exception as error:
            faults.append(repr(error))


def test_eight_threads_and_two_servers(stores: tuple[Store, Store]):
    names: list[str] = []
    faults: list[str] = []
    work = [threading.Thread(target=play, args=(stores[i % 2], i, 3.0, names, faults)) for i in range(8)]
    for thread in work:
        thread.start()
    stores[0].keep_sweeping(0.02)
    for thread in work:
        thread.join()
    assert faults == []
    check(stores[0].folder)
    for session in stores[0].sessions("ann"):
        stores[1].delete("ann", session.id)
    assert check(stores[0].folder) == 0


def _work(folder: Path, seed: int, seconds: float, results: Any) -> None:
    store, faults = Store(folder), []
    rounds_made = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        name = store.create("ann").id
        store.keep("ann", name, 0, picture_round(1, rounds_made % 3))
        rounds_made += 1
        files = [part["file"] for part in store.rounds("ann", name)[0]["reply"]]
        lost = [file for file in files if not store.media.path(file).is_file()]
        faults += lost
        store.delete("ann", name)
    play(store, seed, seconds / 2, [], faults)
    for session in store.sessions("ann"):
        try:
            store.delete("ann", session.id)
        except NoSession:
            continue
    results.put((rounds_made, faults))
    store.close()


@pytest.mark.slow
def test_four_processes_lose_no_picture(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    results_queue = context.Queue()
    work = [context.Process(target=_work, args=(tmp_path, seed, 10.0, results_queue)) for seed in range(4)]
    for process in work:
        process.start()
    results = [results_queue.get(timeout=120) for _ in work]
    for process in work:
        process.join()
    assert sum(count for count, _ in results) > 20 and all(not faults for _, faults in results), results
    assert check(tmp_path) == 0


def test_nothing_is_left_of_a_round_whose_session_was_deleted(stores: tuple[Store, Store]):
    one, two = stores
    name = one.create("ann").id
    two.delete("ann", name)
    with pytest.raises(NoSession):
        one.keep("ann", name, 0, picture_round(1, 2))
    assert check(one.folder) == 0


FULL = [
    ("rename", lambda store, name: store.rename("ann", name, "x" * 200_000)),
    ("create", lambda store, name: store.create("ann", "x" * 200_000)),
    ("keep", lambda store, name: store.keep("ann", name, 1, picture_round(7, words="x" * 200_000))),
]


@pytest.mark.parametrize(("what", "call"), FULL, ids=[what for what, _ in FULL])
def test_a_full_disk_changes_nothing(tmp_path: Path, what: str, call: Callable[[Store, str], Any]):
    """SQLite itself says that the disk is full: the file may not grow."""
    store = Store(tmp_path)
    name = store.create("ann", "before").id
    store.keep("ann", name, 0, picture_round(1))
    before = store.sessions("ann"), store.rounds("ann", name)
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(OutputError, match="full") as refused:
        call(store, name)
    assert str(tmp_path) not in str(refused.value)
    assert (store.sessions("ann"), store.rounds("ann", name)) == before
    assert check(tmp_path) == 1, "the picture of the round that could not be kept is gone"
    store._db.execute("PRAGMA max_page_count = 1000000")
    call(store, name)
    check(tmp_path)
    store.close()


def test_media_that_cannot_be_written_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = Store(tmp_path)
    name = store.create("ann").id
    honest, written = os.fsync, []

    def full(handle: int) -> None:
        written.append(handle)
        if len(written) > 1:
            raise OSError(28, "No space left on device")
        honest(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="No space left"):
            store.keep("ann", name, 0, picture_round(1, 2, 3))
    assert check(tmp_path) == 0 and store.session("ann", name).rounds == 0
    store.keep("ann", name, 0, picture_round(1, 2, 3))
    assert check(tmp_path) == 3
    store.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own needs root")
def test_a_disk_that_is_really_full(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    store = None
    try:
        store = Store(disk / "data")
        name, count, failed = store.create("ann").id, 0, 0
        for i in range(90):
            try:
                store.keep("ann", name, count, picture_round(i, side=100))
                count += 1
            except OutputError as error:
                failed += 1
                assert str(disk) in str(error) or "full" in str(error)
        assert count > 3 and failed > 3
        assert store.session("ann", name).rounds == count == len(store.rounds("ann", name))
        for value in store.rounds("ann", name):
            store.get(value["reply"][0]["file"])
        for remaining in range(count - 1, count // 2, -1):
            assert store.undo("ann", name) == remaining, "a change that frees space succeeds"
        store.sweep()
        store.keep("ann", name, remaining, picture_round(1, side=100))
        (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free))
        with pytest.raises(OutputError):
            store.keep("ann", name, remaining + 1, picture_round(2, side=100))
        store.delete("ann", name)
        assert store.sessions("ann") == [] and not files(disk / "data")
        with sqlite3.connect(disk / "data" / "codi2.db") as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        if store is not None:
            store.close()
        subprocess.run(["umount", "-l", disk], check=True)


def test_what_a_kill_leaves_is_swept_while_the_server_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    killed = Store(tmp_path)
    name = killed.create("ann").id
    killed.keep("ann", name, 0, picture_round(1))
    monkeypatch.setattr(killed.media, "drop", lambda names: None)  # killed between the rows and the files
    killed.undo("ann", name)
    monkeypatch.setattr(media_files, "CLAIM_SECONDS", -1.0)  # an old claim, of a round that was being made
    put(killed, b"half a round")
    half_written = tmp_path / "media" / "ab" / ".ab.png.x1.png"
    half_written.parent.mkdir(parents=True, exist_ok=True)
    half_written.write_bytes(b"half")
    killed.keep("ann", name, 0, picture_round(2))
    monkeypatch.setattr(media_files, "CLAIM_SECONDS", 600.0)
    assert len(files(tmp_path)) == 4
    os.utime(half_written, (time.time() - 4000,) * 2)
    other = Store(tmp_path)
    claimed = put(other, b"of a round that is being made")
    killed.keep_sweeping(0.05)
    deadline = time.monotonic() + 20
    while len(files(tmp_path)) > 2:
        assert time.monotonic() < deadline, files(tmp_path)
        time.sleep(0.05)
    assert claimed in files(tmp_path)
    other.media.release([claimed])
    assert check(tmp_path) == 1
    for store in (killed, other):
        store.close()


def test_words_that_were_taken_back_are_gone_from_the_files(stores: tuple[Store, Store]):
    one, two = stores
    name = one.create("ann", "ZZTITLEZZ").id
    for i in range(3):
        one.keep("ann", name, i, picture_round(i, words=f"ZZWORDS{i}ZZ"))
    two.load("ann", name)

    def occurrences(words: bytes) -> int:
        return sum(path.read_bytes().count(words) for path in one.folder.glob("codi2.db*"))

    assert occurrences(b"ZZWORDS2ZZ")
    one.undo("ann", name)
    assert not occurrences(b"ZZWORDS2ZZ") and occurrences(b"ZZWORDS1ZZ")
    two.keep("ann", name, 1, picture_round(5, words="ZZOTHERZZ"), count=2)
    assert not occurrences(b"ZZWORDS1ZZ") and occurrences(b"ZZOTHERZZ")
    two.delete("ann", name)
    assert not occurrences(b"ZZWORDS0ZZ") and not occurrences(b"ZZOTHERZZ") and not occurrences(b"ZZTITLEZZ")


def test_who_waits_too_long_for_another_process_is_told_to_come_back(tmp_path: Path):
    store = Store(tmp_path)
    store._db.execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(tmp_path / "codi2.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BusyError, match="another process"):
        store.create("ann")
    other.execute("COMMIT")
    assert store.create("ann").rounds == 0
    store.close()

"""The engine: the same shards however they are built; kills, full disks, duplicates and bad records lose nothing."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from codi2.data.build import Settings, build
from codi2.data.duplicates import find_duplicates
from codi2.data.record import Record
from codi2.data.sets import load_report
from codi2.data.shards import Shard, open_shards
from codi2.errors import ConfigError, DataError, OutputError
from codi2.folders import locked

from .builders import official

pytestmark = pytest.mark.usefixtures("quiet_ray")


@pytest.fixture
def quiet_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


def captions(folder: Path, count: int, size: tuple[int, int] = (96, 72)) -> Path:
    """`count` LAION pictures in tars of 250."""
    for start in range(0, count, 250):
        members: dict[str, bytes] = {}
        for i in range(start, min(start + 250, count)):
            members[f"{i:09d}.jpg"] = official.photo(i, size)
            members[f"{i:09d}.txt"] = f"a disc, number {i}".encode()
        official.tar(folder / f"{start // 250:05d}.tar", members)
    return folder


def shards(out: Path) -> dict[str, str]:
    """Name → hash of what a build has made."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((out / "shards").iterdir())}


def records(out: Path) -> list[Record]:
    return [record for shard in open_shards(out, load_report(out)) for record in shard]


def command(source: Path, out: Path, *options: str) -> list[str]:
    settings = ["--source", str(source), "--out", str(out)]
    return [sys.executable, "-m", "codi2", "data", "build", "laion", *settings, *options]


def test_any_number_of_workers_makes_the_same_shards(tmp_path: Path):
    source = captions(tmp_path / "laion", 600)
    reports = {}
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        reports[workers] = build(Settings("laion", str(source), str(out)), workers=workers)
    assert shards(tmp_path / "out1") == shards(tmp_path / "out2") and len(shards(tmp_path / "out1")) == 12
    assert reports[1]["records"] == 1200 and reports[1]["phases"] == {"image": 600, "text": 600}
    assert reports[1]["licences"] == {"unknown": 1200}


def test_shards_are_ordinary_webdatasets(tmp_path: Path):
    import webdataset

    out = tmp_path / "out"
    report = build(Settings("laion", str(captions(tmp_path / "laion", 20)), str(out)))
    paths = [str(out / shard["file"]) for shard in report["shards"]]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False))
    assert len(samples) == 40 and {"json", "0.jpg"} <= samples[0].keys()
    assert json.loads(samples[0]["json"])["source"] == "laion/00000-000000000"


def test_a_killed_build_goes_on_without_loss_or_duplicates(tmp_path: Path):
    source = captions(tmp_path / "laion", 1500)
    build(Settings("laion", str(source), str(tmp_path / "whole")))
    out = tmp_path / "cut"
    run = subprocess.Popen(command(source, out), stderr=subprocess.DEVNULL)
    _wait(lambda: len(list((out / "parts").glob("[0-9]*.json"))) >= 2)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    done = {path.name for path in (out / "parts").glob("[0-9]*.json")}
    assert 2 <= len(done) < 6
    with pytest.raises(DataError, match="is not finished: run its command again"):
        load_report(out)
    before = {path.name: path.stat().st_mtime_ns for path in (out / "parts").glob("[0-9]*.json")}
    subprocess.run(command(source, out), check=True, capture_output=True)
    after = {path.name: path.stat().st_mtime_ns for path in (out / "parts").glob("[0-9]*.json")}
    assert before.items() <= after.items()  # finished units are not made again
    assert shards(out) == shards(tmp_path / "whole")
    assert not list(out.rglob(".*"))  # nothing half-written is left


def _wait(met: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


@pytest.mark.slow
def test_kills_at_many_points(tmp_path: Path):
    source = captions(tmp_path / "laion", 4000)
    # duplicates over units, so that kills hit their removal as well
    (source / "00009.tar").write_bytes((source / "00000.tar").read_bytes())
    arguments = ["--max-bad", "0.2"]
    subprocess.run(command(source, tmp_path / "whole", *arguments), check=True, capture_output=True)
    out, draw, kills, late = tmp_path / "cut", np.random.default_rng(0), 0, 0

    def done() -> int:
        return len(list((out / "parts").glob("[0-9]*.json")))

    while True:
        before = done()
        run = subprocess.Popen(command(source, out, *arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if before < 16:  # a unit is gained, then the next is cut somewhere
            _wait(lambda run=run, before=before: done() > before or run.poll() is not None)
            time.sleep(draw.uniform(0, 0.1))
        elif late < 4:  # only duplicates and the report are left
            late += 1
            time.sleep(draw.uniform(0.2, 1.2))
        elif run.wait(60) == 0:
            break
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        kills += 1
    assert kills >= 8
    assert shards(out) == shards(tmp_path / "whole")
    assert load_report(out)["bad"] == {"duplicate": 250}


def test_a_full_disk_is_one_sentence_and_the_next_run_goes_on(tmp_path: Path):
    source = captions(tmp_path / "laion", 500, (160, 120))
    build(Settings("laion", str(source), str(tmp_path / "whole")))
    limit = (tmp_path / "whole" / "shards" / "image-000000.tar").stat().st_size // 2
    out = tmp_path / "out"

    def full() -> None:  # writes beyond the limit fail, as on a disk without room
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    run = subprocess.run(command(source, out), preexec_fn=full, capture_output=True, text=True)
    assert run.returncode == 2
    assert "codi2: cannot write" in run.stderr and "free some space or choose another folder" in run.stderr
    assert "Traceback" not in run.stderr and not list((out / "shards").glob("*.tar"))
    subprocess.run(command(source, out), check=True, capture_output=True)
    assert shards(out) == shards(tmp_path / "whole")


def test_duplicates_are_dropped_wherever_they_are(tmp_path: Path):
    source = captions(tmp_path / "laion", 500)
    official.tar(source / "00002.tar", {
        "a.jpg": official.photo(3), "a.txt": b"a disc, number 3",  # as 00000000003
        "b.jpg": official.photo(3), "b.txt": b"the same disc, in other words",
        "c.jpg": official.photo(3), "c.txt": b"a disc, number 3",
    })  # fmt: skip
    out = tmp_path / "out"
    report = build(Settings("laion", str(source), str(out)), workers=2)
    assert report["bad"] == {"duplicate": 2} and report["records"] == 2 * 501
    kept = [record.source for record in records(out) if record.source.startswith("laion/00002")]
    assert set(kept) == {"laion/00002-b"}
    again = build(Settings("laion", str(source), str(out)))
    assert again == report and len((out / "quarantine.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("at_once", [1_000, 7])
def test_duplicates_are_found_in_flat_memory(at_once: int, tmp_path: Path):
    draw = np.random.default_rng(0)
    files, first, expected = [], {}, {}
    for unit in range(5):
        prints = draw.integers(0, 40, 30).astype(np.uint64)
        for place, value in enumerate(prints.tolist()):
            if first.setdefault(value, (unit, place)) != (unit, place):
                expected.setdefault(unit, []).append(place)
        files.append(tmp_path / f"{unit}.npy")
        np.save(files[-1], np.stack([np.arange(30, dtype=np.uint64), prints], axis=1))
    assert find_duplicates(files, at_once) == expected


def test_a_build_with_too_many_bad_entries_fails_loudly(tmp_path: Path):
    source = captions(tmp_path / "laion", 40)
    bad = {f"{i}.{s}": data for i in range(4) for s, data in (("jpg", b"\xff\xd8 no picture"), ("txt", b"a disc"))}
    official.tar(source / "00001.tar", bad)
    settings = Settings("laion", str(source), str(tmp_path / "out"))
    message = r"4 of 44 entries are bad \(4 × undecodable\), more than the share of 0.05 that is allowed"
    with pytest.raises(DataError, match=message):
        build(settings)
    lines = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert {line["reason"] for line in lines} == {"undecodable"} and lines[0]["source"] == "laion/00001-0"
    assert build(settings, max_bad=0.2)["records"] == 80  # what was good is there; more is allowed, and it goes on


def test_a_long_build_stops_early_when_all_is_bad(tmp_path: Path):
    members = {f"{i:06d}.{s}": data for i in range(600) for s, data in (("jpg", b"no"), ("txt", b"a disc"))}
    for n in range(4):
        official.tar(tmp_path / "laion" / f"{n:05d}.tar", members)
    with pytest.raises(DataError, match="600 of 600 entries are bad"):
        build(Settings("laion", str(tmp_path / "laion"), str(tmp_path / "out")))
    assert len(list((tmp_path / "out" / "parts").glob("*.json"))) == 1


def test_nothing_at_all_is_said(tmp_path: Path):
    failed = {f"{i}.json": b'{"status": "failed_to_download"}' for i in range(3)}
    official.tar(tmp_path / "laion" / "00000.tar", failed)
    with pytest.raises(DataError, match=r"no record could be made of .*laion: no entries"):
        build(Settings("laion", str(tmp_path / "laion"), str(tmp_path / "out")))


def test_a_folder_belongs_to_one_build(tmp_path: Path):
    source = captions(tmp_path / "laion", 10)
    build(Settings("laion", str(source), str(tmp_path / "out")))
    with pytest.raises(DataError, match="holds a build with seed 0, not 1; choose another folder"):
        build(Settings("laion", str(source), str(tmp_path / "out"), seed=1))
    folder = tmp_path / "out"
    shutil.move(folder, tmp_path / "moved")
    assert build(Settings("laion", str(source), str(tmp_path / "moved")))["records"] == 20  # a folder may be moved
    shutil.move(tmp_path / "moved", folder)
    (tmp_path / "out" / "settings.json").write_text("{")
    with pytest.raises(DataError, match=r"settings.json is damaged .* delete"):
        build(Settings("laion", str(source), str(tmp_path / "out")))


def test_a_second_build_in_one_folder_is_refused(tmp_path: Path):
    source = captions(tmp_path / "laion", 10)
    with locked(tmp_path / "out", "a build"), pytest.raises(OutputError, match="is in use by a build"):
        build(Settings("laion", str(source), str(tmp_path / "out")))
    assert build(Settings("laion", str(source), str(tmp_path / "out")))["records"] == 20


def test_options_are_checked_before_the_work(tmp_path: Path):
    source = official.alpaca(tmp_path)
    with pytest.raises(ConfigError, match="alpaca has no option 'share'; it has rate"):
        build(Settings("alpaca", str(source), str(tmp_path / "out"), options={"share": 0.5}))
    with pytest.raises(ConfigError, match=r"option rate of alpaca is 'half'; it should be like 0.3"):
        build(Settings("alpaca", str(source), str(tmp_path / "out"), options={"rate": "half"}))


def test_a_damaged_shard_is_named(tmp_path: Path):
    out = tmp_path / "out"
    build(Settings("laion", str(captions(tmp_path / "laion", 30)), str(out)))
    path = out / "shards" / "image-000000.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"image-000000.tar is cut off: it has .* bytes, by its index .*; delete it"):
        Shard(path)
    path.write_bytes(whole.replace(b'"schema": 2', b'"schema": 7', 1))
    with pytest.raises(DataError, match="is of schema 7, expected 2: build its set again"):
        _ = Shard(path)[0]
    path.with_suffix(".npy").unlink()
    with pytest.raises(DataError, match=r"there is no .*image-000000.npy"):
        Shard(path)


def test_a_unit_or_two_to_look_at(tmp_path: Path):
    settings = Settings("laion", str(captions(tmp_path / "laion", 600)), str(tmp_path / "out"))
    assert build(settings, units=1)["records"] == 500
    assert build(settings)["records"] == 1200


MEASURE = """
import resource, sys
from codi2.data.build import Settings, build
build(Settings("laion", sys.argv[1], sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_is_flat(tmp_path: Path):
    peaks = {}
    for count in (1_000, 10_000):
        source = captions(tmp_path / f"laion{count}", count)
        arguments = [sys.executable, "-c", MEASURE, str(source), str(tmp_path / f"out{count}")]
        run = subprocess.run(arguments, capture_output=True, text=True, check=True)
        peaks[count] = int(run.stdout.split()[-1])
    assert peaks[10_000] <= 1.2 * peaks[1_000], peaks


@pytest.mark.slow
def test_ray_makes_the_same_shards_though_a_worker_is_killed(tmp_path: Path):
    """A real local cluster of two workers; one is killed with SIGKILL in the middle of a unit."""
    source = captions(tmp_path / "laion", 12_000)
    build(Settings("laion", str(source), str(tmp_path / "alone")), workers=2)
    out = tmp_path / "ray"
    run = subprocess.Popen(
        command(source, out, "--ray", "local", "--workers", "2"),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    _wait(lambda: len(list((out / "parts").glob("[0-9]*.json"))) >= 3)
    _wait(lambda: bool(_busy()))
    os.kill(_busy()[0], signal.SIGKILL)
    assert len(list((out / "parts").glob("[0-9]*.json"))) < 48
    output, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    assert "24,000 records of 12,000 entries" in output
    assert shards(out) == shards(tmp_path / "alone")


def _busy() -> list[int]:
    """Ray's worker processes that have a task: their titles say so."""
    found = subprocess.run(["pgrep", "-f", r"ray::.*Map\(one\)"], capture_output=True, text=True).stdout
    return [int(number) for number in found.split()]


@pytest.mark.slow
def test_errors_on_ray_are_one_sentence(tmp_path: Path):
    source = captions(tmp_path / "laion", 500)
    out = tmp_path / "out"
    build(Settings("laion", str(source), str(out)), units=1)
    (source / "00001.tar").unlink()  # it was planned, and is gone
    run = subprocess.run(
        command(source, out, "--ray", "local", "--workers", "2"), capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 2 and "00001.tar cannot be read: No such file" in run.stderr
    assert "Traceback" not in run.stderr
    run = subprocess.run(command(source, out, "--ray", "127.0.0.1:1"), capture_output=True, text=True, timeout=300)
    assert run.returncode == 2 and "there is no Ray cluster at '127.0.0.1:1'" in run.stderr


def test_raw_files_and_data_sets_are_not_taken_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The docs' own download makes `laion/`, and a config's `laion` means the set of this name."""
    from codi2.data.find import find_set

    monkeypatch.setenv("CODI2_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    raw, made = captions(tmp_path / "laion", 3), tmp_path / "home" / "data" / "laion"
    with pytest.raises(
        DataError, match=r"the folder is not a data set but a folder of raw files, 00000.tar among them: run"
    ):
        load_report(find_set("laion"))
    build(Settings("laion", str(raw), str(made)))
    assert find_set("laion") == made and load_report(find_set("laion"))["records"] == 6
    for source in (made, made / "shards"):
        with pytest.raises(DataError, match=r"is a data set built by `codi2 data build`, not the raw files"):
            build(Settings("laion", str(source), str(tmp_path / "again")))
    for out in (raw, captions(tmp_path / "other", 1)):
        with pytest.raises(DataError, match=r"is a folder of raw files, 00000.tar among them; choose another folder"):
            build(Settings("laion", str(raw), str(out)))
    assert not (tmp_path / "again").exists() and {p.name for p in raw.iterdir()} == {"00000.tar"}

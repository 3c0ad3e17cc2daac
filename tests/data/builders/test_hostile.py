"""Sources that name what is not theirs, or hold what breaks readers: they are quarantined, and the build ends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codi2.data.build import Settings, build
from codi2.data.sets import load_report
from codi2.data.shards import open_shards
from codi2.errors import CoDi2Error

from . import official

GOOD = {"prompt": "A question?", "answer": "An answer."}


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A folder of somebody else."""
    folder = tmp_path / "somebody"
    official.put(folder / "passport.png", official.photo(40, kind="PNG"))
    official.put(folder / "passport.jpg", official.photo(40))
    official.put(folder / "passport.wav", official.tone(440))
    official.put(folder / "passport.txt", "a passport")
    official.put(folder / "clip.mp4", official.clip(3))
    return folder


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    official.put(folder / "cat.png", official.photo(0, kind="PNG"))
    return folder


def made(builder: str, source: Path, out: Path, **options: Any) -> dict[str, Any]:
    """The report of a build of which everything may be bad."""
    return build(Settings(builder, str(source), str(out), options=options), max_bad=1)


def reasons(report: dict[str, Any]) -> dict[str, int]:
    return report["bad"] | report["left_out"]


NAMES = ["../somebody/passport.png", "{secret}/passport.png", "below/../../somebody/passport.png",
         "link.png", "folder/passport.png", "file:///{secret}/passport.png"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_list_opens_nothing_outside_its_folder(name: str, mine: Path, secret: Path, tmp_path: Path):
    (mine / "link.png").symlink_to(secret / "passport.png")
    (mine / "folder").symlink_to(secret)
    name = name.format(secret=secret)
    lines = [
        {"file_name": name, "text": "a cat"},
        {"file_name": name, "sidecar": True},
        {"source": name, "instruction": "Make it night.", "target": "cat.png"},
        {"prompt": "[image0]?", "answer": "A cat.", "media": {"image0": name}},
        GOOD,
    ]
    official.put(mine / "list.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    report = made("jsonl", mine / "list.jsonl", tmp_path / "out")
    assert reasons(report) == {"outside the folder": 4} and report["records"] == 1
    official.put(mine / "metadata.csv", f'file_name,text\n"{name}",a cat\ncat.png,a cat\n')
    assert reasons(made("folder", mine, tmp_path / "out2")) == {"outside the folder": 1}


def test_captions_beside_files_are_not_followed_out(mine: Path, secret: Path, tmp_path: Path):
    (mine / "cat.txt").symlink_to(secret / "passport.txt")
    (mine / "link.png").symlink_to(secret / "passport.png")
    official.put(mine / "link.txt", "a link")
    official.put(mine / "dog.png", official.photo(1, kind="PNG"))
    official.put(mine / "dog.txt", "a dog")
    report = made("folder", mine, tmp_path / "out")
    assert reasons(report) == {"outside the folder": 2} and report["records"] == 2


def test_a_list_that_is_a_link_out_is_refused(mine: Path, secret: Path, tmp_path: Path):
    official.put(secret / "list.jsonl", json.dumps(GOOD))
    (mine / "metadata.jsonl").symlink_to(secret / "list.jsonl")
    with pytest.raises(CoDi2Error, match="is a link that leads out"):
        made("folder", mine, tmp_path / "out")


def webvid(folder: Path, secret: Path) -> None:
    rows = [f"clip,u,PT1S,{secret},a private clip", "clip,u,PT1S,../somebody,a private clip",
            "../../somebody/clip,u,PT1S,000,a private clip", f"{secret}/clip,u,PT1S,000,a private clip"]  # fmt: skip
    with open(next(folder.glob("*.csv")), "a") as file:
        file.write("".join(row + "\n" for row in rows))


def audioset(folder: Path, secret: Path) -> None:
    with open(next(folder.glob("*segments.csv")), "a") as file:
        for name in ("../../somebody/passport", f"{secret}/passport"):
            file.write(f'{name}, 0.000, 10.000, "/m/0bt9lr"\n')


def pix2pix(folder: Path, secret: Path) -> None:
    seeds = json.loads((folder / "seeds.json").read_text())
    for k in (0, 1):
        (secret / f"1_{k}.jpg").write_bytes(official.photo(k))
    official.put(secret / "prompt.json", {"edit": "make it night", "input": "a", "output": "b"})
    (folder / "linked").symlink_to(secret)
    official.put(folder / "seeds.json", [*seeds, ["../somebody", [1]], [str(secret), [1]], ["linked", [1]]])


def open_images(folder: Path, secret: Path) -> None:
    with open(next(folder.glob("*.jsonl")), "a") as file:
        for name in ("../somebody/passport", str(secret / "passport")):
            file.write(json.dumps({"image_id": name, "caption": "A cat on a couch."}) + "\n")


def laion(folder: Path, secret: Path) -> None:
    (folder / "00000" / "zz.jpg").symlink_to(secret / "passport.jpg")
    official.put(folder / "00000" / "zz.txt", "a passport")


OTHERS: dict[str, tuple[Callable[[Path], Path], Callable[[Path, Path], None], int]] = {
    "webvid": (official.webvid, webvid, 4),
    "audioset": (official.audioset, audioset, 2),
    "instruct-pix2pix": (official.instruct_pix2pix, pix2pix, 3),
    "instruct-pix2pix-in-context": (official.instruct_pix2pix, pix2pix, 3),
    "open-images": (official.open_images, open_images, 2),
    "laion": (official.laion_files, laion, 1),
}


@pytest.mark.parametrize("builder", OTHERS)
def test_no_builder_reads_outside_its_source(builder: str, secret: Path, tmp_path: Path):
    make, spoil, count = OTHERS[builder]
    source = make(tmp_path / "source")
    before = made(builder, source, tmp_path / "before")
    spoil(source, secret)
    after = made(builder, source, tmp_path / "after")
    assert after["bad"].pop("outside the folder") == count
    assert after["bad"] == before["bad"] and after["records"] == before["records"]


LINES: dict[str, tuple[str, str]] = {
    "half a character": ('{"turns": [["user", "\\ud800"], ["assistant", "b"]]}', "malformed"),
    "a task of half a character": ('{"prompt": "a", "answer": "b", "task": "\\ud800"}', "malformed"),
    "a task without end": (json.dumps(GOOD | {"task": "t" * 10_000}), "malformed"),
    "a licence of two lines": (json.dumps(GOOD | {"licence": "a\nb"}), "malformed"),
    "JSON without end": ('{"a":' * 5_000, "malformed"),
    "a number without end": ('{"a": ' + "1" * 10_000 + "}", "malformed"),
    "a name without end": (json.dumps({"file_name": "a" * 5_000 + ".png", "text": "x"}), "bad name"),
    "a zero byte in a name": ('{"file_name": "a\\u0000.png", "text": "x"}', "bad name"),
    "half a character in a name": ('{"file_name": "\\udcff.png", "text": "x"}', "absent"),
    "a folder": ('{"file_name": "below.png", "text": "x"}', "no plain file"),
    "a file as a folder": ('{"file_name": "cat.png/cat.png", "text": "x"}', "absent"),
    "a pipe": ('{"file_name": "pipe.png", "text": "x"}', "no plain file"),
    "a socket": ('{"file_name": "socket.png", "text": "x"}', "no plain file"),
    "a device": ('{"file_name": "zero.png", "text": "x"}', "outside the folder"),
    "a hole of a terabyte": ('{"file_name": "hole.png", "text": "x"}', "absurd size"),
    "a GIF that grows": ('{"file_name": "grows.gif", "text": "x"}', "undecodable failed"),
    "an object as media": ('{"prompt": "a [text0]", "answer": "b", "media": {"text0": {}}}', "malformed failed"),
    "words without end": (json.dumps({"prompt": "word " * 300_000, "answer": "b"}), "absurd size"),
    "no text": ("\udcff\udcfa", "no text"),
}


@pytest.mark.parametrize("case", LINES)
def test_a_hostile_line_is_quarantined_with_its_reason(case: str, mine: Path, tmp_path: Path):
    (mine / "below.png").mkdir()
    os.mkfifo(mine / "pipe.png")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(mine / "socket.png"))
    (mine / "zero.png").symlink_to("/dev/zero")
    (mine / "grows.gif").write_bytes(official.growing_gif())
    with open(mine / "hole.png", "wb") as file:
        file.truncate(1 << 40)
    line, reason = LINES[case]
    content = f"{line}\n{json.dumps(GOOD)}\n".encode("utf-8", "surrogateescape")
    official.put(mine / "list.jsonl", content)
    report = made("jsonl", mine / "list.jsonl", tmp_path / "out")
    server.close()
    (found,) = reasons(report)
    assert found in reason and report["records"] == 1
    note = json.loads((tmp_path / "out" / "quarantine.jsonl").read_text(encoding="utf-8"))
    assert note["reason"] == found and len(note["detail"]) <= 500


def test_a_line_of_a_hole_is_quarantined(mine: Path, tmp_path: Path):
    with open(mine / "list.jsonl", "wb") as file:
        file.truncate(100 << 20)
        file.seek(0, os.SEEK_END)
        file.write(f"\n{json.dumps(GOOD)}\n".encode())
    report = made("jsonl", mine / "list.jsonl", tmp_path / "out")
    assert reasons(report) == {"absurd size": 1} and report["records"] == 1


def test_an_open_quote_is_no_shorter_table(mine: Path, tmp_path: Path):
    official.put(mine / "metadata.csv", 'file_name,text\ncat.png,a cat\ncat.png,"a cat\ncat.png,another cat\n')
    report = made("folder", mine, tmp_path / "out")
    assert reasons(report) == {"malformed": 1} and report["records"] == 2


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_list_that_is_no_file_is_refused(name: str, kind: str, mine: Path, tmp_path: Path):
    if kind == "pipe":
        os.mkfifo(mine / name)
    elif kind == "folder":
        (mine / name).mkdir()
    else:
        (mine / name).symlink_to("/dev/zero")
    with pytest.raises(CoDi2Error):
        made("folder", mine, tmp_path / "out")


PHOTOS = [official.photo(0), official.photo(1)]
CELLS: dict[str, tuple[dict[str, Any], str]] = {
    "numbers": ({"jpg": [1, 2]}, "malformed"),
    "strings": ({"jpg": ["x", "y"]}, "malformed"),
    "lists": ({"jpg": [[b"x"], [b"y"]]}, "malformed"),
    "objects": ({"jpg": [{"bytes": 5}, {"path": "/etc/passwd"}]}, "malformed"),
    "captions that are numbers": ({"jpg": PHOTOS, "caption": [1.5, 2.5]}, "no caption"),
    "captions that are lists": ({"jpg": PHOTOS, "caption": [["a"], ["b"]]}, "no caption"),
    "JSON that is a number": ({"jpg": PHOTOS, "json": [5, 6]}, "malformed"),
    "JSON that is no text": ({"jpg": PHOTOS, "json": [b"\xff", b"\xff"]}, "malformed"),
}  # fmt: skip


@pytest.mark.parametrize("case", CELLS)
def test_a_cell_of_another_kind_is_quarantined(case: str, tmp_path: Path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    cells, reason = CELLS[case]
    folder = tmp_path / "laion"
    folder.mkdir()
    parquet.write_table(pyarrow.table({"caption": ["a", "b"]} | cells), folder / "00000.parquet")
    good = {"jpg": [official.photo(3)], "caption": ["a disc"], "url": [float("nan")], "key": ["../../x"]}
    parquet.write_table(pyarrow.table(good), folder / "00001.parquet")
    report = made("laion", folder, tmp_path / "out")
    assert reasons(report) == {reason: 2} and report["records"] == 2


def test_a_row_that_cannot_be_read_costs_no_other(tmp_path: Path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "laion"
    folder.mkdir()
    captions = pyarrow.array([b"a disc"] * 4 + [b"\xff\xfe"] + [b"a disc"] * 5).view(pyarrow.string())
    table = pyarrow.table({"jpg": [official.photo(n) for n in range(10)], "caption": captions})
    parquet.write_table(table, folder / "00000.parquet")
    report = made("laion", folder, tmp_path / "out")
    assert reasons(report) == {"broken table": 1} and report["records"] == 18


def test_a_damaged_group_of_rows_is_reported(tmp_path: Path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "laion"
    folder.mkdir()
    table = pyarrow.table({"jpg": [official.photo(n) for n in range(30)], "caption": [f"disc {n}" for n in range(30)]})
    parquet.write_table(table, folder / "00000.parquet", row_group_size=10, compression="zstd")
    path = folder / "00000.parquet"
    column = parquet.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + 200] = b"\xff" * 200
    path.write_bytes(bytes(data))
    report = made("laion", folder, tmp_path / "out")
    assert reasons(report) == {"broken table": 1} and report["records"] == 40


@pytest.mark.slow
def test_cells_that_do_not_fit_into_memory_together_are_read_one_by_one(tmp_path: Path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "laion"
    folder.mkdir()
    cells = [b"\0" * (60 << 20)] * 33 + [official.photo(0)]
    parquet.write_table(
        pyarrow.table({"jpg": cells, "caption": ["a"] * 34}), folder / "00000.parquet", compression="zstd"
    )
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "from codi2.data.build import Settings, build\n"
        "build(Settings('laion', sys.argv[1], sys.argv[2]), max_bad=1)"
    )
    out = tmp_path / "out"
    subprocess.run([sys.executable, "-c", limited, str(folder), str(out)], check=True, timeout=300)
    assert load_report(out)["records"] == 2 and load_report(out)["bad"]["undecodable"] >= 1
    assert sum(1 for shard in open_shards(out, load_report(out)) for _ in shard) == 2

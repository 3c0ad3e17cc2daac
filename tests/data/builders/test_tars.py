"""Damaged and hostile tars: what is wrong is reported, and none is read as a shorter one."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from codi2.data.build import Settings, build
from codi2.data.builders.contract import BadRecord
from codi2.data.builders.laion import Sample, _tar_samples

from . import official

BLOCK = tarfile.BLOCKSIZE


def write(path: Path, *entries: tuple[tarfile.TarInfo, bytes], kind: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as archive:
        for info, data in entries:
            info.size = info.size or len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def entry(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, data


def pair(stem: str, n: int = 0) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [entry(f"{stem}.jpg", official.photo(n)), entry(f"{stem}.txt", f"a disc, number {n}".encode())]


def read(path: Path) -> list[Sample | BadRecord]:
    return list(_tar_samples(path))


def reported(samples: list[Sample | BadRecord]) -> bool:
    return any(isinstance(sample, BadRecord) for sample in samples)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """20 samples as img2dataset writes them, one of them with a name that needs a header of its own."""
    names = [*(f"{n:09d}" for n in range(19)), "x" * 120]
    return write(tmp_path / "00000.tar", *(one for n, name in enumerate(names) for one in pair(name, n)))


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_all_writers_are_read(kind: int, tmp_path: Path):
    long = "" if kind == tarfile.USTAR_FORMAT else "ü" * 150
    path = write(tmp_path / "0.tar", entry("folder/", kind=tarfile.DIRTYPE), *pair(f"folder/a{long}"), kind=kind)
    assert [set(sample[1]) for sample in read(path) if not isinstance(sample, BadRecord)] == [{"jpg", "txt"}]
    assert read(path)[0][0] == f"0-a{long}"  # type: ignore[index]


def test_every_flip_in_a_header_is_reported(whole: Path):
    data, good, draw = whole.read_bytes(), read(whole), np.random.default_rng(0)
    with tarfile.open(whole) as archive:
        heads = [member.offset for member in archive]
    assert len(good) == 20 and not reported(good)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[int(draw.choice(heads)) + int(draw.integers(BLOCK))] ^= 1 << int(draw.integers(8))
        whole.write_bytes(bytes(damaged))
        assert reported(read(whole))


def test_every_cut_is_reported(whole: Path):
    data, draw = whole.read_bytes(), np.random.default_rng(0)
    with tarfile.open(whole) as archive:
        end = max(member.offset_data + -(-member.size // BLOCK) * BLOCK for member in archive)
    for n in {
        0,
        1,
        BLOCK,
        end,
        end + BLOCK,
        *(BLOCK * draw.integers(end // BLOCK, size=150)),
        *draw.integers(end, size=150),
    }:
        whole.write_bytes(data[: int(n)])
        assert reported(read(whole)), n
    for more in (data, b"x", bytes(20 << 20)):  # a second archive, something, far too much of nothing
        whole.write_bytes(data + more)
        assert reported(read(whole))
    whole.write_bytes(data[:end] + bytes(BLOCK) + data[end - 2 * BLOCK :])
    assert reported(read(whole))


def claims(path: Path, size: int, name: str = "big.jpg", kind: bytes = tarfile.REGTYPE) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"x" * 4096 + bytes(2 * BLOCK))


def pax(path: Path, records: bytes) -> None:
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    rest = write(path, *pair("a")).read_bytes()
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + records + bytes(-len(records) % BLOCK) + rest)


BROKEN: dict[str, Callable[[Path], object]] = {
    "no tar": lambda path: path.write_bytes(b"not a tar" * 200),
    "empty": lambda path: path.write_bytes(b""),
    "zipped": lambda path: path.write_bytes(gzip.compress(write(path, *pair("a")).read_bytes())),
    "a terabyte": lambda path: claims(path, 1 << 40),
    "less than nothing": lambda path: claims(path, -5),
    "back to itself": lambda path: claims(path, -BLOCK),
    "a name of a terabyte": lambda path: claims(path, 1 << 40, kind=tarfile.GNUTYPE_LONGNAME),
    "headers of a terabyte": lambda path: claims(path, 1 << 40, kind=tarfile.XHDTYPE),
    "headers without length": lambda path: pax(path, b"path=x\n"),
    "headers of length 0": lambda path: pax(path, b"0 path=x\n"),
    "headers that give a size": lambda path: pax(path, b"20 size=99999999999\n"),
    "headers that go on": lambda path: pax(path, b"999 path=x\n"),
    "names alone": lambda path: write(path, *[entry("x", b"name\0", tarfile.GNUTYPE_LONGNAME)] * 5_000),
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link out": lambda path: path.symlink_to(write(path.parent.parent / "0.tar", *pair("a"))),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_tar_is_one_bad_entry(case: str, tmp_path: Path):
    folder = tmp_path / "laion"
    official.tar(folder / "00001.tar", {"b.jpg": official.photo(1), "b.txt": b"a disc"})
    BROKEN[case](folder / "00000.tar")
    report = build(Settings("laion", str(folder), str(tmp_path / "out")), max_bad=1)
    assert report["bad"] == {"broken archive": 1} and report["records"] >= 2


LINK = "no plain file"
MEMBERS: dict[str, tuple[list[tuple[tarfile.TarInfo, bytes]], str]] = {
    "a symbolic link": ([entry("z.jpg", kind=tarfile.SYMTYPE, link="/etc/passwd"), entry("z.txt", b"z")], LINK),
    "a hard link": ([entry("z.jpg", kind=tarfile.LNKTYPE, link="/etc/passwd"), entry("z.txt", b"z")], LINK),
    "a device": ([entry("z.jpg", kind=tarfile.CHRTYPE), entry("z.txt", b"z")], LINK),
    "a block device": ([entry("z.txt", b"z"), entry("z.jpg", kind=tarfile.BLKTYPE)], "no plain file"),
    "a pipe": ([entry("z.jpg", kind=tarfile.FIFOTYPE), entry("z.txt", b"z")], LINK),
    "an unknown kind": ([entry("z.jpg", b"12", kind=b"Q"), entry("z.txt", b"z")], LINK),
    "a name that leads up": (pair("../../z"), "bad name"),
    "an absolute name": (pair("/tmp/z"), "bad name"),
    "a name that is not UTF-8": (pair("\udcff\udcfe"), "bad name"),
    "a caption that is no text": ([entry("z.jpg", official.photo(9)), entry("z.txt", b"\xff\xfa\x81")], "no text"),
    "a caption of another system": ([entry("z.jpg", official.photo(9)), entry("z.txt", b"caf\xe9")], ""),
    "what a system adds": ([entry("__MACOSX/._a.jpg", b"Mac"), entry("._z.jpg", b"Mac"), *pair("z")], ""),
    "half a character in JSON": ([*pair("z"), entry("z.json", b'{"url": "\\ud800"}')], "malformed"),
    "JSON without end": ([*pair("z"), entry("z.json", b"[" * 100_000)], "malformed"),
    "JSON that is no object": ([*pair("z"), entry("z.json", b"[]")], ""),
    "a caption of a megabyte": ([entry("z.jpg", official.photo(9)), entry("z.txt", b"z" * 10**6)], "absurd size"),
    "a GIF that grows": ([entry("z.png", official.growing_gif()), entry("z.txt", b"z")], "undecodable failed"),
}  # fmt: skip


@pytest.mark.parametrize("case", MEMBERS)
@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_hostile_member_is_quarantined_with_its_reason(case: str, kind: int, tmp_path: Path):
    entries, reason = MEMBERS[case]
    folder = tmp_path / "laion"
    folder.mkdir()
    write(folder / "00000.tar", *pair("a", 1), *entries, *pair("b", 2), kind=kind)
    report = build(Settings("laion", str(folder), str(tmp_path / "out")), max_bad=1)
    assert len(report["bad"]) == bool(reason) and all(bad in reason for bad in report["bad"])
    assert report["records"] == (4 if reason else 6) and not report["left_out"]
    quarantine = (tmp_path / "out" / "quarantine.jsonl").read_text(encoding="utf-8")
    assert len(quarantine.splitlines()) == bool(reason)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["laion", "out"]


def test_a_zero_byte_in_a_name_is_quarantined(tmp_path: Path):
    path = write(tmp_path / "00000.tar", *pair("aQb"), *pair("c", 1))
    data = bytearray(path.read_bytes())
    for at in (0, data.index(b"aQb.txt")):
        data[at + 1] = 0
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + BLOCK])
    path.write_bytes(bytes(data))
    bad, good = read(path)
    assert isinstance(bad, BadRecord) and bad.reason == "bad name" and not isinstance(good, BadRecord)

"""Names in files from elsewhere: one function decides what they may open."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from codi2.untrusted import OutsideError, is_file, open_inside, parse_json, read_inside


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    (folder / "below").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "below" / "b.txt").write_text("b")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "c.txt").write_text("secret")
    return folder


@pytest.mark.parametrize("name", ["a.txt", "./a.txt", "below/b.txt", "below//b.txt"])
def test_names_inside_are_opened(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    assert read_inside(folder, name) in (b"a", b"b") and is_file(folder, name)
    assert read_inside(folder, folder / name) in (b"a", b"b")
    monkeypatch.chdir(folder)
    assert read_inside(Path("."), name) in (b"a", b"b")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../secret.txt", "outside the folder"),
        ("below/../../secret.txt", "outside the folder"),
        ("below/../a.txt", "outside the folder"),
        ("/etc/passwd", "outside the folder"),
        ("//etc/passwd", "outside the folder"),
        ("file:///etc/passwd", "outside the folder"),
        ("http://127.0.0.1/x", "outside the folder"),
        ("", "bad name"),
        ("a\0.txt", "bad name"),
        ("a" * 5_000, "bad name"),
        (".", "no plain file"),
        ("below", "no plain file"),
    ],
)
def test_names_that_lead_out_are_refused(name: str, reason: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    for root in (folder, Path(".")):
        monkeypatch.chdir(folder)
        with pytest.raises(OutsideError) as error:
            open_inside(root, name)
        assert error.value.reason == reason and "\n" not in str(error.value) and len(str(error.value)) < 500
        assert not is_file(root, name)


def test_links_are_followed_inside_only(folder: Path):
    (folder / "near").symlink_to("below/b.txt")
    (folder / "far").symlink_to("../secret.txt")
    (folder / "absolute").symlink_to(folder.parent / "secret.txt")
    (folder / "others").symlink_to("../secrets")
    (folder / "round").symlink_to("round")
    (folder / "chain").symlink_to("far")
    assert read_inside(folder, "near") == b"b"
    with pytest.raises(OutsideError, match="is a link; put the file itself there"):
        read_inside(folder, "near", links=False)
    for name in ("far", "absolute", "others/c.txt", "chain"):
        with pytest.raises(OutsideError, match="leads out"):
            read_inside(folder, name)
    with pytest.raises(OutsideError):
        read_inside(folder, "round")
    (folder.parent / "alias").symlink_to(folder)  # the folder itself may be named by a link
    assert read_inside(folder.parent / "alias", "a.txt") == b"a"


def test_only_plain_files_of_a_bounded_size(folder: Path):
    os.mkfifo(folder / "pipe.png")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / "socket.png"))
    with open(folder / "hole.png", "wb") as file:
        file.truncate(1 << 40)
    for name in ("pipe.png", "socket.png"):
        with pytest.raises(OutsideError, match="is no plain file"):
            read_inside(folder, name)
    with pytest.raises(OutsideError, match="has 1,099,511,627,776 bytes, at most"):
        read_inside(folder, "hole.png")
    with pytest.raises(FileNotFoundError):
        read_inside(folder, "nothing.png")
    server.close()


def test_json_without_end_is_damage():
    for text in ("[" * 100_000, '{"a":' * 100_000, b"[" * 5_000 + b"]" * 5_000, b"\xff", "{"):
        with pytest.raises(ValueError):
            parse_json(text)
    assert parse_json(b'{"a": [1]}') == {"a": [1]}

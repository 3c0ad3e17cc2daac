"""`codi2 chat`: a conversation in the terminal."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codi2.cli.output import (
    ForceOption,
    ModelOption,
    OutOption,
    SeedOption,
    TokensOption,
    check_model,
    check_writable,
    follow,
    progress,
    save_reply,
    show_notes,
    starting,
)
from codi2.cli.placement import placed
from codi2.errors import CoDi2Error, PromptError
from codi2.placement import ON_CPU, Placement
from codi2.prompt.sources import check_name

if TYPE_CHECKING:
    from codi2.chat import Chat
    from codi2.prompt.parts import Media

HELP = """\
Write a message. @cat.png attaches a file (Tab completes); [image0], "the last sound", "it" refer to an earlier item.
Media of replies are saved and listed with their names.
  /want text image   modalities of the next replies: text, image, audio, video, or auto    /seed 3   another seed
  /source image0     the item that the next replies edit: an item, last or none
  /undo         remove the last round                                     /retry    the last message, another seed
  /save DIR     write the conversation, with a page that plays it         /open DIR continue a saved conversation
  /items        list the items                                            /quit     leave"""
ATTACHED = re.compile(r"""(?<!\S)@(?:"(?P<quoted>[^"]+)"|(?P<plain>\S+))""")


@placed
def chat(
    out: OutOption = Path("out/chat"),
    seed: SeedOption = 0,
    max_tokens: TokensOption = 128,
    force: ForceOption = False,
    saved: Annotated[
        Path | None, typer.Option("--open", help="A saved conversation to continue.", metavar="DIR")
    ] = None,
    model: ModelOption = "tiny",
    placement: Placement = ON_CPU,
) -> None:
    """Talk with pictures and sounds, over several rounds.

    A line is a message; @photo.png or @"my sound.wav" in it is a file. /help lists the commands.
    """
    check_writable(out)

    check_model(model)
    typer.echo(f"Loading the model {model}.", err=True)
    with starting():
        from codi2.chat import Chat
        from codi2.model import CoDi2

        loaded = CoDi2.from_pretrained(model, on_demand=True, **vars(placement))
        conversation = Chat.open(loaded, saved) if saved else Chat(loaded)
    Terminal(loaded, conversation, out, seed, max_tokens, force).run()


class Terminal:
    """Reads lines, writes replies."""

    def __init__(self, model: Any, chat: Chat, out: Path, seed: int, max_tokens: int, force: bool) -> None:
        self.model, self.chat, self.out, self.force = model, chat, out, force
        self.settings: dict[str, Any] = {"seed": seed, "max_new_tokens": max_tokens}

    def run(self) -> None:
        _complete_files()
        typer.echo("/help lists the commands, /quit leaves.", err=True)
        while True:
            try:
                line = input("> ").strip()
            except EOFError:
                return
            if line in ("/quit", "/exit"):
                return
            try:
                if line.startswith("/"):
                    self.command(line)
                elif line:
                    self.send(line)
            except CoDi2Error as error:
                typer.echo(f"codi2: {error}", err=True)
            except KeyboardInterrupt:
                typer.echo("stopped; the round is not kept", err=True)

    def command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        match name:
            case "/help":
                typer.echo(HELP)
            case "/items":
                for item, part in self.chat.media.items():
                    typer.echo(f"[{item}] {part.name}".rstrip())
            case "/want":
                kinds = ("text", *self.model.decoders)
                want = rest.replace(",", " ").split()
                if rest != "auto" and (not want or set(want) - set(kinds)):
                    raise PromptError(f"/want takes {', '.join(kinds)}, several of them, or auto, not {rest!r}")
                self.settings["want"] = None if rest == "auto" else tuple(want)
            case "/seed":
                if not re.fullmatch(r"[0-9]{1,18}", rest):
                    raise PromptError(f"/seed takes a whole number of at most 18 digits, not {rest[:40]!r}")
                self.settings["seed"] = int(rest)
            case "/source":
                check_name(rest)
                self.settings["source"] = rest
            case "/undo":
                self.chat.undo()
                typer.echo(f"{len(self.chat.rounds)} rounds are left", err=True)
            case "/retry":
                self.settings["seed"] += 1
                with progress() as bar:
                    reply = self.chat.retry(bar, **self.settings)
                self.show(reply, text_shown=False)
            case "/save" if rest:
                typer.echo(f"saved in {self.chat.save(rest) / 'index.html'}")
            case "/open" if rest:
                from codi2.chat import Chat

                self.chat = Chat.open(self.model, rest)
                typer.echo(f"{len(self.chat.rounds)} rounds; the next message continues them", err=True)
            case _:
                raise PromptError(f"there is no command {line!r}; /help lists them")

    def send(self, line: str) -> None:
        template, media = attach(line, self.chat.media)
        with progress() as bar, closing(self.chat.stream(template, **media, **self.settings)) as events:
            reply = follow(events, bar)
        self.show(reply)

    def show(self, reply: Any, text_shown: bool = True) -> None:
        """Saves a reply and lists its media; prints its text, unless it was shown while it was written."""
        names = {id(part): name for name, part in self.chat.media.items()}
        listed = save_reply(reply, self.out, stem=f"round-{len(self.chat.rounds)}", force=self.force)
        for part, entry in zip(reply.parts, listed, strict=True):
            if entry["type"] != "text":
                typer.echo(f"[{names[id(part)]}] {entry['path']}")
            elif not text_shown:
                typer.echo(entry["text"].strip())
        show_notes(reply.notes)


def attach(line: str, earlier: dict[str, Media]) -> tuple[str, dict[str, Media]]:
    """A line with files → a template with placeholders for them, and the media by the names of these placeholders.

    Raises MediaError: a file cannot be read.
    """
    from codi2.media import load

    media: dict[str, Media] = {}

    def place(match: re.Match[str]) -> str:
        part = load(Path(match["quoted"] or match["plain"].rstrip(".,;:!?")).expanduser())
        count = sum(name.startswith(part.modality) for name in (*earlier, *media))
        media[f"{part.modality}{count}"] = part
        plain = match["plain"] or ""
        return f"[{part.modality}{count}]{plain[len(plain.rstrip('.,;:!?')) :]}"

    return ATTACHED.sub(place, line), media


def _complete_files() -> None:
    """Tab completes the path after an @, where the terminal has readline."""
    try:
        import readline
    except ImportError:  # Windows
        return

    def complete(text: str, state: int) -> str | None:
        if not text.startswith("@"):
            return None
        stem = Path(text[1:]).expanduser()
        folder, start = (stem, "") if text.endswith("/") or text == "@" else (stem.parent, stem.name)
        try:
            paths = sorted(path for path in folder.iterdir() if path.name.startswith(start))
        except OSError:
            return None
        completions = [f"@{path}{'/' if path.is_dir() else ''}" for path in paths]
        return completions[state] if state < len(completions) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" \t\n")
    readline.parse_and_bind("tab: complete")

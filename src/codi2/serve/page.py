"""The chat page: a conversation of the server, in a browser. It asks nothing of other hosts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from codi2.chat import Chat
from codi2.chat.events import Done, Said, Step
from codi2.chat.references import read, resolve
from codi2.demo import media_folder
from codi2.errors import CoDi2Error, PromptError
from codi2.media import load
from codi2.prompt.grammar import placeholders
from codi2.prompt.parts import Media, Part, Prompt, Text
from codi2.serve.access import ANYONE
from codi2.serve.sessions import Chats

EXAMPLES = (
    ("Draw a strawberry, as a glossy 3D emoji.", (), "image"),
    ("Draw this as an outlined emoji.", ("goose-google.png",), "image"),
    ("Take [image0] and make it night.", ("mango-twitter.png",), "image"),
    (
        "Given the transformation between [image0] and [image1], apply the same editing to [image2].",
        ("broccoli-google.png", "broccoli-fluent.png", "goose-google.png"),
        "image",
    ),
    ("Add a cowbell being struck to [audio0].", ("piano.wav",), "audio"),
    ("Make the sound of [image0].", ("goose-fluent.png",), "audio"),
    ("Generate a caption for this image: [image0]", ("taxi-google.png",), "text"),
)
STAGES = {"encode": "reading", "think": "thinking", "diffuse": "drawing"}
CSS = """
#bar progress { width: 100%; height: .6rem } #bar { min-height: 1.8rem }
.gradio-container { max-width: 62rem !important; margin: auto }
@media (max-width: 40rem) { .gradio-container { padding: .3rem !important } #talk { height: 60vh !important } }
"""
KEPT = "conversation"  # where the browser remembers which conversation is open


def mount(app: FastAPI) -> FastAPI:
    """The application with the page at `/`."""
    chats: Chats = app.state.chats
    folder = chats.store.folder / "media"
    folder.mkdir(parents=True, exist_ok=True)

    def known(label: str, secret: str) -> bool:
        key = chats.store.key(secret)
        return key is not None and key.label == label

    guarded = bool(chats.store.list_keys())
    return gr.mount_gradio_app(
        app,
        build(chats),
        path="/",
        auth=known if guarded else None,
        auth_message="The label of your key, and the key." if guarded else None,
        allowed_paths=[str(folder), str(media_folder())],
        max_file_size="16mb",
        show_error=True,
        css=CSS,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        footer_links=[],
        ssr_mode=False,
    )


def build(chats: Chats) -> gr.Blocks:
    """The page."""
    page = Page(chats)
    with gr.Blocks(title="CoDi-2", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        name = gr.BrowserState("", storage_key=KEPT)
        gr.Markdown(
            "# CoDi-2\nTalk in words, pictures and sounds. Drag files in; ask for a change of what came before."
        )
        talk = gr.Chatbot(
            elem_id="talk",
            label="Conversation",
            height=520,
            sanitize_html=True,
            render_markdown=False,
            feedback_options=(),
            buttons=[],
        )
        bar = gr.HTML(elem_id="bar")
        box = gr.MultimodalTextbox(
            elem_id="box",
            label="Message",
            placeholder="Write, or drop pictures and sounds here; [image0] stands for the first picture",
            file_count="multiple",
            file_types=["image", "audio", "video"],
            sources=["upload"],
            autofocus=True,
            stop_btn=True,
        )
        items = gr.Radio([], label="Speak of an earlier item", visible=False, elem_id="items")
        with gr.Row():
            want = gr.Radio(["auto", "image", "audio", "text"], value="auto", label="Reply with", elem_id="want")
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="seed")
            steps = gr.Number(0, label="Steps (0: the model's own)", precision=0, minimum=0, maximum=1000)
        with gr.Row():
            undo = gr.Button("Undo", elem_id="undo")
            retry = gr.Button("Retry with another seed", elem_id="retry")
            new = gr.Button("New conversation", elem_id="new")
            delete = gr.Button("Delete", variant="stop", elem_id="delete")
        opened = gr.Dropdown([], label="Earlier conversations", elem_id="sessions")
        settings = [name, want, seed, steps]
        shown = [talk, bar, items, name]
        sent = box.submit(page.send, [box, *settings], [*shown, box])
        again = retry.click(page.retry, settings, [*shown, seed])
        coming: list[Any] = [
            sent,
            again,
        ]  # replies under way: what comes of them later would be shown in another conversation
        box.stop(None, cancels=coming)
        undo.click(page.undo, [name], shown, cancels=coming)
        new.click(page.new, None, shown, cancels=coming)
        delete.click(page.delete, [name], shown, cancels=coming).then(page.listed, None, opened)
        opened.input(page.open, [opened], shown)
        items.input(_speak_of, [items, box], [box, items])
        talk.select(page.clicked, [name, box], box)
        gr.Examples(
            [[{"text": words, "files": [str(media_folder() / file) for file in files]}, wanted]
             for words, files, wanted in EXAMPLES],
            [box, want],
            [*shown, box],
            fn=page.example,
            run_on_click=True,
            cache_examples=False,
            label="Try one of these",
            example_labels=[words for words, _, _ in EXAMPLES],
            elem_id="examples",
        )  # fmt: skip
        blocks.load(page.open, [name], shown).then(page.listed, None, opened)
    return blocks


class Page:
    """What the page's buttons do. Handlers return the conversation, the bar, the items and the conversation's name."""

    def __init__(self, chats: Chats) -> None:
        self.chats = chats

    async def send(
        self, message: dict[str, Any], name: str, want: str, seed: float, steps: float, request: gr.Request
    ) -> AsyncIterator[tuple[Any, ...]]:
        owner = _owner(request)
        text, files = (message.get("text") or "").strip(), list(message.get("files") or [])
        if not text and not files:
            yield (*self._shown(owner, name), gr.skip())
            return
        cleared = gr.MultimodalTextbox(value={"text": "", "files": []})
        try:
            chat, name = self._chat(owner, name, text)
            prompt = _prompt(text, [load(Path(file), Path(file).name) for file in files], chat.media)
        except CoDi2Error as error:
            gr.Warning(str(error))
            yield (*self._shown(owner, name), gr.skip())
            return
        async for shown in self._play(owner, name, prompt, files, want, seed, steps):
            yield (*shown, cleared)

    async def example(self, message: dict[str, Any], want: str, request: gr.Request) -> AsyncIterator[tuple[Any, ...]]:
        async for shown in self.send(message, "", want, 0, 0, request):
            yield shown

    async def retry(
        self, name: str, want: str, seed: float, steps: float, request: gr.Request
    ) -> AsyncIterator[tuple[Any, ...]]:
        owner = _owner(request)
        try:
            chat = self.chats.get(owner, name)[0]
            if not chat.rounds:
                raise PromptError("there is nothing to try again yet")
            last = chat.rounds[-1]
            self.chats.undo(owner, name)
        except CoDi2Error as error:
            gr.Warning(str(error))
            yield (*self._shown(owner, name), gr.skip())
            return
        async for shown in self._play(owner, name, last.prompt, [], want, seed + 1, steps):
            yield (*shown, seed + 1)

    async def _play(
        self, owner: str, name: str, prompt: Prompt, files: list[str], want: str, seed: float, steps: float
    ) -> AsyncIterator[tuple[Any, ...]]:
        """A round, as it comes."""
        chat = self.chats.get(owner, name)[0]
        before, said = self._messages(chat), ""
        words = "".join(part.text if isinstance(part, Text) else "…" for part in prompt)
        asked = _line("user", words)
        asked_files = [{"role": "user", "content": {"path": file, "alt_text": Path(file).name}} for file in files]
        settings: dict[str, Any] = {"seed": int(seed), "num_inference_steps": int(steps) or None, "max_new_tokens": 64}
        settings["want"] = None if want == "auto" else [] if want == "text" else [want]

        def now(stage: str, share: float) -> tuple[Any, ...]:
            reply = [_line("assistant", said)] if said else []
            return [*before, asked, *asked_files, *reply], _bar(stage, share), gr.skip(), name

        try:
            waiting = await self.chats.ask(owner, name, prompt, **settings)
            yield now("waiting", 0.0)
            async for event in waiting:
                match event:
                    case Said():
                        said += event.text
                        yield now("think", 1.0)
                    case Step():
                        yield now(event.stage, event.step / max(1, event.total))
                    case Done():
                        for note in event.reply.notes:
                            gr.Info(note)
        except CoDi2Error as error:
            gr.Warning(str(error))
        yield self._shown(owner, name)

    def undo(self, name: str, request: gr.Request) -> tuple[Any, ...]:
        owner = _owner(request)
        try:
            self.chats.undo(owner, name)
        except CoDi2Error as error:
            gr.Warning(str(error))
        return self._shown(owner, name)

    def new(self, request: gr.Request) -> tuple[Any, ...]:
        return self._shown(_owner(request), "")

    def open(self, name: str, request: gr.Request) -> tuple[Any, ...]:
        return self._shown(_owner(request), name)

    def delete(self, name: str, request: gr.Request) -> tuple[Any, ...]:
        owner = _owner(request)
        try:
            self.chats.delete(owner, name)
        except CoDi2Error as error:
            gr.Warning(str(error))
        return self._shown(owner, "")

    def listed(self, request: gr.Request) -> Any:
        """The owner's conversations, for the list."""
        sessions = self.chats.store.sessions(_owner(request))
        return gr.Dropdown(choices=[(session.title or "untitled", session.id) for session in sessions], value=None)

    def clicked(self, name: str, message: dict[str, Any] | None, event: gr.SelectData, request: gr.Request) -> Any:
        """A picture or sound of the conversation was clicked: the message speaks of it."""
        try:
            chat = self.chats.get(_owner(request), name)[0]
        except CoDi2Error:
            return gr.skip()
        place = event.index[0] if isinstance(event.index, list | tuple) else event.index
        names = [item for item, _ in self._lines(chat)]
        if not isinstance(place, int) or place >= len(names) or not names[place]:
            return gr.skip()
        return _with(message, names[place])

    def _chat(self, owner: str, name: str, title: str) -> tuple[Chat, str]:
        """The conversation, or a new one."""
        if not name or not any(session.id == name for session in self.chats.store.sessions(owner)):
            name = self.chats.store.create(owner, title[:60], {"system": None}).id
        return self.chats.get(owner, name)[0], name

    def _shown(self, owner: str, name: str) -> tuple[Any, ...]:
        try:
            chat = self.chats.get(owner, name)[0] if name else None
        except CoDi2Error:
            chat, name = None, ""
        names = list(chat.media) if chat else []
        items = gr.Radio(choices=names, value=None, visible=bool(names))
        return self._messages(chat) if chat else [], "", items, name

    def _messages(self, chat: Chat) -> list[dict[str, Any]]:
        return [message for _, message in self._lines(chat)]

    def _lines(self, chat: Chat) -> list[tuple[str, dict[str, Any]]]:
        """The lines of the conversation: the name of an item, or "" of words, and the message that shows it."""
        names = {id(item): name for name, item in chat.media.items()}
        seen: set[int] = set()
        lines: list[tuple[str, dict[str, Any]]] = []
        for round_ in chat.rounds:
            words = "".join(
                part.text if isinstance(part, Text) else f"[{names.get(id(part), 'text')}]" for part in round_.prompt
            )
            lines.append(("", _line("user", words)))
            for role, parts in (("user", round_.prompt), ("assistant", round_.reply.parts)):
                for part in parts:
                    if id(part) in names and id(part) not in seen:
                        seen.add(id(part))
                        lines.append((names[id(part)], self._figure(role, part, names[id(part)])))
                    elif role == "assistant" and isinstance(part, Text) and part.text.strip():
                        lines.append(("", _line(role, part.text.strip())))
        return lines

    def _figure(self, role: str, part: Part, name: str) -> dict[str, Any]:
        path = self.chats.path(part)
        return {"role": role, "content": {"path": str(path), "alt_text": name}}


def _prompt(text: str, media: list[Media], earlier: dict[str, Media]) -> Prompt:
    """Words and files: the files fill the placeholders that no earlier item has, or stand behind the words."""
    free = [name for name in placeholders(text) if name not in earlier]
    if media and not free:
        parts: Prompt = (*read(text, {}, earlier), *(part for item in media for part in (Text(" "), item)))
        return parts
    return resolve(read(text, media, earlier), earlier)


def _line(role: str, words: str) -> dict[str, Any]:
    """Words as a message. The component reads them as HTML, and they are none."""
    return {"role": role, "content": escape(words, quote=False)}


def _owner(request: gr.Request) -> str:
    return getattr(request, "username", None) or ANYONE


def _bar(stage: str, share: float) -> str:
    words = STAGES.get(stage, stage)
    return f'<label>{words} <progress max="1" value="{share:.2f}" aria-label="{words}"></progress></label>'


def _with(message: dict[str, Any] | None, name: str) -> Any:
    text = (message or {}).get("text") or ""
    files = (message or {}).get("files") or []
    return gr.MultimodalTextbox(value={"text": f"{text} [{name}] ".lstrip(), "files": files})


def _speak_of(name: str | None, message: dict[str, Any] | None) -> tuple[Any, Any]:
    return (_with(message, name) if name else gr.skip()), gr.Radio(value=None)

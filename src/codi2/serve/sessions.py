"""Conversations that the server holds: `/v1/sessions`. They outlive it."""

from __future__ import annotations

import asyncio
import io
import threading
import zipfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi import Path as InPath
from fastapi.responses import Response

from codi2.chat import Chat
from codi2.chat.compose import Composed, compose
from codi2.chat.events import Done, Event, MediaReady, Step, TextDelta
from codi2.chat.files import reader, recipes_of, save
from codi2.errors import BusyError, DataError, LimitError
from codi2.media.bounds import decoded_bytes
from codi2.prompt.parts import Prompt, Text
from codi2.serve import views, wire
from codi2.serve.decoding import BUDGET
from codi2.serve.engine import Engine
from codi2.serve.jobs import Failed, Job, Tell, chat_bytes
from codi2.serve.media_routes import read_id
from codi2.serve.packing import SESSIONS, answer_json, answer_list, aside, while_wanted
from codi2.serve.reading import read_draft
from codi2.serve.replies import mark_of, message_of, sse
from codi2.serve.requests import check_model, deadline_of, options_of, queue_name
from codi2.serve.schemas import NewSession, RoundRequest
from codi2.serve.server import Client, Server, server_of
from codi2.serve.store import Changed, NoSession, Session, Store
from codi2.serve.waiting import Waiting, replies_of

OPEN = 16  # conversations whose cache stays in memory
MOST_OPEN = 2 << 30  # decoded bytes of the media of those that nobody uses at the moment


@dataclass
class Open:
    """A conversation that is in memory."""

    chat: Chat
    revision: int  # of the store, that `chat` is of
    lock: threading.Lock = field(default_factory=threading.Lock)  # held while a round is made or undone
    job: Job | None = None  # the round that is being made
    deleted: bool = False

    def told(self, tell: Tell) -> Tell:
        """`tell`, to which a round that ends because its session was deleted says so."""

        def told(event: Event | Failed) -> None:
            gone = self.deleted and isinstance(event, Failed)
            tell(Failed(NoSession("the session was deleted while its round was made")) if gone else event)

        return told


class Chats:
    """The conversations of a store that are in use: opened from it, and written to it round by round.

    Other servers may change them in the store; each use starts with a look there.
    """

    def __init__(self, engine: Engine, store: Store, marks: bool = True) -> None:
        self.engine, self.store, self.marks = engine, store, marks
        self._open: OrderedDict[tuple[str, str], Open] = OrderedDict()
        self._lock = threading.Lock()
        store.keep_sweeping()

    def get(self, owner: str, name: str) -> tuple[Chat, threading.Lock]:
        """A conversation as the store has it, and the lock of its rounds. Raises NoSession."""
        held = self._get(owner, name)
        return held.chat, held.lock

    def _get(self, owner: str, name: str) -> Open:
        revision = self._revision(owner, name)
        with self._lock:
            held = self._open.get((owner, name))
            if held is not None and held.revision == revision:
                self._open.move_to_end((owner, name))
                return held
        chat, revision = self._load(owner, name)  # takes seconds where there are many media, and others go on
        with self._lock:
            now = self._open.get((owner, name))
            if now is None:
                now = self._open[owner, name] = Open(chat, revision)
            elif now.lock.locked():  # its round is of a state that has changed; the store will refuse it
                return Open(chat, revision, now.lock)
            else:
                now.chat, now.revision = chat, revision
            self._open.move_to_end((owner, name))
            idle = [key for key, one in self._open.items() if not one.lock.locked() and one is not now]
            sizes = [chat_bytes(self._open[key].chat) for key in idle]
            while idle and (len(self._open) > OPEN or sum(sizes) > MOST_OPEN):
                del self._open[idle.pop(0)], sizes[0]
            return now

    def _revision(self, owner: str, name: str) -> int:
        try:
            return self.store.revision(owner, name)
        except NoSession:
            with self._lock:
                self._open.pop((owner, name), None)
            raise

    def _load(self, owner: str, name: str) -> tuple[Chat, int]:
        kept = self.store.load(owner, name)
        chat, read = Chat(self.engine.model, kept.about.get("system")), reader(self.store.get)
        for value in kept.rounds:
            chat.add(read(value))
        return chat, kept.revision

    def _take(self, owner: str, name: str) -> Open:
        """A conversation whose lock is the caller's. Raises NoSession; BusyError: it has a round under way."""
        held = self._get(owner, name)
        if not held.lock.acquire(blocking=False):
            raise BusyError("this conversation has a round under way; wait for its reply", 2.0)
        try:
            if held.revision != self._revision(owner, name):  # changed while we took it
                held.chat, held.revision = self._load(owner, name)
            with self._lock:
                self._open[owner, name] = held
        except BaseException:
            held.lock.release()
            raise
        return held

    async def ask(
        self,
        owner: str,
        name: str,
        content: Prompt,
        number: int | None = None,
        timeout: float = 0.0,
        uploads: Sequence[str] = (),
        queue: str = "",
        **settings: Any,
    ) -> Waiting:
        """A round, kept when it is done. With `number` it then takes the place of that round and those after it.

        Args:
            uploads: those that the content was read from; they are removed when the round is kept.
            queue: the name under which it waits, see `requests.queue_name`.
        Raises:
            NoSession; PromptError: a placeholder in the content stands for nothing.
            DataError: there is no round `number`. BusyError: the conversation has a round under way.
        """
        taking = asyncio.ensure_future(asyncio.to_thread(self._take, owner, name))
        try:
            held = await asyncio.shield(taking)
        except asyncio.CancelledError:  # the client has left; the thread goes on and takes the lock
            taking.add_done_callback(lambda taken: None if taken.exception() else taken.result().lock.release())
            raise

        def end() -> None:
            held.job = None
            held.lock.release()

        try:
            count = len(held.chat.rounds)
            if number is not None and number >= count:
                raise DataError(f"there is no round {number}: this session has {count}")
            at = count if number is None else number
            message = await asyncio.to_thread(lambda: compose(content, held.chat.items(at)))
            chat = held.chat if at == count else held.chat.branch(at)

            def keep() -> None:
                self._keep(owner, name, held, chat, message, count)
                self.store.uploads.drop(owner, uploads)

            waiting = Waiting(
                lambda tell: self.engine.round(
                    chat, message.prompt, held.told(tell), queue, timeout, keep, end, **settings
                )
            )
        except BaseException:
            held.lock.release()
            raise
        held.job = waiting.job
        return waiting

    def _keep(self, owner: str, name: str, held: Open, chat: Chat, message: Composed, count: int) -> None:
        """Before anybody hears that the round is done, it is on the disk, in the place of all after it of `count`."""
        chat.rounds[-1] = replace(chat.rounds[-1], words=message.words, given=message.given)
        try:
            held.revision = self.store.keep(owner, name, len(chat.rounds) - 1, chat.rounds[-1], count, held.revision)
        except BaseException:
            chat.undo()
            raise
        held.chat = chat

    def undo(self, owner: str, name: str) -> int:
        """Takes the last round back: how many are left. Raises NoSession, DataError, BusyError."""
        held = self._take(owner, name)
        try:
            left = self.store.undo(owner, name, held.revision)
            held.chat.undo()
            held.revision += 1  # read from the store it could be that of another server's next round
            return left
        finally:
            held.lock.release()

    def delete(self, owner: str, name: str) -> None:
        """Removes a session, and ends the round that is being made of it. Raises NoSession."""
        self.store.delete(owner, name)
        with self._lock:
            held = self._open.pop((owner, name), None)
        if held is not None and held.job is not None:
            held.deleted = True
            held.job.cancel()

    def export(self, owner: str, name: str) -> bytes:
        """A zip file of one folder: the conversation, and a page that shows and plays it. Raises NoSession."""
        title = self.store.session(owner, name).title or "A conversation"
        chat = self.get(owner, name)[0]
        file = io.BytesIO()
        with TemporaryDirectory() as folder, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            made = save(chat, Path(folder) / "conversation", title, self.marks)
            for path in sorted(made.rglob("*")):
                if path.is_file():
                    archive.write(path, str(path.relative_to(folder)))
        return file.getvalue()


def chats_of(request: Request) -> Chats:
    chats: Chats = request.app.state.chats
    return chats


Held = Annotated[Chats, Depends(chats_of)]
router = APIRouter(prefix="/v1/sessions")


@router.get("")
async def list_sessions(chats: Held, client: Client) -> dict[str, Any]:
    found = await asyncio.to_thread(chats.store.sessions, client)
    return {"object": "list", "data": [_json(session) for session in found]}


@router.post("")
async def new_session(body: NewSession, chats: Held, client: Client) -> dict[str, Any]:
    return _json(await asyncio.to_thread(chats.store.create, client, body.title, {"system": body.system}))


@router.get("/{name}")
async def read_session(request: Request, name: str, chats: Held, client: Client) -> Any:
    """The session with its messages."""
    server = server_of(request)
    session = await asyncio.to_thread(chats.store.session, client, name)
    chat = await while_wanted(request, lambda: chats.get(client, name)[0], SESSIONS)
    messages: list[Callable[[], dict[str, Any]]] = []
    recipes = recipes_of(chat.rounds)
    for one in chat.rounds[: session.rounds]:  # one that is not kept yet may still fail
        messages += [
            lambda one=one: _asked(server, one.prompt, recipes),  # type: ignore[misc]
            lambda one=one: message_of(server, one.reply),  # type: ignore[misc]
        ]
    return answer_list(_json(session), "messages", messages)


def _asked(server: Server, prompt: Prompt, recipes: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """A user's message; what the model has made before keeps its mark there."""
    marks = [mark_of(server, recipes[id(part)]) if id(part) in recipes else None for part in prompt]
    return {"role": "user", "content": [wire.to_part(part, mark) for part, mark in zip(prompt, marks, strict=True)]}


@router.patch("/{name}")
async def rename_session(name: str, body: NewSession, chats: Held, client: Client) -> dict[str, Any]:
    return _json(await asyncio.to_thread(chats.store.rename, client, name, body.title))


@router.delete("/{name}")
async def delete_session(name: str, chats: Held, client: Client) -> dict[str, Any]:
    await asyncio.to_thread(chats.delete, client, name)
    return {"id": name, "object": "session", "deleted": True}


@router.get("/{name}/export", response_class=Response)
async def export_session(request: Request, name: str, chats: Held, client: Client) -> Response:
    """A zip file with a page that shows and plays the conversation."""
    data = await while_wanted(request, lambda: chats.export(client, name), SESSIONS)
    named = {"Content-Disposition": 'attachment; filename="conversation.zip"'}
    return Response(data, media_type="application/zip", headers=named)


@router.get("/{name}/rounds")
async def list_rounds(name: str, chats: Held, client: Client) -> dict[str, Any]:
    """The rounds with ids in the place of media: words as they were written, new items, the reply."""
    values = await asyncio.to_thread(lambda: views.rounds(chats.store.rounds(client, name)))
    return {"object": "list", "data": values}


@router.post("/{name}/rounds")
async def add_round(request: Request, name: str, body: RoundRequest, chats: Held, client: Client) -> Any:
    """A message, and its reply; earlier items can be named as in `prompt.references`."""
    return await _round(request, name, body, chats, client, None)


@router.put("/{name}/rounds/{number}")
async def replace_round(
    request: Request,
    name: str,
    number: Annotated[int, InPath(ge=0, lt=2**31)],
    body: RoundRequest,
    chats: Held,
    client: Client,
) -> Any:
    """A message in the place of round `number` (from 0) and all after it; they stay until its reply is there."""
    found = (await asyncio.to_thread(chats.store.session, client, name)).rounds
    if body.rounds is not None and found != body.rounds:
        raise Changed(f"the session has {found} rounds and not {body.rounds}: it was changed elsewhere; load it again")
    return await _round(request, name, body, chats, client, number)


async def _round(request: Request, name: str, body: RoundRequest, chats: Chats, client: str, number: int | None) -> Any:
    server = server_of(request)
    check_model(server, body.model)
    options = vars(options_of(body, body.modalities, body.max_tokens or server.default_tokens))
    deadline, queue = deadline_of(server, body), queue_name(client, body.person)
    draft, uploads = await asyncio.to_thread(_draft, chats.store, client, name, body.content)
    layout = server.engine.model.layout
    (message,) = await read_draft(request, draft, layout, server.decoders, queue, deadline)
    waiting = await chats.ask(client, name, message.parts, number, deadline.left, uploads, queue, **options)
    kept = (lambda: _kept(chats, client, name, number)) if body.media == "ids" else None
    if body.stream:
        return sse(_events(server, waiting, kept))
    (reply,) = await replies_of(request, [waiting])

    def made() -> dict[str, Any]:
        shown = {"message": message_of(server, reply)} if kept is None else {"round": kept()}
        return {"object": "session.round", "session": name, **shown}

    return await answer_json(made)


def _draft(store: Store, client: str, name: str, content: Any) -> tuple[wire.Draft, list[str]]:
    """Words and media as they came, and the ids of uploads among them; other ids are media of the session.

    Raises NoSession, NoMedium, PromptError, MediaError; LimitError: its media are too much when they are decoded.
    """
    store.session(client, name)
    if isinstance(content, str):
        return wire.Draft([("user", (Text(content),))]), []
    parts: list[wire.Drafted] = []
    uploads: list[str] = []
    size = 0
    for i, value in enumerate(content):
        where = f"part {i} of the content"
        named = value.get("type") == "media"
        part = read_id(store, client, name, value, where) if named else wire.part(value, where)
        parts.append(part)
        uploads += [value["id"]] if named and isinstance(part, wire.Encoded) else []
        size += 0 if isinstance(part, wire.Encoded) else decoded_bytes(part)
        if size > BUDGET:
            raise LimitError(f"the media that this message names are more than {BUDGET >> 20} MB; name fewer")
    return wire.Draft([("user", parts)]), uploads


def _kept(chats: Chats, client: str, name: str, number: int | None) -> dict[str, Any]:
    """A round as clients see it; None: the last."""
    return views.rounds(chats.store.rounds(client, name))[-1 if number is None else number]


@router.delete("/{name}/rounds/last")
async def undo_round(name: str, chats: Held, client: Client) -> dict[str, Any]:
    """Takes the last round back."""
    return {"object": "session", "id": name, "rounds": await asyncio.to_thread(chats.undo, client, name)}


async def _events(
    server: Server, waiting: Waiting, kept: Callable[[], dict[str, Any]] | None
) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream. `kept` gives the round with ids in the place of its media, which then do not come."""
    async for event in waiting:
        match event:
            case TextDelta():
                yield {"type": "text", "text": event.text}
            case Step():
                yield {"type": "progress", "stage": event.stage, "step": event.step, "total": event.total}
            case MediaReady(place=place, part=part) if kept is None:
                mark = mark_of(server, event.recipe)
                yield {"type": "part", "place": place, "part": await aside(wire.to_part, part, mark)}
            case Done(reply=reply) if kept is None:
                yield {"type": "done", "message": await aside(message_of, server, reply)}
            case Done() if kept is not None:
                yield {"type": "done", "round": await asyncio.to_thread(kept)}


def _json(session: Session) -> dict[str, Any]:
    return {"object": "session", **vars(session)}

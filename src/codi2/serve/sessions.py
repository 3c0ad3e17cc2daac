"""Conversations that the server holds: `/v1/sessions`. They outlive it."""

from __future__ import annotations

import asyncio
import io
import threading
import zipfile
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from codi2.chat import Chat
from codi2.chat.events import Done, Event, Made, Said, Step
from codi2.chat.files import reader, save, to_json_parts
from codi2.chat.references import placed
from codi2.errors import BusyError
from codi2.prompt.parts import Part
from codi2.serve import wire
from codi2.serve.api import Client, Server, check_model, message_of, options_of, replies_of, server_of, sse
from codi2.serve.engine import Engine, Failed, Job, Tell
from codi2.serve.schemas import NewSession, RoundRequest
from codi2.serve.store import NoSession, Session, Store
from codi2.serve.waiting import Waiting

OPEN = 16  # conversations whose cache stays in memory


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

    def __init__(self, engine: Engine, store: Store) -> None:
        self.engine, self.store = engine, store
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
            for key in idle[: max(0, len(self._open) - OPEN)]:
                del self._open[key]
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
        chat, read = self.engine.model.chat(kept.about.get("system")), reader(self.store.get)
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

    async def ask(self, owner: str, name: str, content: Any, timeout: float = 0.0, **settings: Any) -> Waiting:
        """A round, kept when it is done. Raises NoSession; BusyError: the conversation has one under way."""
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
            prompt = await asyncio.to_thread(_prompt, held.chat, content)

            keep = lambda: self._keep(owner, name, held)  # noqa: E731
            waiting = Waiting(
                lambda tell: self.engine.round(
                    held.chat, prompt, held.told(tell), owner, timeout, keep, end, **settings
                )
            )
        except BaseException:
            held.lock.release()
            raise
        held.job = waiting.job
        return waiting

    def _keep(self, owner: str, name: str, held: Open) -> None:
        """Before anybody hears that the round is done, it is on the disk."""
        number = len(held.chat.rounds) - 1
        try:
            held.revision = self.store.keep(owner, name, number, held.chat.rounds[-1], number, held.revision)
        except BaseException:
            held.chat.undo()
            raise

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

    def path(self, part: Part) -> Path:
        """Where the store keeps a medium of a round: of a clip, its first frame."""
        (made,) = to_json_parts((part,), self.store.put)
        file = made["file"]
        return self.store.path(file if isinstance(file, str) else file[0])

    def export(self, owner: str, name: str) -> bytes:
        """A zip file of one folder: the conversation, and a page that shows and plays it. Raises NoSession."""
        title = self.store.session(owner, name).title or "A conversation"
        chat = self.get(owner, name)[0]
        file = io.BytesIO()
        with TemporaryDirectory() as folder, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            made = save(chat, Path(folder) / "conversation", title)
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
async def read_session(request: Request, name: str, chats: Held, client: Client) -> dict[str, Any]:
    """The session with its messages."""
    session = chats.store.session(client, name)
    chat = await asyncio.to_thread(lambda: chats.get(client, name)[0])
    messages: list[dict[str, Any]] = []
    for round_ in chat.rounds[: session.rounds]:  # one that is not kept yet may still fail
        messages += [
            {"role": "user", "content": wire.to_parts(round_.prompt)},
            message_of(server_of(request), round_.reply),
        ]
    return {**_json(session), "messages": messages}


@router.patch("/{name}")
async def rename_session(name: str, body: NewSession, chats: Held, client: Client) -> dict[str, Any]:
    return _json(await asyncio.to_thread(chats.store.rename, client, name, body.title))


@router.delete("/{name}")
async def delete_session(name: str, chats: Held, client: Client) -> dict[str, Any]:
    await asyncio.to_thread(chats.delete, client, name)
    return {"id": name, "object": "session", "deleted": True}


@router.get("/{name}/export", response_class=Response)
async def export_session(name: str, chats: Held, client: Client) -> Response:
    """A zip file with a page that shows and plays the conversation."""
    data = await asyncio.to_thread(chats.export, client, name)
    named = {"Content-Disposition": 'attachment; filename="conversation.zip"'}
    return Response(data, media_type="application/zip", headers=named)


@router.post("/{name}/rounds")
async def add_round(request: Request, name: str, body: RoundRequest, chats: Held, client: Client) -> Any:
    """A message, and its reply; earlier items can be named as in `chat.references`."""
    server = server_of(request)
    check_model(server, body.model)
    options = vars(options_of(body, body.modalities, body.max_tokens or server.default_tokens))
    waiting = await chats.ask(client, name, body.content, body.codi2.timeout or 0.0, **options)
    if body.stream:
        return sse(_events(server, waiting))
    (reply,) = await replies_of(request, [waiting])
    return {"object": "session.round", "session": name, "message": message_of(server, reply)}


@router.delete("/{name}/rounds/last")
async def undo_round(name: str, chats: Held, client: Client) -> dict[str, Any]:
    """Takes the last round back."""
    return {"object": "session", "id": name, "rounds": await asyncio.to_thread(chats.undo, client, name)}


def _prompt(chat: Chat, content: Any) -> Any:
    """Words as they are, since they may have placeholders of earlier items; parts as parts."""
    if isinstance(content, str | tuple):
        return content
    return placed(wire.prompt(content), chat.media)


async def _events(server: Server, waiting: Waiting) -> AsyncIterator[dict[str, Any]]:
    async for event in waiting:
        match event:
            case Said():
                yield {"type": "text", "text": event.text}
            case Step():
                yield {"type": "progress", "stage": event.stage, "step": event.step, "total": event.total}
            case Made():
                yield {"type": "part", "place": event.place, "part": wire.to_part(event.part)}
            case Done():
                yield {"type": "done", "message": message_of(server, event.reply)}


def _json(session: Session) -> dict[str, Any]:
    return {"object": "session", **vars(session)}

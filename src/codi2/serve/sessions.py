"""Conversations that the server holds: `/v1/sessions`. They outlive it."""

from __future__ import annotations

import asyncio
import io
import threading
import zipfile
from collections import OrderedDict
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from codi2.chat import Chat
from codi2.chat.events import Done, Made, Said, Step
from codi2.chat.files import reader, save, to_json_parts
from codi2.chat.references import placed
from codi2.errors import BusyError
from codi2.prompt.parts import Part
from codi2.serve import wire
from codi2.serve.api import Client, Server, check_model, message_of, options_of, replies_of, server_of, sse
from codi2.serve.engine import Engine
from codi2.serve.schemas import NewSession, RoundRequest
from codi2.serve.store import Session, Store
from codi2.serve.waiting import Waiting

OPEN = 16  # conversations whose cache stays in memory


class Chats:
    """The conversations of a store that are in use: opened from it, and written to it round by round."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self.engine, self.store = engine, store
        self._open: OrderedDict[tuple[str, str], tuple[Chat, threading.Lock]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, owner: str, name: str) -> tuple[Chat, threading.Lock]:
        """A conversation, and the lock of its rounds. Raises NoSession."""
        with self._lock:
            about, rounds = self.store.about(owner, name), self.store.session(owner, name).rounds
            found = self._open.pop((owner, name), None)
            if found is None or (len(found[0].rounds) != rounds and not found[1].locked()):
                chat = self.engine.model.chat(about.get("system"))
                read = reader(self.store.get)
                for value in self.store.rounds(owner, name):
                    chat.add(read(value))
                found = (chat, threading.Lock())
            self._open[owner, name] = found
            while len(self._open) > OPEN:
                self._open.popitem(last=False)
            return found

    def ask(self, owner: str, name: str, prompt: Any, timeout: float = 0.0, **settings: Any) -> Waiting:
        """A round, kept when it is done. Raises NoSession; BusyError: the conversation has one under way."""
        chat, lock = self.get(owner, name)
        if not lock.acquire(blocking=False):
            raise BusyError("this conversation has a round under way; wait for its reply", 2.0)
        try:
            return Waiting(
                lambda tell: self.engine.round(
                    chat, prompt, tell, owner, timeout, lambda: self._keep(owner, name, chat), lock.release, **settings
                )
            )
        except BaseException:
            lock.release()
            raise

    def _keep(self, owner: str, name: str, chat: Chat) -> None:
        """Before anybody hears that the round is done, it is on the disk."""
        try:
            self.store.keep(owner, name, len(chat.rounds) - 1, chat.rounds[-1])
        except BaseException:
            chat.undo()
            raise

    def undo(self, owner: str, name: str) -> int:
        """Takes the last round back: how many are left. Raises NoSession, DataError, BusyError."""
        chat, lock = self.get(owner, name)
        if not lock.acquire(blocking=False):
            raise BusyError("this conversation has a round under way; wait for its reply", 2.0)
        try:
            left = self.store.undo(owner, name)
            chat.undo()
            return left
        finally:
            lock.release()

    def delete(self, owner: str, name: str) -> None:
        """Raises NoSession."""
        self.store.delete(owner, name)
        with self._lock:
            self._open.pop((owner, name), None)

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
    return {"object": "list", "data": [_json(session) for session in chats.store.sessions(client)]}


@router.post("")
async def new_session(body: NewSession, chats: Held, client: Client) -> dict[str, Any]:
    return _json(chats.store.create(client, body.title, {"system": body.system}))


@router.get("/{name}")
async def read_session(request: Request, name: str, chats: Held, client: Client) -> dict[str, Any]:
    """The session with its messages."""
    session = chats.store.session(client, name)
    chat = await asyncio.to_thread(lambda: chats.get(client, name)[0])
    messages: list[dict[str, Any]] = []
    for round_ in chat.rounds:
        messages += [
            {"role": "user", "content": wire.to_parts(round_.prompt)},
            message_of(server_of(request), round_.reply),
        ]
    return {**_json(session), "messages": messages}


@router.patch("/{name}")
async def rename_session(name: str, body: NewSession, chats: Held, client: Client) -> dict[str, Any]:
    return _json(chats.store.rename(client, name, body.title))


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
    chats.store.session(client, name)
    prompt = await asyncio.to_thread(_prompt, chats, client, name, body.content)
    options = vars(options_of(body, body.modalities, body.max_tokens or server.default_tokens))
    await asyncio.to_thread(chats.get, client, name)  # from the disk, where it is not open
    waiting = chats.ask(client, name, prompt, body.codi2.timeout or 0.0, **options)
    if body.stream:
        return sse(_events(server, waiting))
    (reply,) = await replies_of(request, [waiting])
    return {"object": "session.round", "session": name, "message": message_of(server, reply)}


@router.delete("/{name}/rounds/last")
async def undo_round(name: str, chats: Held, client: Client) -> dict[str, Any]:
    """Takes the last round back."""
    return {"object": "session", "id": name, "rounds": await asyncio.to_thread(chats.undo, client, name)}


def _prompt(chats: Chats, client: str, name: str, content: Any) -> Any:
    """Words as they are, since they may have placeholders of earlier items; parts as parts."""
    if isinstance(content, str):
        return content
    return placed(wire.prompt(content), chats.get(client, name)[0].media)


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

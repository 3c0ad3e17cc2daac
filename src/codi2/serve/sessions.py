"""The routes of conversations that the server holds, and keeps over a restart: `/v1/sessions`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import IO, Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi import Path as InPath
from fastapi.responses import Response, StreamingResponse

from codi2.chat.events import Done, MediaReady, StageProgress, TextDelta
from codi2.chat.files import recipes_of
from codi2.errors import LimitError
from codi2.media.bounds import decoded_bytes
from codi2.prompt.parts import Prompt, Text
from codi2.serve import views, wire
from codi2.serve.decoding import BUDGET
from codi2.serve.media_routes import read_id
from codi2.serve.packing import SESSIONS, answer_json, answer_list, run_in_thread, run_while_connected
from codi2.serve.reading import decode_conversation
from codi2.serve.replies import mark_of, message_of, sse
from codi2.serve.requests import check_model, deadline_of, options_of, queue_name
from codi2.serve.schemas import NewSession, RoundRequest, SessionTitle
from codi2.serve.server import DEFAULT_TOKENS, Client, Server, server_of
from codi2.serve.session_chats import SessionChats
from codi2.serve.store import Session, SessionChanged, Store
from codi2.serve.waiting import JobEvents, wait_for_replies


def chats_of(request: Request) -> SessionChats:
    chats: SessionChats = request.app.state.chats
    return chats


RequestChats = Annotated[SessionChats, Depends(chats_of)]
router = APIRouter(prefix="/v1/sessions")
PIECE = 1 << 20  # bytes of an exported file that are read at once


@router.get("")
async def list_sessions(chats: RequestChats, client: Client) -> dict[str, Any]:
    sessions = await asyncio.to_thread(chats.store.sessions, client)
    return {"object": "list", "data": [_json(session) for session in sessions]}


@router.post("")
async def new_session(body: NewSession, chats: RequestChats, client: Client) -> dict[str, Any]:
    return _json(await asyncio.to_thread(chats.store.create, client, body.title, {"system": body.system}))


@router.get("/{name}")
async def read_session(request: Request, name: str, chats: RequestChats, client: Client) -> Any:
    """The session with its messages."""
    server = server_of(request)
    session = await asyncio.to_thread(chats.store.session, client, name)
    chat = await run_while_connected(request, lambda: chats.get(client, name)[0], SESSIONS)
    messages: list[Callable[[], dict[str, Any]]] = []
    recipes = recipes_of(chat.rounds)
    for round_ in chat.rounds[: session.rounds]:  # without a round that is not stored yet, which may still fail
        messages += [
            lambda round_=round_: _user_message(server, round_.prompt, recipes),  # type: ignore[misc]
            lambda round_=round_: message_of(server, round_.reply),  # type: ignore[misc]
        ]
    return answer_list(_json(session), "messages", messages)


def _user_message(server: Server, prompt: Prompt, recipes: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """A user's message; media that the model has made keep their recipe."""
    marks = [mark_of(server, recipes[id(part)]) if id(part) in recipes else None for part in prompt]
    return {"role": "user", "content": [wire.to_part(part, mark) for part, mark in zip(prompt, marks, strict=True)]}


@router.patch("/{name}")
async def rename_session(name: str, body: SessionTitle, chats: RequestChats, client: Client) -> dict[str, Any]:
    return _json(await asyncio.to_thread(chats.store.rename, client, name, body.title))


@router.delete("/{name}")
async def delete_session(name: str, chats: RequestChats, client: Client) -> dict[str, Any]:
    await asyncio.to_thread(chats.delete, client, name)
    return {"id": name, "object": "session", "deleted": True}


@router.get("/{name}/export", response_class=Response)
async def export_session(request: Request, name: str, chats: RequestChats, client: Client) -> Response:
    """A zip file with a page that shows and plays the conversation."""
    file = await run_while_connected(request, lambda: chats.export(client, name), SESSIONS)
    headers = {"Content-Disposition": 'attachment; filename="conversation.zip"'}
    return StreamingResponse(_pieces(file), media_type="application/zip", headers=headers)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE):
            yield piece


@router.get("/{name}/rounds")
async def list_rounds(name: str, chats: RequestChats, client: Client) -> dict[str, Any]:
    """The rounds with ids in the place of media: the text as the user wrote it, new items, the reply."""
    values = await asyncio.to_thread(lambda: views.rounds(chats.store.rounds(client, name)))
    return {"object": "list", "data": values}


@router.post("/{name}/rounds")
async def add_round(request: Request, name: str, body: RoundRequest, chats: RequestChats, client: Client) -> Any:
    """A message, and its reply. Placeholders can name earlier items as in `prompt.references`."""
    return await _round(request, name, body, chats, client, None)


@router.put("/{name}/rounds/{number}")
async def replace_round(
    request: Request,
    name: str,
    number: Annotated[int, InPath(ge=0, lt=2**31)],
    body: RoundRequest,
    chats: RequestChats,
    client: Client,
) -> Any:
    """Replaces round `number` (from 0) and all rounds after it; they are kept until the new reply is done."""
    return await _round(request, name, body, chats, client, number)


async def _round(
    request: Request, name: str, body: RoundRequest, chats: SessionChats, client: str, number: int | None
) -> Any:
    server = server_of(request)
    check_model(server, body.model)
    options = vars(options_of(body, body.modalities, body.max_tokens or DEFAULT_TOKENS))
    deadline, queue = deadline_of(server, body), queue_name(client, body.person)
    encoded, uploads = await asyncio.to_thread(_read_content, chats.store, client, name, body)
    layout = server.engine.model.layout
    (message,) = await decode_conversation(request, encoded, layout, server.decoders, queue, deadline)
    job = await chats.submit_round(
        client, name, message.parts, number, body.rounds, deadline.left, uploads, queue, **options
    )
    with_ids = (lambda: _stored_round(chats, client, name, number)) if body.media == "ids" else None
    if body.stream:
        return sse(_events(server, job, with_ids))
    (reply,) = await wait_for_replies(request, [job])

    def answer() -> dict[str, Any]:
        content = {"message": message_of(server, reply)} if with_ids is None else {"round": with_ids()}
        return {"object": "session.round", "session": name, **content}

    return await answer_json(answer)


def _read_content(
    store: Store, client: str, name: str, body: RoundRequest
) -> tuple[wire.EncodedConversation, list[str]]:
    """The content of a message, and the ids of uploads in it; other ids name media of the session.

    Raises:
        NoSession, NoMedium, PromptError, MediaError. LimitError: its media are too large when they are decoded.
        SessionChanged: the session has other rounds than the client knows, so an id may be of one that is gone.
    """
    count = store.session(client, name).rounds
    if body.rounds is not None and body.rounds != count:
        raise SessionChanged.of_counts(count, body.rounds)
    if isinstance(body.content, str):
        return wire.EncodedConversation([("user", (Text(body.content),))]), []
    parts: list[wire.PartOrEncoded] = []
    uploads: list[str] = []
    size = 0
    for i, value in enumerate(body.content):
        where = f"part {i} of the content"
        has_id = value.get("type") == "media"
        part = read_id(store, client, name, value, where) if has_id else wire.part(value, where)
        parts.append(part)
        uploads += [value["id"]] if has_id and isinstance(part, wire.EncodedMedium) else []
        size += 0 if isinstance(part, wire.EncodedMedium) else decoded_bytes(part)
        if size > BUDGET:
            raise LimitError(f"the media that this message names are more than {BUDGET >> 20} MB; name fewer")
    return wire.EncodedConversation([("user", parts)]), uploads


def _stored_round(chats: SessionChats, client: str, name: str, number: int | None) -> dict[str, Any]:
    """A round with ids in the place of media; None: the last. Raises SessionChanged: it was removed meanwhile."""
    rounds = views.rounds(chats.store.rounds(client, name))
    place = len(rounds) - 1 if number is None else number
    if not 0 <= place < len(rounds):
        raise SessionChanged.of_counts(len(rounds), max(place, 0) + 1)
    return rounds[place]


@router.delete("/{name}/rounds/last")
async def undo_round(name: str, chats: RequestChats, client: Client) -> dict[str, Any]:
    """Removes the last round."""
    return {"object": "session", "id": name, "rounds": await asyncio.to_thread(chats.undo, client, name)}


async def _events(
    server: Server, job: JobEvents, with_ids: Callable[[], dict[str, Any]] | None
) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream. With `with_ids` media are not sent; it returns the round with ids in their place."""
    async for event in job:
        match event:
            case TextDelta():
                yield {"type": "text", "text": event.text}
            case StageProgress():
                yield {"type": "progress", "stage": event.stage, "step": event.step, "total": event.total}
            case MediaReady(place=place, part=part) if with_ids is None:
                mark = mark_of(server, event.recipe)
                yield {"type": "part", "place": place, "part": await run_in_thread(wire.to_part, part, mark)}
            case Done(reply=reply) if with_ids is None:
                yield {"type": "done", "message": await run_in_thread(message_of, server, reply)}
            case Done() if with_ids is not None:
                yield {"type": "done", "round": await asyncio.to_thread(with_ids)}


def _json(session: Session) -> dict[str, Any]:
    return {"object": "session", **vars(session)}

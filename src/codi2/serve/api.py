"""The HTTP API: OpenAI's routes and fields where these exist, fields under `codi2` for the rest.

Version policy: the path has the version, `/v1`. Fields may be added to it. When a field is removed or changes its
meaning, there is a `/v2`, and `/v1` stays for two minor versions of the package. `codi2` objects follow the same rule.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from codi2 import __version__
from codi2.errors import CoDi2Error
from codi2.media import file_bytes
from codi2.prompt.layout import Message
from codi2.prompt.parts import Text
from codi2.serve import items, media_routes, pictures, sessions, wire
from codi2.serve.access import Access
from codi2.serve.bodies import Bodies
from codi2.serve.engine import Engine
from codi2.serve.errors import Failure, as_json
from codi2.serve.fields import FieldError
from codi2.serve.metrics import prometheus
from codi2.serve.middleware import Counted, Faults, Gate, Head, Origins, SafeHeaders
from codi2.serve.origins import Served
from codi2.serve.packing import answer_json, run_in_thread
from codi2.serve.replies import chunks, finish_of, mark_of, message_of, sse, usage_of
from codi2.serve.requests import check_model, check_want, deadline_of, options_of, read_and_submit, submit
from codi2.serve.responses import Response as ResponseOf
from codi2.serve.responses import stream as response_events
from codi2.serve.schemas import ChatRequest, ResponsesRequest, SoundRequest
from codi2.serve.server import DEFAULT_TOKENS, Client, Server, server_of
from codi2.serve.session_chats import SessionChats
from codi2.serve.store import Store
from codi2.serve.waiting import wait_for_replies


def create_app(
    engine: Engine,
    store: Store,
    model: str,
    origins: Sequence[str] = (),
    marks: bool = True,
    served: Served | None = None,
    keys_when_open: int = 0,
) -> FastAPI:
    """The application.

    Args:
        model: the name that `/v1/models` gives.
        origins: web pages of other hosts that may call it from a browser (`origins.origin`); none by default.
        marks: whether the metadata of media hold the recipe that made them.
        served: the hosts that requests may name; None: this machine's loopback addresses and `localhost`.
        keys_when_open: see `access.Access`.
    """
    app = FastAPI(
        title="codi2",
        version=__version__,
        description=__doc__ or "",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would repeat the Host header
        responses={"4XX": {"model": Failure, "description": "An error of the request, in one sentence."}},
    )
    server = Server(engine, store, model, marks=marks)
    app.state.server, app.state.chats = server, SessionChats(engine, store, marks)
    app.include_router(router)
    app.include_router(sessions.router)
    app.include_router(media_routes.router)
    app.include_router(pictures.router)
    for error_class in (CoDi2Error, RequestValidationError, HTTPException):
        app.add_exception_handler(error_class, as_json)
    # the last one added is the first that a request passes
    app.add_middleware(Bodies)
    app.add_middleware(Gate, access=Access(store, keys_when_open))
    if origins:
        app.add_middleware(Faults)  # also inside CORS: pages can read a 500 only with the headers that CORS adds
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
        )
    app.add_middleware(Origins, served=served or Served(), allowed=origins)
    app.add_middleware(Faults)
    app.add_middleware(SafeHeaders)
    app.add_middleware(Counted, counts=server.requests)
    app.add_middleware(Head)
    return app


router = APIRouter()


@router.get("/health")
async def health(request: Request) -> dict[str, Any]:
    """Alive, and the number of jobs. Never waits for the model, and needs no key."""
    engine = server_of(request).engine
    return {"status": "ok", "waiting": engine.waiting, "running": engine.running}


@router.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, response_class=Response)
async def metrics(request: Request, client: Client) -> Response:
    """For Prometheus."""
    return Response(prometheus(server_of(request)), media_type="text/plain; version=0.0.4")


@router.get("/v1/models")
async def models(request: Request, client: Client) -> dict[str, Any]:
    server = server_of(request)
    makes = ["text", *server.engine.model.decoders]
    about = {"id": server.model, "object": "model", "created": 0, "owned_by": "codi2", "codi2": {"makes": makes}}
    return {"object": "list", "data": [about]}


@router.get("/v1/models/{name:path}")
async def one_model(request: Request, name: str, client: Client) -> dict[str, Any]:
    for model in (await models(request, client))["data"]:
        if model["id"] == name:
            return dict(model)
    raise HTTPException(404, f"there is no model {name!r}; this server has {server_of(request).model!r}")


@router.post("/v1/chat/completions")
async def chat_completions(request: Request, body: ChatRequest, client: Client) -> Any:
    """A reply to a conversation that the client holds. Media come in `message.codi2.parts`, in their order."""
    server = server_of(request)
    check_model(server, body.model)
    count = body.n or 1
    if body.stream and count > 1:
        raise FieldError("stream and n > 1 do not go together; ask n times", "n")
    tokens = body.max_completion_tokens or body.max_tokens or DEFAULT_TOKENS
    options = [options_of(body, body.modalities, tokens, i) for i in range(count)]
    messages, jobs = await read_and_submit(request, lambda: wire.conversation(body.messages), options, client, body)
    about = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": server.model}
    about |= {"metadata": body.metadata} if body.metadata else {}
    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return sse(chunks(server, jobs[0], about, tokens, messages, usage))
    replies = await wait_for_replies(request, jobs)

    def answer() -> dict[str, Any]:
        choices = [
            {
                "index": i,
                "message": message_of(server, reply, bool(body.codi2 and body.codi2.content == "parts")),
                "finish_reason": finish_of(server, reply, tokens),
                "logprobs": None,
            }
            for i, reply in enumerate(replies)
        ]
        return {**about, "object": "chat.completion", "choices": choices, "usage": usage_of(server, messages, replies)}

    return await answer_json(answer)


@router.post("/v1/responses")
async def responses(request: Request, body: ResponsesRequest, client: Client) -> Any:
    """The same in the shape of OpenAI's newer route; pictures are `image_generation_call` items."""
    server = server_of(request)
    check_model(server, body.model)
    tokens = body.max_output_tokens or DEFAULT_TOKENS
    options = options_of(body, body.modalities, tokens)
    messages, jobs = await read_and_submit(request, lambda: items.messages_of(body), [options], client, body)
    response = ResponseOf(server, body, messages, tokens)
    if body.stream:
        return sse(response_events(response, jobs[0]))
    (reply,) = await wait_for_replies(request, jobs)
    return await answer_json(lambda: response.answer(reply))


@router.post("/v1/audio/generations", responses={200: {"content": {"audio/wav": {}}}}, response_class=Response)
async def audio_generations(request: Request, body: SoundRequest, client: Client) -> Response:
    """A sound from words, as the bytes of a file."""
    server = server_of(request)
    check_model(server, body.model)
    check_want(body, "audio")
    options = options_of(body, ["audio"], 1)
    jobs = await submit(
        server, [Message("user", (Text(body.input),))], [options], client, body, deadline_of(server, body)
    )
    (reply,) = await wait_for_replies(request, jobs)
    data = await run_in_thread(lambda: file_bytes(reply.sounds[0], body.response_format, mark_of(server, reply.recipe)))
    return Response(data, media_type={"mp3": "audio/mpeg"}.get(body.response_format, f"audio/{body.response_format}"))

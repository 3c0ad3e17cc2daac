"""The HTTP API: OpenAI's routes for what they have words for, `codi2` in a message for the rest.

Version policy: the path says `/v1`. Fields are added within it; one that goes or changes its meaning makes a `/v2`, and
`/v1` stays for two minor versions of the package. `codi2` objects follow the same rule.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import Response, StreamingResponse
from starlette.exceptions import HTTPException

from codi2 import __version__
from codi2.chat.events import Done, Made, Said, Step
from codi2.errors import CoDi2Error, MediaError, PromptError
from codi2.model import Options, Reply
from codi2.prompt.layout import Message
from codi2.prompt.parts import Media, Prompt, Text
from codi2.serve import wire
from codi2.serve.access import Access, NoKey
from codi2.serve.bodies import Bodies
from codi2.serve.decoding import Decoders
from codi2.serve.engine import Engine
from codi2.serve.errors import Failure, as_json, described
from codi2.serve.metrics import prometheus
from codi2.serve.middleware import BodyLimit, Counted, Faults, Gate, Head, Origins, SafeHeaders
from codi2.serve.origins import Served
from codi2.serve.packing import answer_json, aside
from codi2.serve.reading import Deadline, read_messages, read_pictures
from codi2.serve.schemas import MOST_PARTS, ChatRequest, ImageRequest, ResponsesRequest, Settings, SoundRequest
from codi2.serve.store import Store
from codi2.serve.waiting import Waiting, replies_of

MOST_BODY = 64 << 20  # bytes of a request


@dataclass
class Server:
    """What the routes work with."""

    engine: Engine
    store: Store
    model: str
    default_tokens: int = 128
    marks: bool = True  # whether media say in their metadata how they were made
    decoders: Decoders = field(default_factory=Decoders)
    requests: dict[tuple[str, int], int] = field(default_factory=dict)  # by route and status, for /metrics


def create_app(
    engine: Engine,
    store: Store,
    model: str,
    origins: Sequence[str] = (),
    marks: bool = True,
    served: Served | None = None,
    opened: int = 0,
) -> FastAPI:
    """The application.

    Args:
        model: the name that `/v1/models` gives.
        origins: web pages of other hosts that may call it from a browser (`origins.origin`); none by default.
        marks: whether media say in their metadata how they were made.
        served: the hosts that requests may name; None: this machine's loopback addresses and `localhost`.
        opened: see `access.Access`.
    """
    from codi2.serve.media_routes import router as media
    from codi2.serve.sessions import Chats
    from codi2.serve.sessions import router as sessions

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
    app.state.server, app.state.chats = server, Chats(engine, store)
    app.include_router(router)
    app.include_router(sessions)
    app.include_router(media)
    for kind in (CoDi2Error, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, as_json)
    # the last one added is the first that a request passes
    app.add_middleware(Bodies)
    app.add_middleware(BodyLimit, most=MOST_BODY)
    app.add_middleware(Gate, access=Access(store, opened))
    if origins:
        app.add_middleware(Faults)  # inside, too: pages read a 500 only with the headers that CORS adds
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


def server_of(request: Request) -> Server:
    server: Server = request.app.state.server
    return server


def client_of(request: Request) -> str:
    """Who asks, as `middleware.Gate` found. Raises NoKey: the path was taken for one that needs no key."""
    client: str | None = getattr(request.state, "client", None)
    if client is None:
        raise NoKey("this path asks for an API key: Authorization: Bearer …")
    return client


Client = Annotated[str, Depends(client_of)]


@router.get("/health")
async def health(request: Request) -> dict[str, Any]:
    """Alive, and how much waits. Never waits for the model, and asks for no key."""
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
    found = [model for model in (await models(request, client))["data"] if model["id"] == name]
    if not found:
        raise HTTPException(404, f"there is no model {name!r}; this server has {server_of(request).model!r}")
    return dict(found[0])


@router.post("/v1/chat/completions")
async def chat_completions(request: Request, body: ChatRequest, client: Client) -> Any:
    """A reply to a conversation that the client holds. Media come in `message.codi2.parts`, in their order."""
    server = server_of(request)
    check_model(server, body.model)
    count = body.n or 1
    if body.stream and count > 1:
        raise PromptError("stream and n > 1 do not go together; ask n times")
    tokens = body.max_completion_tokens or body.max_tokens or server.default_tokens
    options = [options_of(body, body.modalities, tokens, i) for i in range(count)]
    messages, asked = await _ask(request, lambda: wire.conversation(body.messages), options, client, body)
    about = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": server.model}
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        return sse(_chunks(server, asked[0], about, tokens, messages, usage))
    replies = await replies_of(request, asked)

    def made() -> dict[str, Any]:
        choices = [
            {
                "index": i,
                "message": message_of(server, reply),
                "finish_reason": finish_of(server, reply, tokens),
                "logprobs": None,
            }
            for i, reply in enumerate(replies)
        ]
        return {**about, "object": "chat.completion", "choices": choices, "usage": usage_of(server, messages, replies)}

    return await answer_json(made)


@router.post("/v1/responses")
async def responses(request: Request, body: ResponsesRequest, client: Client) -> Any:
    """The same in the shape of OpenAI's newer route; pictures are `image_generation_call` items."""
    from codi2.serve.responses import answer, messages_of, stream

    server = server_of(request)
    check_model(server, body.model)
    options = options_of(body, body.modalities, body.max_output_tokens or server.default_tokens)
    messages, asked = await _ask(request, lambda: messages_of(body), [options], client, body)
    if body.stream:
        return sse(stream(server, asked[0], messages))
    (reply,) = await replies_of(request, asked)
    return await answer_json(lambda: answer(server, reply, messages))


@router.post("/v1/images/generations")
async def images_generations(request: Request, body: ImageRequest, client: Client) -> Any:
    """Pictures from words."""
    prompt = (Text(body.prompt),)
    return await _pictures(request, lambda _: prompt, [], body, body.n or 1, body.size, body.response_format, client)


@router.post("/v1/images/edits")
async def images_edits(
    request: Request,
    client: Client,
    prompt: Annotated[str, Form(min_length=1, max_length=20_000)],
    image: Annotated[list[UploadFile] | None, File()] = None,
    image_list: Annotated[list[UploadFile] | None, File(alias="image[]")] = None,
    mask: Annotated[UploadFile | None, File()] = None,
    model: Annotated[str, Form(max_length=200)] = "codi2",
    n: Annotated[int, Form(ge=1, le=8)] = 1,
    size: Annotated[str | None, Form()] = None,
    response_format: Annotated[str | None, Form()] = None,
    seed: Annotated[int | None, Form(ge=0, lt=2**63)] = None,
) -> Any:
    """A picture after words and other pictures, which may have placeholders: `make [image1] look like [image0]`."""
    from codi2.prompt.grammar import parse, placeholders

    if mask is not None:
        raise PromptError("a mask is not read here; say in words what is to change")
    files = [*(image or []), *(image_list or [])]
    if not files:
        raise PromptError("there is no image to edit; send one or more in the field image")
    if len(files) > MOST_PARTS:
        raise PromptError(f"there are {len(files)} images, the limit is {MOST_PARTS}; send fewer")
    given: list[bytes] = []
    for file in files:
        given.append(await file.read(wire.MOST_BYTES + 1))
        if len(given[-1]) > wire.MOST_BYTES:
            raise MediaError(f"an image is larger than {wire.MOST_BYTES >> 20} MB; send a smaller one")
    words = prompt if placeholders(prompt) else f"{prompt} " + " ".join(f"[image{i}]" for i in range(len(given)))
    body = ImageRequest(prompt=prompt, model=model, seed=seed)
    return await _pictures(request, lambda media: parse(words, media), given, body, n, size, response_format, client)


@router.post("/v1/audio/generations", responses={200: {"content": {"audio/wav": {}}}}, response_class=Response)
async def audio_generations(request: Request, body: SoundRequest, client: Client) -> Response:
    """A sound from words, as the bytes of a file."""
    server = server_of(request)
    check_model(server, body.model)
    check_want(body, "audio")
    options = options_of(body, ["audio"], 1)
    asked = await _submit(
        server, [Message("user", (Text(body.input),))], [options], client, body, _deadline(server, body)
    )
    (reply,) = await replies_of(request, asked)
    data = await aside(lambda: wire.sound_file(reply.sounds[0], body.response_format, mark_of(server, reply)))
    return Response(data, media_type={"mp3": "audio/mpeg"}.get(body.response_format, f"audio/{body.response_format}"))


async def _pictures(
    request: Request,
    prompt: Callable[[list[Media]], Prompt],
    files: Sequence[bytes],
    body: Settings,
    n: int,
    size: str | None,
    form: str | None,
    client: str,
) -> Response:
    server = server_of(request)
    check_model(server, body.model)
    check_want(body, "image")
    side = server.engine.model.config.decoders["image"].size if "image" in server.engine.model.config.decoders else 0
    if size not in (None, "auto", f"{side}x{side}"):
        raise PromptError(f"size is {size!r}; this model draws {side}x{side}")
    if form == "url":
        raise PromptError("response_format is 'url'; this server keeps no files for others to fetch: use b64_json")
    deadline = _deadline(server, body)
    media = await read_pictures(request, files, server.decoders, client, deadline)
    message = [Message("user", prompt(media))]
    options = [options_of(body, ["image"], 1, i) for i in range(n)]
    replies = await replies_of(request, await _submit(server, message, options, client, body, deadline))

    def made() -> dict[str, Any]:
        shown = [wire.to_part(reply.images[0], mark_of(server, reply)) for reply in replies]
        data = [{"b64_json": part["image_url"]["url"].partition(",")[2]} for part in shown]
        return {"created": int(time.time()), "data": data, "output_format": "png", "size": f"{side}x{side}"}

    return await answer_json(made)


def check_model(server: Server, name: str) -> None:
    """Raises HTTPException 404: this server has another model."""
    if name not in (server.model, "codi2"):
        raise HTTPException(404, f"there is no model {name!r}; this server has {server.model!r}")


def check_want(body: Settings, modality: str) -> None:
    """Raises PromptError: a route that makes one thing is asked for another."""
    if body.codi2.want not in (None, [modality]):
        raise PromptError(
            f"codi2.want is {body.codi2.want}, but this route makes {modality}; leave it out, or use "
            "/v1/chat/completions"
        )


def options_of(body: Settings, modalities: Sequence[str] | None, max_new_tokens: int, plus: int = 0) -> Options:
    """How a reply is to be made; the `plus`-th of several has a seed of its own."""
    said = body.codi2.model_dump(exclude_none=True, exclude={"timeout", "want"})
    want = body.codi2.want or modalities
    if want is not None and set(want) == {"text"}:
        want = ["text"]
    elif body.codi2.want is None and want is not None:
        want = [m for m in want if m != "text"]  # `modalities` says what may come: the media among it do
    return Options(
        want=tuple(want) if want is not None else None,
        seed=((body.seed or 0) + plus) % 2**63,
        temperature=body.temperature or 0.0,
        max_new_tokens=max_new_tokens,
        **said,
    )


def _deadline(server: Server, body: Settings) -> Deadline:
    return Deadline(body.codi2.timeout or server.engine.timeout)


async def _ask(
    request: Request, draft: Callable[[], wire.Draft], options: Sequence[Options], client: str, body: Settings
) -> tuple[list[Message], list[Waiting]]:
    """A request's conversation, and the replies to it that are made: all that `options` say, or none."""
    server, deadline = server_of(request), _deadline(server_of(request), body)
    who = f"{client}/{body.user or ''}"
    layout = server.engine.model.layout
    messages = await read_messages(request, draft, layout, server.decoders, who, deadline)
    return messages, await _submit(server, messages, options, client, body, deadline)


async def _submit(
    server: Server,
    messages: Sequence[Message],
    options: Sequence[Options],
    client: str,
    body: Settings,
    deadline: Deadline,
) -> list[Waiting]:
    who, left = f"{client}/{body.user or ''}", deadline.left
    return await Waiting.several(
        len(options), lambda tells: server.engine.replies(messages, options, tells, who, timeout=left)
    )


def mark_of(server: Server, reply: Reply) -> dict[str, Any] | None:
    """What a medium's metadata say of it."""
    return dict(reply.recipe) if server.marks else None


def message_of(server: Server, reply: Reply) -> dict[str, Any]:
    parts = wire.to_parts(reply.parts, mark_of(server, reply))
    return {
        "role": "assistant",
        "content": reply.text,
        "refusal": None,
        "codi2": {"parts": parts, "recipe": dict(reply.recipe), "notes": list(reply.notes)},
    }


def finish_of(server: Server, reply: Reply, tokens: int) -> str:
    return "length" if _said(reply) >= tokens else "stop"


def _said(reply: Reply) -> int:
    return sum(len(part.ids) for part in reply.parts if isinstance(part, Text))


def usage_of(server: Server, messages: Sequence[Message], replies: Sequence[Reply]) -> dict[str, Any]:
    """Positions of the language model, those of media included."""
    slots = server.engine.model.config.heads.num_slots
    read = server.engine.model.layout.measure(messages)
    written = sum(
        _said(reply) + sum(2 + slots[part.modality] for part in reply.parts if not isinstance(part, Text))
        for reply in replies
    )
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


async def _chunks(
    server: Server, waiting: Waiting, about: dict[str, Any], tokens: int, messages: Sequence[Message], usage: bool
) -> AsyncIterator[dict[str, Any]]:
    """The events of `stream: true`: text as it is said, progress and media under `codi2`."""

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return {**about, "object": "chat.completion.chunk", "choices": [choice], **more}

    yield chunk({"role": "assistant", "content": ""})
    async for event in waiting:
        match event:
            case Said():
                yield chunk({"content": event.text})
            case Step():
                yield chunk({}, codi2={"progress": {"stage": event.stage, "step": event.step, "total": event.total}})
            case Made(place=place, part=part):
                yield chunk({"codi2": {"place": place, "part": await aside(wire.to_part, part)}})
            case Done():
                reply = event.reply
                yield chunk(
                    {},
                    finish_of(server, reply, tokens),
                    codi2={"recipe": dict(reply.recipe), "notes": list(reply.notes)},
                )
                if usage:
                    usage_now = await aside(usage_of, server, messages, [reply])
                    yield {**chunk({}), "choices": [], "usage": usage_now}


def sse(events: AsyncIterator[dict[str, Any]]) -> StreamingResponse:
    """Server-sent events, one JSON object each; an error is the last."""

    async def lines() -> AsyncIterator[str]:
        try:
            async for event in events:
                name = f"event: {event['type']}\n" if "type" in event and "choices" not in event else ""
                yield f"{name}data: {json.dumps(event, ensure_ascii=False)}\n\n"
            yield "data: [DONE]\n\n"
        except Exception as error:
            if not isinstance(error, CoDi2Error):
                logging.getLogger("codi2").exception("a stream failed", exc_info=error)
            yield f"data: {json.dumps(described(error)[1])}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

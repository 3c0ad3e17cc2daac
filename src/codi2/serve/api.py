"""The HTTP API: OpenAI's routes for what they have words for, `codi2` in a message for the rest.

Version policy: the path says `/v1`. Fields are added within it; one that goes or changes its meaning makes a `/v2`, and
`/v1` stays for two minor versions of the package. `codi2` objects follow the same rule.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from codi2 import __version__
from codi2.errors import CoDi2Error, PromptError
from codi2.prompt.grammar import parse, placeholders
from codi2.prompt.layout import Message
from codi2.prompt.parts import Media, Prompt, Text
from codi2.serve import media_routes, sessions, wire
from codi2.serve import responses as responses_api
from codi2.serve.access import Access
from codi2.serve.bodies import Bodies
from codi2.serve.engine import Engine
from codi2.serve.errors import Failure, as_json
from codi2.serve.metrics import prometheus
from codi2.serve.middleware import BodyLimit, Counted, Faults, Gate, Head, Origins, SafeHeaders
from codi2.serve.origins import Served
from codi2.serve.packing import answer_json, aside
from codi2.serve.reading import read_pictures
from codi2.serve.replies import chunks, finish_of, mark_of, message_of, sse, usage_of
from codi2.serve.requests import ask, check_model, check_want, deadline_of, options_of, queue_name, submit
from codi2.serve.schemas import MOST_PARTS, ChatRequest, ImageRequest, ResponsesRequest, Settings, SoundRequest
from codi2.serve.server import Client, Server, server_of
from codi2.serve.store import Store
from codi2.serve.waiting import replies_of

MOST_BODY = 64 << 20  # bytes of a request


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
    app.state.server, app.state.chats = server, sessions.Chats(engine, store)
    app.include_router(router)
    app.include_router(sessions.router)
    app.include_router(media_routes.router)
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
    messages, asked = await ask(request, lambda: wire.conversation(body.messages), options, client, body)
    about = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": server.model}
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        return sse(chunks(server, asked[0], about, tokens, messages, usage))
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
    server = server_of(request)
    check_model(server, body.model)
    options = options_of(body, body.modalities, body.max_output_tokens or server.default_tokens)
    messages, asked = await ask(request, lambda: responses_api.messages_of(body), [options], client, body)
    if body.stream:
        return sse(responses_api.stream(server, asked[0], messages))
    (reply,) = await replies_of(request, asked)
    return await answer_json(lambda: responses_api.answer(server, reply, messages))


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
    if mask is not None:
        raise PromptError("a mask is not read here; say in words what is to change")
    files = [*(image or []), *(image_list or [])]
    if not files:
        raise PromptError("there is no image to edit; send one or more in the field image")
    if len(files) > MOST_PARTS:
        raise PromptError(f"there are {len(files)} images, the limit is {MOST_PARTS}; send fewer")
    images: list[bytes] = []
    for i, file in enumerate(files):
        images.append(await file.read(wire.MOST_BYTES + 1))
        wire.check_bytes(len(images[-1]), f"image {i}")
    words = prompt if placeholders(prompt) else f"{prompt} " + " ".join(f"[image{i}]" for i in range(len(images)))
    body = ImageRequest(prompt=prompt, model=model, seed=seed)
    return await _pictures(request, lambda media: parse(words, media), images, body, n, size, response_format, client)


@router.post("/v1/audio/generations", responses={200: {"content": {"audio/wav": {}}}}, response_class=Response)
async def audio_generations(request: Request, body: SoundRequest, client: Client) -> Response:
    """A sound from words, as the bytes of a file."""
    server = server_of(request)
    check_model(server, body.model)
    check_want(body, "audio")
    options = options_of(body, ["audio"], 1)
    asked = await submit(
        server, [Message("user", (Text(body.input),))], [options], client, body, deadline_of(server, body)
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
    deadline = deadline_of(server, body)
    media = await read_pictures(request, files, server.decoders, queue_name(client, body.user), deadline)
    message = [Message("user", prompt(media))]
    options = [options_of(body, ["image"], 1, i) for i in range(n)]
    replies = await replies_of(request, await submit(server, message, options, client, body, deadline))

    def made() -> dict[str, Any]:
        shown = [wire.to_part(reply.images[0], mark_of(server, reply)) for reply in replies]
        data = [{"b64_json": part["image_url"]["url"].partition(",")[2]} for part in shown]
        return {"created": int(time.time()), "data": data, "output_format": "png", "size": f"{side}x{side}"}

    return await answer_json(made)

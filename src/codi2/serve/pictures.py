"""`/v1/images`: pictures from a text, or from a text and other pictures."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile

from codi2.chat.events import Done, StageProgress
from codi2.errors import PromptError
from codi2.media import picture_bytes
from codi2.model import Reply
from codi2.prompt.grammar import parse, placeholders
from codi2.prompt.layout import Message
from codi2.prompt.parts import Media, Prompt, Text
from codi2.serve import fields, wire
from codi2.serve.packing import answer_json, run_in_thread
from codi2.serve.reading import read_pictures
from codi2.serve.replies import mark_of, sse, usage_of
from codi2.serve.requests import check_model, check_want, deadline_of, options_of, queue_name, submit
from codi2.serve.schemas import MOST_PARTS, ImageRequest
from codi2.serve.server import Client, Server, server_of
from codi2.serve.waiting import JobEvents, wait_for_replies

if TYPE_CHECKING:
    from PIL import Image as PILImage

LEAST_SIDE, MOST_SIDE = 16, 2048  # pixels of a picture that a request may name
FORMATS: Mapping[str, str] = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
"""Name in requests → Pillow's name."""
QUALITY = 95  # of JPEG; WebP is lossless unless the request names a quality
router = APIRouter(prefix="/v1/images")


@router.post("/generations")
async def images_generations(request: Request, body: ImageRequest, client: Client) -> Any:
    """Pictures from a text."""
    prompt = (Text(body.prompt),)
    return await _pictures(request, lambda _: prompt, [], body, client, "image_generation")


@router.post("/edits")
async def images_edits(
    request: Request,
    client: Client,
    prompt: Annotated[str, Form(min_length=1, max_length=20_000)],
    image: Annotated[list[UploadFile] | None, File()] = None,
    image_list: Annotated[list[UploadFile] | None, File(alias="image[]")] = None,
    mask: Annotated[UploadFile | None, File()] = None,
    model: Annotated[str, Form(max_length=200)] = "codi2",
    n: Annotated[int, Form(ge=1, le=8)] = 1,
    size: Annotated[str | None, Form(max_length=20)] = None,
    response_format: Annotated[str | None, Form()] = None,
    output_format: Annotated[str | None, Form()] = None,
    output_compression: Annotated[int | None, Form(ge=0, le=100)] = None,
    stream: Annotated[bool, Form()] = False,
    user: Annotated[str | None, Form(max_length=200)] = None,
    seed: Annotated[int | None, Form(ge=0, lt=2**63)] = None,
) -> Any:
    """Pictures from a text and other pictures, which the text may name: `make [image1] look like [image0]`."""
    if mask is not None:
        raise fields.FieldError("a mask is not read here; say in words what is to change", "mask")
    form = dict(await request.form())
    values = {name: _form_value(value) for name, value in form.items() if name not in ("image", "image[]")}
    known = ("prompt", "model", "n", "size", "response_format", "output_format", "output_compression", "stream")
    fields.check(values, (*known, "user", "seed"), fields.IMAGES)
    files = [*(image or []), *(image_list or [])]
    if not files:
        raise PromptError("there is no image to edit; send one or more in the field image")
    if len(files) > MOST_PARTS:
        raise PromptError(f"there are {len(files)} images, the limit is {MOST_PARTS}; send fewer")
    images: list[bytes] = []
    for i, file in enumerate(files):
        images.append(await file.read(wire.MOST_BYTES + 1))
        wire.check_bytes(len(images[-1]), f"image {i}")
    template = prompt if placeholders(prompt) else f"{prompt} " + " ".join(f"[image{i}]" for i in range(len(images)))
    for name, value, allowed in (
        ("response_format", response_format, ("b64_json", "url")),
        ("output_format", output_format, tuple(FORMATS)),
    ):
        if value not in (None, *allowed):
            raise fields.FieldError(f"{name} is {str(value)[:40]!r}; write {' or '.join(allowed)}", name)
    body = ImageRequest(
        prompt=prompt,
        model=model,
        n=n,
        size=size,
        response_format=response_format,
        output_format=output_format,
        output_compression=output_compression,
        stream=stream,
        user=user,
        seed=seed,
    )
    return await _pictures(request, lambda media: parse(template, media), images, body, client, "image_edit")


def _form_value(value: Any) -> Any:
    """The value of a form's field; None where the field has JSON's null, false, 0 or an empty value as text."""
    return None if value in ("", "null", "false", "False", "0", "[]", "{}") else value


async def _pictures(
    request: Request,
    prompt: Callable[[list[Media]], Prompt],
    files: Sequence[bytes],
    body: ImageRequest,
    client: str,
    kind: str,
) -> Any:
    server = server_of(request)
    check_model(server, body.model)
    check_want(body, "image")
    size = size_of(body.size)
    if body.response_format == "url":
        message = "response_format is 'url'; this server keeps no files for others to fetch: use b64_json"
        raise fields.FieldError(message, "response_format")
    deadline = deadline_of(server, body)
    media = await read_pictures(request, files, server.decoders, queue_name(client, body.person), deadline)
    messages = [Message("user", prompt(media))]
    options = [options_of(body, ["image"], 1, i) for i in range(body.n or 1)]
    jobs = await submit(server, messages, options, client, body, deadline)
    if body.stream:
        return sse(_events(server, jobs, body, size, messages, kind))
    replies = await wait_for_replies(request, jobs)

    def answer() -> dict[str, Any]:
        pictures = [_encode_picture(server, reply, body, size) for reply in replies]
        return {
            "created": int(time.time()),
            "data": [{"b64_json": picture} for picture, _, _ in pictures],
            **_about(body, pictures[0][1]),
            "usage": _usage(server, messages, replies),
            "codi2": {"notes": list(dict.fromkeys(note for *_, notes in pictures for note in notes))},
        }

    return await answer_json(answer)


async def _events(
    server: Server,
    jobs: Sequence[JobEvents],
    body: ImageRequest,
    size: tuple[int, int] | None,
    messages: Sequence[Message],
    kind: str,
) -> AsyncIterator[dict[str, Any]]:
    """The events of `stream: true`: each picture when it is done; progress is `<kind>.codi2.progress`."""
    try:
        for index, job_events in enumerate(jobs):
            async for event in job_events:
                if isinstance(event, StageProgress):
                    progress = {"stage": event.stage, "step": event.step, "total": event.total}
                    yield {"type": f"{kind}.codi2.progress", "index": index, **progress}
                elif isinstance(event, Done):
                    picture, actual_size, notes = await run_in_thread(_encode_picture, server, event.reply, body, size)
                    yield {
                        "type": f"{kind}.completed",
                        "index": index,
                        "b64_json": picture,
                        "created_at": int(time.time()),
                        **_about(body, actual_size),
                        "usage": await run_in_thread(_usage, server, messages, [event.reply]),
                        "codi2": {"notes": notes},
                    }
    finally:
        for job_events in jobs:
            job_events.job.cancel()


def size_of(text: str | None) -> tuple[int, int] | None:
    """Width and height in pixels; None: the model's own size. Raises FieldError."""
    if text in (None, "", "auto"):
        return None
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text or "", re.ASCII)
    sides = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(LEAST_SIDE <= side <= MOST_SIDE for side in sides):
        raise fields.FieldError(
            f"size is {text!r}; write WIDTHxHEIGHT with sides from {LEAST_SIDE} to {MOST_SIDE}, or auto", "size"
        )
    return sides


def fit_picture(pixels: PILImage.Image, size: tuple[int, int] | None) -> tuple[PILImage.Image, list[str]]:
    """A picture at the requested size, and notes for the user; for another aspect ratio its edges are cut off."""
    from PIL import Image as PILImage
    from PIL import ImageOps

    if size is None or size == pixels.size:
        return pixels, []
    native = "x".join(map(str, pixels.size))
    same_shape = pixels.width * size[1] == pixels.height * size[0]
    cut = "" if same_shape else ", of which the middle was kept"
    note = f"The picture was drawn at {native}{cut}, and resized to {size[0]}x{size[1]}."
    return ImageOps.fit(pixels, size, PILImage.Resampling.LANCZOS), [note]


def _encode_picture(
    server: Server, reply: Reply, body: ImageRequest, size: tuple[int, int] | None
) -> tuple[str, tuple[int, int], list[str]]:
    """The reply's picture in base64, its size, and the notes."""
    native = reply.images[0].pixels
    pixels, notes = fit_picture(native, size)
    mark = mark_of(server, reply.recipe)
    if mark is not None and notes:
        mark["drawn_at"] = list(native.size)
    kind = FORMATS[body.output_format or "png"]
    quality = body.output_compression if body.output_compression is not None else 100 if kind == "WEBP" else QUALITY
    return wire.b64(picture_bytes(pixels, kind, mark, quality)), pixels.size, [*reply.notes, *notes]


def _about(body: ImageRequest, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "output_format": body.output_format or "png",
        "size": f"{size[0]}x{size[1]}",
        "quality": "auto",
        "background": "opaque",
    }


def _usage(server: Server, messages: Sequence[Message], replies: Sequence[Reply]) -> dict[str, Any]:
    usage = usage_of(server, messages, replies)
    return {
        "input_tokens": usage["prompt_tokens"],
        "output_tokens": usage["completion_tokens"],
        "total_tokens": usage["total_tokens"],
    }

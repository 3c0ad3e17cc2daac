"""From the body of a request to a conversation with decoded media."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from fastapi import Request

from codi2.errors import LateError, MediaError
from codi2.prompt.layout import Layout, Message
from codi2.prompt.parts import Image, Media, Video
from codi2.prompt.references import resolve_conversation
from codi2.serve.decoder_process import STILL
from codi2.serve.decoding import Decoders, File
from codi2.serve.waiting import while_connected
from codi2.serve.wire import EncodedConversation


class Deadline:
    """When a request has to be answered. Decoding of media, waiting and the reply share its seconds."""

    def __init__(self, seconds: float) -> None:
        self.at = asyncio.get_running_loop().time() + seconds

    @property
    def left(self) -> float:
        """Seconds. Raises LateError: none are left."""
        left = self.at - asyncio.get_running_loop().time()
        if left <= 0:
            raise LateError("the request's media were not read before its deadline; send less, or allow more")
        return left


async def read_messages(
    request: Request,
    read_body: Callable[[], EncodedConversation],
    layout: Layout,
    decoders: Decoders,
    client: str,
    deadline: Deadline,
) -> list[Message]:
    """The conversation of a request, as `prompt.references.resolve_conversation` returns it.

    Args:
        read_body: called in a thread.
    Raises:
        PromptError, MediaError, BusyError, LateError; HTTPException 499: the client has disconnected.
    """
    encoded = await asyncio.to_thread(read_body)
    messages = await decode_conversation(request, encoded, layout, decoders, client, deadline)
    return await asyncio.to_thread(resolve_conversation, messages)


async def decode_conversation(
    request: Request, encoded: EncodedConversation, layout: Layout, decoders: Decoders, client: str, deadline: Deadline
) -> list[Message]:
    """The messages with decoded media. Raises as `read_messages`."""
    layout.check_length(encoded.text_messages)  # before any other work on the text, which may be very long
    media = await read_files(request, [medium.file for medium in encoded.media], decoders, client, deadline)
    return encoded.with_media(media)


async def read_files(
    request: Request, files: Sequence[File], decoders: Decoders, client: str, deadline: Deadline
) -> list[Media]:
    """The media of a request. Raises as `read_messages`."""
    if not files:
        return []
    return await while_connected(request, decoders.load(files, client, deadline.at))


async def read_pictures(
    request: Request, files: Sequence[bytes], decoders: Decoders, client: str, deadline: Deadline
) -> list[Media]:
    """Files that should be pictures; a clip becomes its first frame. Raises as `read_messages`."""
    named_files = [File(data, STILL, f"image {i}") for i, data in enumerate(files)]
    pictures: list[Media] = []
    decoded = await read_files(request, named_files, decoders, client, deadline)
    for file, media in zip(named_files, decoded, strict=True):
        if isinstance(media, Video):
            media = Image(media.frames[0], media.name)
        if not isinstance(media, Image):
            raise MediaError(f"{file.name} is {media.modality}, but must be a picture; give a PNG or JPEG file")
        pictures.append(media)
    return pictures

"""From the body of a request to a conversation with decoded media."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from fastapi import Request

from codi2.errors import LateError, MediaError
from codi2.prompt.layout import Layout, Message
from codi2.prompt.parts import Image, Media, Video
from codi2.prompt.references import as_held
from codi2.serve.decoder_process import STILL
from codi2.serve.decoding import Decoders, File
from codi2.serve.waiting import while_connected
from codi2.serve.wire import Draft


class Deadline:
    """When a request has to be answered: decoding its media, waiting and the reply share its seconds."""

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
    request: Request, draft: Callable[[], Draft], layout: Layout, decoders: Decoders, client: str, deadline: Deadline
) -> list[Message]:
    """The conversation of a request, as `prompt.references.as_held` has it.

    Args:
        draft: reads the body; it is called in a thread.
    Raises:
        PromptError, MediaError, BusyError, LateError, HTTPException 499: the client has left.
    """
    messages = await read_draft(request, await asyncio.to_thread(draft), layout, decoders, client, deadline)
    return await asyncio.to_thread(as_held, messages)


async def read_draft(
    request: Request, draft: Draft, layout: Layout, decoders: Decoders, client: str, deadline: Deadline
) -> list[Message]:
    """The messages of a draft with their media. Raises as `read_messages`."""
    layout.check_length(draft.words)  # before anything looks at these words
    media = await read_files(request, [part.file for part in draft.encoded], decoders, client, deadline)
    return draft.filled(media)


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
    """Files that should be pictures; of a clip the first frame is taken. Raises as `read_messages`."""
    named = [File(data, STILL, f"image {i}") for i, data in enumerate(files)]
    pictures: list[Media] = []
    for file, media in zip(named, await read_files(request, named, decoders, client, deadline), strict=True):
        if isinstance(media, Video):
            media = Image(media.frames[0], media.name)
        if not isinstance(media, Image):
            raise MediaError(f"{file.name} is {media.modality}, and a picture is wanted here; give a PNG or JPEG file")
        pictures.append(media)
    return pictures

"""Media of sessions as bytes, and uploads: `/v1/media` and `/v1/sessions/{id}/media`.

Clients name media by ids, and an id is looked up among the media of this client only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from PIL import Image as PILImage

from codi2.chat.files import part_reader
from codi2.errors import PromptError
from codi2.media import LOSSLESS, file_bytes, picture_bytes
from codi2.modalities import SenseName
from codi2.prompt.parts import IMU, Audio, Depth, Image, Part, Thermal, Video
from codi2.senses import render_sense
from codi2.serve import views, wire
from codi2.serve.decoding import File
from codi2.serve.packing import CLIPS, SESSIONS, run_while_connected
from codi2.serve.reading import Deadline, read_files
from codi2.serve.requests import queue_name
from codi2.serve.server import Client, server_of
from codi2.serve.store import Store
from codi2.serve.uploads import NoMedium

BYTES = {"requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}}
router = APIRouter(prefix="/v1")


@router.post("/media", openapi_extra=BYTES)
async def upload(
    request: Request, client: Client, kind: Annotated[SenseName | None, Query(alias="type")] = None
) -> dict[str, Any]:
    """Stores the bytes of the body for an hour, for messages of sessions: `{"type": "media", "id": …}`."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        wire.check_bytes(len(data), "the medium")
    server = server_of(request)
    file = File(bytes(data), kind or "", "the medium")
    (media,) = await read_files(request, [file], server.decoders, queue_name(client), Deadline(server.engine.timeout))
    name = await asyncio.to_thread(server.store.uploads.put, client, file.data, file.kind)
    return {"id": name, "object": "medium", **_about(media)}


@router.delete("/media/{medium}")
async def delete_upload(request: Request, medium: str, client: Client) -> dict[str, Any]:
    await asyncio.to_thread(server_of(request).store.uploads.delete, client, medium)
    return {"id": medium, "object": "medium", "deleted": True}


@router.get("/sessions/{name}/media/{medium}", response_class=Response)
async def read_medium(
    request: Request,
    name: str,
    medium: str,
    client: Client,
    sound: Annotated[
        str | None, Query(max_length=100, description="Id of the sound that a clip is played with.")
    ] = None,
) -> Response:
    """A medium of a session as a file that browsers show: PNG, FLAC or MP4."""
    server = server_of(request)

    def read() -> tuple[bytes, str]:
        part, recipe = _load(server.store, client, name, medium)
        sound_part = _load(server.store, client, name, sound)[0] if sound is not None else None
        return _file(part, recipe if server.marks else None, sound_part)

    data, kind = await run_while_connected(request, read, CLIPS if views.is_clip(medium) else SESSIONS)
    return Response(data, media_type=kind)


@router.get("/sessions/{name}/media/{medium}/thumbnail", response_class=Response)
async def read_thumbnail(
    request: Request,
    name: str,
    medium: str,
    client: Client,
    side: Annotated[int, Query(ge=16, le=1024, description="Most pixels of the longer side.")] = 192,
) -> Response:
    """A small picture of a medium: of a clip its first frame, of a sound its loudness over time."""
    server = server_of(request)

    def read() -> bytes:
        part, recipe = _load(server.store, client, name, medium, still=True)
        return picture_bytes(_thumbnail(part, side), "PNG", recipe if server.marks else None)

    return Response(await run_while_connected(request, read, SESSIONS), media_type="image/png")


def read_id(store: Store, client: str, session: str, part: Mapping[str, Any], where: str) -> wire.PartOrEncoded:
    """The medium of the session, or the upload, that `{"type": "media", "id": …}` in a message names.

    Raises NoSession, NoMedium, PromptError.
    """
    medium = part.get("id")
    if not isinstance(medium, str):
        raise PromptError(f"{where} is a medium without an id; send the id of an upload")
    stored = views.find(store.rounds_with(client, session, views.files_of(medium)), medium)
    if stored is not None:
        return part_reader(store.get)(stored[0])
    kind, data = store.uploads.get(client, medium)
    return wire.EncodedMedium(File(data, kind, where), None)


def _load(
    store: Store, client: str, session: str, medium: str, still: bool = False
) -> tuple[Part, Mapping[str, Any] | None]:
    """A medium and the recipe of the reply that made it; with `still`, a clip has its first frame only.

    Raises NoSession, NoMedium.
    """
    stored = views.find(store.rounds_with(client, session, views.files_of(medium)), medium)
    if stored is None:
        raise NoMedium(f"this session has no medium {medium[:60]!r}; read the session again")
    part, recipe = stored
    if still and part["type"] == "video":
        part = {**part, "file": part["file"][:1]}
    return part_reader(store.get)(part), recipe


def _about(media: Part) -> dict[str, Any]:
    match media:
        case Image():
            return {"type": "image", "width": media.pixels.width, "height": media.pixels.height}
        case Audio():
            return {"type": "audio", "seconds": round(media.seconds, 3)}
        case Video():
            return {"type": "video", "seconds": round(len(media.frames) / media.fps, 3)}
    return {"type": media.modality}


def _file(part: Part, mark: Mapping[str, Any] | None, sound: Part | None) -> tuple[bytes, str]:
    match part:
        case Image() | Audio():
            suffix = LOSSLESS[part.modality]
            return file_bytes(part, suffix, mark), f"{part.modality}/{suffix}"
        case Video():
            return file_bytes(part, "mp4", mark, sound if isinstance(sound, Audio) else part.sound), "video/mp4"
        case Depth() | Thermal() | IMU():
            return picture_bytes(render_sense(part)), "image/png"
    raise NoMedium("this part is text and not a medium; read the session again")


def _thumbnail(part: Part, side: int) -> PILImage.Image:
    match part:
        case Image():
            small = part.pixels.copy()
        case Video():
            small = part.frames[0].copy()
        case Audio():
            small = PILImage.fromarray(_loudness(part.samples))
        case Depth() | Thermal() | IMU():
            small = render_sense(part)
        case _:
            raise NoMedium("this part is text and not a medium; read the session again")
    small.thumbnail((side, side))
    return small


def _loudness(samples: np.ndarray, bars: int = 24, side: int = 96) -> np.ndarray:
    """Grey bars uint8 [side, side, 4] on a transparent ground, visible on light and dark pages."""
    peaks = np.array([np.abs(piece).max(initial=0.0) for piece in np.array_split(samples, bars)])
    heights = np.maximum(2, (peaks / max(float(peaks.max(initial=0.0)), 1e-6) * side * 0.9)).astype(int)
    picture = np.zeros((side, side, 4), np.uint8)
    for i, height in enumerate(heights):
        top = (side - height) // 2
        picture[top : top + height, i * side // bars : i * side // bars + 2] = (128, 128, 140, 255)
    return picture

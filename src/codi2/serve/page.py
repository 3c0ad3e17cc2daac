"""The chat page at `/`: static files of the package. It is a client of the API, with the same keys and limits.

Each file of the lists below has a route of its own, so no part of a request is ever joined to a path.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files

from fastapi import FastAPI, Request
from fastapi.responses import Response

from codi2.demo import media_folder

TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8",
         "svg": "image/svg+xml", "png": "image/png", "wav": "audio/wav", "webp": "image/webp"}  # fmt: skip
MODULES = ("api", "app", "composer", "conversation", "dialogs", "dom", "examples", "items", "media", "microphone",
           "settings", "sidebar", "theme", "want")  # fmt: skip
FILES = ("style.css", "theme.css", "icon.svg", *(f"{name}.js" for name in MODULES))
EXAMPLES = ("goose-google.png", "mango-twitter.png", "broccoli-google.png", "broccoli-fluent.png", "tiger.png",
            "taxi-google.png", "goose-fluent.png", "piano.wav")  # fmt: skip


def mount(app: FastAPI) -> None:
    """Serves the page, its modules and the media of its examples. Raises DataError: the sample media are missing."""
    static, samples = files("codi2.serve") / "static", media_folder()
    _serve(app, "/", (static / "index.html").read_bytes(), "html")
    for name in FILES:
        _serve(app, f"/static/{name}", (static / name).read_bytes(), name.rpartition(".")[2])
    for name in EXAMPLES:
        _serve(app, f"/static/examples/{name}", (samples / name).read_bytes(), name.rpartition(".")[2])


def _serve(app: FastAPI, path: str, content: bytes, kind: str) -> None:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    # browsers check each time, and get a 304 where the file is the same
    headers = {"Cache-Control": "no-cache", "ETag": tag}

    async def read(request: Request) -> Response:
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=TYPES[kind], headers=headers)

    app.add_api_route(path, read, methods=["GET"], include_in_schema=False)

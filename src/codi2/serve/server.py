"""The objects that all routes use, and the client of a request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from codi2.serve.access import NoKey
from codi2.serve.decoding import Decoders
from codi2.serve.engine import Engine
from codi2.serve.store import Store

DEFAULT_TOKENS = 128  # of a reply's text, where the request names no limit


@dataclass
class Server:
    """The objects that all routes use."""

    engine: Engine
    store: Store
    model: str
    marks: bool = True  # whether the metadata of media hold the recipe that made them
    decoders: Decoders = field(default_factory=Decoders)
    requests: dict[tuple[str, int], int] = field(default_factory=dict)  # by route and status, for /metrics


def server_of(request: Request) -> Server:
    server: Server = request.app.state.server
    return server


def client_of(request: Request) -> str:
    """The client that `middleware.Gate` has identified. Raises NoKey: it did not require a key for this path."""
    client: str | None = getattr(request.state, "client", None)
    if client is None:
        raise NoKey("this path asks for an API key: Authorization: Bearer …")
    return client


Client = Annotated[str, Depends(client_of)]

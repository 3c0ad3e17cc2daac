"""What every route works with: the server's parts, and who asks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from codi2.serve.access import NoKey
from codi2.serve.decoding import Decoders
from codi2.serve.engine import Engine
from codi2.serve.store import Store


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

"""Serves one model in one process: engine, API and page."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codi2.errors import ConfigError, MissingDependencyError
from codi2.placement import ON_CPU, Placement
from codi2.serve.application import application, open_store
from codi2.serve.memory import return_large_blocks
from codi2.serve.origins import Served, is_loopback, origin
from codi2.serve.store import Store

PATIENCE = 30.0  # seconds in which running requests may finish when the server stops


def run(
    model: str,
    host: str,
    port: int,
    folder: Path | None = None,
    origins: Sequence[str] = (),
    hosts: Sequence[str] = (),
    without_keys: bool = False,
    max_batch: int = 8,
    max_waiting: int = 64,
    timeout: float = 120.0,
    safety: bool = False,
    marks: bool = True,
    page: bool = True,
    placement: Placement = ON_CPU,
    replicas: int = 0,
    address: str | None = None,
) -> None:
    """Serves until a signal stops it, and finishes the requests that it has accepted.

    Args:
        origins: web pages of other hosts that may call it from a browser, such as https://example.com.
        hosts: names that requests may call it by, besides its own address and localhost.
        without_keys: serve this machine without keys although there were keys, which are all revoked.
    Raises:
        ConfigError: other machines could reach it and there is no key; a host or an origin is malformed; the port is
            in use.
        MissingDependencyError: the extra `serve` is not installed.
    """
    served, allowed = Served.at(host, hosts), [origin(value) for value in origins]
    check_port(host, port)
    store = open_store(folder)
    settings: dict[str, Any] = {"model": model, "origins": allowed, "placement": placement}
    settings |= {"marks": marks, "page": page}
    settings |= {"served": served, "keys_when_open": check_access(store, host, hosts, without_keys)}
    settings |= {"max_batch": max_batch, "max_waiting": max_waiting, "timeout": timeout, "safety": safety}
    if replicas:
        from codi2.serve.ray import run_replicas

        store.close()
        run_replicas(replicas, host, port, folder, address=address, **settings)
        return
    try:
        import uvicorn

        from codi2.serve.protocol import Http
    except ImportError as error:
        raise MissingDependencyError(f"serving needs {error.name}: pip install 'codi2[serve]'") from error
    sys.setswitchinterval(0.001)  # seconds: how long the event loop may wait for the Python of the model's thread
    print(f"Loading the model {model}.", flush=True)
    app, engine = application(store, **settings)
    return_large_blocks()
    app.state.server.decoders.start()
    gc.collect()
    gc.freeze()  # loaded objects stay for good: a collection of them would delay the event loop
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=int(PATIENCE),
        server_header=False,
        http=Http,
        ws="none",
    )
    server = uvicorn.Server(config)
    uvicorn_startup, uvicorn_shutdown = server.startup, server.shutdown

    async def start_and_print(*sockets: Any, **options: Any) -> None:
        await uvicorn_startup(*sockets, **options)
        for listener in server.servers:
            for listening in listener.sockets:
                address, number = listening.getsockname()[:2]
                print(f"Serving at http://{f'[{address}]' if ':' in address else address}:{number}", flush=True)

    async def close_and_stop(*sockets: Any, **options: Any) -> None:
        # the engine stops first, so that clients whose work takes too long still get an error
        closing = asyncio.create_task(asyncio.to_thread(engine.close, PATIENCE - 5))
        await uvicorn_shutdown(*sockets, **options)
        await closing

    server.startup = start_and_print  # type: ignore[method-assign]
    server.shutdown = close_and_stop  # type: ignore[method-assign]
    try:
        server.run()
    finally:
        engine.close(PATIENCE)
        store.close()


def check_port(host: str, port: int) -> None:
    """Raises ConfigError: the server could not listen there. This is checked before the model is loaded."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        raise ConfigError(
            f"the server cannot listen at {host}, port {port} ({error.strerror}); choose another --host or --port"
        ) from error


def check_access(store: Store, host: str, hosts: Sequence[str], without_keys: bool) -> int:
    """The number of keys when the server starts open, 0 otherwise (`access.Access`); prints who may use it.

    Raises ConfigError: other machines could use it without a key, or `without_keys` is set while keys are in use.
    """
    keys, count = store.list_keys(), store.count_keys()
    public = next((name for name in (host, *hosts) if not is_loopback(name)), None)
    if not keys and public is not None:
        raise ConfigError(
            f"{public} can be reached by others: make a key first (codi2 keys new LABEL), or serve 127.0.0.1 alone"
        )
    if keys and without_keys:
        raise ConfigError(
            f"there are keys in use: {', '.join(key.label for key in keys)}; revoke them (codi2 keys revoke LABEL), or "
            "start without --without-keys"
        )
    if not count or without_keys:
        print("No key: anyone on this machine may use it.", flush=True)
        return count
    if not keys:
        print(
            "Every key was revoked: all requests are refused. Make one (codi2 keys new LABEL), or start with "
            "--without-keys.",
            flush=True,
        )
    return 0

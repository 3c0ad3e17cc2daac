"""`codi2 serve` and `codi2 keys`: the server and its API keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codi2.cli.output import ModelOption, check_model
from codi2.cli.placement import placed
from codi2.placement import ON_CPU, Placement

DataOption = Annotated[
    Path | None, typer.Option("--data", help="Folder of sessions and keys; $CODI2_HOME/serve by default.")
]


@placed
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; other than loopback: an API key is required.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    data: DataOption = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="A web page's origin that may call from a browser, https://example.com.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A host name in requests, such as that of a reverse proxy: example.com.")
    ] = None,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Serve this machine without keys although every key was revoked.")
    ] = False,
    max_batch: Annotated[int, typer.Option(min=1, max=256, help="Most replies that are made together.")] = 8,
    max_waiting: Annotated[int, typer.Option(min=1, help="Requests that may wait; above it they get a 429.")] = 64,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until a request is given up.")] = 120.0,
    safety: Annotated[
        bool, typer.Option("--safety", help="Withhold pictures that a classifier rates as unsafe.")
    ] = False,
    marks: Annotated[bool, typer.Option("--marks/--no-marks", help="Whether files of media hold their recipe.")] = True,
    page: Annotated[bool, typer.Option("--page/--no-page", help="The chat page at /.")] = True,
    ray: Annotated[int, typer.Option("--ray", min=0, help="Replicas of Ray Serve; 0: this process alone.")] = 0,
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster, for --ray; by default one is started.")] = None,
    model: ModelOption = "tiny",
    placement: Placement = ON_CPU,
) -> None:
    """Serve a model: an API in the form of OpenAI's, sessions, and a chat page."""
    check_model(model)

    from codi2.serve.run import run

    run(
        model,
        host,
        port,
        folder=data,
        origins=allow_origin or [],
        hosts=allow_host or [],
        without_keys=without_keys,
        max_batch=max_batch,
        max_waiting=max_waiting,
        timeout=timeout,
        safety=safety,
        marks=marks,
        page=page,
        placement=placement,
        replicas=ray,
        address=address,
    )


keys = typer.Typer(no_args_is_help=True, help="API keys of the server.")


@keys.command()
def new(
    label: Annotated[str, typer.Argument(help="Name of the key.")],
    per_minute: Annotated[int, typer.Option(min=0, help="Requests a minute; 0: no limit.")] = 0,
    data: DataOption = None,
) -> None:
    """Make a key and print it, this once. From the first key on, servers require a key, running servers as well."""
    from codi2.serve.application import open_store

    typer.echo(open_store(data).make_key(label, per_minute))


@keys.command("list")
def list_keys(data: DataOption = None) -> None:
    """List labels and limits."""
    from codi2.serve.application import open_store

    for key in open_store(data).list_keys():
        typer.echo(f"{key.label}  {key.per_minute or 'any number'} a minute")


@keys.command()
def revoke(
    label: Annotated[str, typer.Argument(help="Name of the key.")],
    delete_sessions: Annotated[
        bool, typer.Option("--delete-sessions", help="Delete its conversations and their media as well.")
    ] = False,
    data: DataOption = None,
) -> None:
    """Revoke a key: running servers refuse it from now on, and its conversations cannot be read any more.

    Without any key left, servers refuse every request.
    """
    from codi2.serve.application import open_store

    store = open_store(data)
    owner = store.revoke(label).id
    if delete_sessions:
        for session in store.sessions(owner):
            store.delete(owner, session.id)

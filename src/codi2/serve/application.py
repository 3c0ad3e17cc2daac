"""Builds the application of one process or replica: store, model, engine, API and page."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from codi2.errors import MissingDependencyError
from codi2.hub import home
from codi2.placement import Placement
from codi2.serve.origins import Served
from codi2.serve.store import Store


def open_store(folder: Path | None = None) -> Store:
    """Sessions and keys; `$CODI2_HOME/serve` by default. A new folder is closed to other users."""
    folder = folder or home() / "serve"
    with suppress(OSError):  # the store raises the error
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Store(folder)


def application(
    store: Store,
    model: str,
    origins: Sequence[str],
    max_batch: int,
    max_waiting: int,
    timeout: float,
    placement: Placement,
    safety: bool,
    marks: bool,
    page: bool = False,
    served: Served | None = None,
    keys_when_open: int = 0,
) -> tuple[Any, Any]:
    """The application of one process or replica, with a model of its own, and its engine.

    Raises MissingDependencyError: the extra `serve`, or that of the filter, is not installed.
    """
    try:
        from codi2.serve.api import create_app
        from codi2.serve.engine import Engine
    except ImportError as error:
        raise MissingDependencyError(f"serving needs {error.name}: pip install 'codi2[serve]'") from error
    from codi2.model import CoDi2
    from codi2.serve.safety import ImageFilter

    check = ImageFilter() if safety else None
    engine = Engine(CoDi2.from_pretrained(model, **vars(placement)), max_batch, max_waiting, timeout, check)
    app = create_app(engine, store, model, origins, marks, served, keys_when_open)
    if page:
        from codi2.serve.page import mount

        mount(app)
    return app, engine

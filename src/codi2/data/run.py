"""Run one function over many tasks: in this process, in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from codi2 import errors
from codi2.errors import CoDi2Error, DataError, MissingDependencyError
from codi2.progress import columns

Task = TypeVar("Task")


def results(
    function: Callable[[Task], dict[str, Any]],
    tasks: Sequence[Task],
    workers: int,
    ray: str | None,
    title: str,
    done: int = 0,
    gpus: int = 0,
) -> Iterator[dict[str, Any]]:
    """The results of the tasks in the order in which they finish, with a progress bar.

    Args:
        function: importable by name. Its output must be the same if it runs twice, since the task of a worker that
            dies is run again.
        done: tasks finished earlier, for the bar.
        gpus: of a cluster, for each task alone.

    Raises:
        DataError: a process died; a cluster cannot be reached. Errors of `function` are raised unchanged.
    """
    if not tasks:
        return
    if ray is not None:
        stream = _on_ray(function, tasks, ray, workers, gpus)
    elif workers > 1 and len(tasks) > 1:
        stream = _in_processes(function, tasks, workers)
    else:
        stream = map(function, tasks)
    yield from _shown(stream, title, done, done + len(tasks))


def _shown(stream: Iterator[dict[str, Any]], title: str, done: int, total: int) -> Iterator[dict[str, Any]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(*columns(), console=Console(stderr=True)) as progress:
        bar = progress.add_task(title, total=total, completed=done)
        for result in stream:
            progress.advance(bar)
            yield result


def _in_processes(
    function: Callable[[Task], dict[str, Any]], tasks: Sequence[Task], workers: int
) -> Iterator[dict[str, Any]]:
    # spawned, not forked: a fork of a process with threads (Arrow's, torch's) may hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            for future in as_completed([pool.submit(function, task) for task in tasks]):
                yield future.result()
        except BrokenProcessPool as error:
            raise DataError("a worker process died (out of memory?); run the command again to resume") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _on_ray(
    function: Callable[[Task], dict[str, Any]], tasks: Sequence[Task], address: str, workers: int, gpus: int = 0
) -> Iterator[dict[str, Any]]:
    """Ray Data maps the tasks and runs those of a dead worker again; only their small results travel.

    Media never pass through the object store: a task reads the source and writes its shards, so source and output must
    be on storage that every node can access.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # otherwise Ray sends statistics to its makers
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("--ray needs the package Ray: run `pip install 'codi2[ray]'`") from error
    if not ray.is_initialized():
        _connect(ray, address, workers)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False

    shared = ray.put(list(tasks))

    def run_task(row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"result": json.dumps(function(ray.get(shared)[row["id"]])), "error": ""}
        except CoDi2Error as error:  # a user's error is passed on as it is, without a retry and Ray's traceback
            return {"result": type(error).__name__, "error": str(error)}

    for row in (
        ray.data.range(len(tasks), override_num_blocks=len(tasks)).map(run_task, num_gpus=gpus or None).iter_rows()
    ):
        if row["error"]:
            raise getattr(errors, row["result"], DataError)(row["error"])
        yield json.loads(row["result"])


def _connect(ray: Any, address: str, workers: int) -> None:
    """Raises DataError: there is no cluster at the address."""
    logging = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        cpus = workers if workers > 1 else None
        # the object store is small: the tasks' results are a few bytes
        ray.init(num_cpus=cpus, object_store_memory=200 * 2**20, include_dashboard=False, **logging)
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():  # Ray would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, **logging)
    except (OSError, ValueError) as error:
        raise DataError(f"there is no Ray cluster at {address!r} ({error}); start one, or use --ray local") from error

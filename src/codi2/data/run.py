"""Run one function over many tasks: here, in processes of this machine, or on a Ray cluster."""

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
    """The result of each task as it comes, in any order, with a progress bar.

    Args:
        function: importable by name; what it writes must be the same when it runs twice, since a task whose worker
            dies is run again.
        done: tasks that were finished before, for the bar.
        gpus: of a cluster, that each task has for itself.

    Raises:
        DataError: a process died; a cluster cannot be reached. Errors of `function` come through.
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
            raise DataError("a worker process died (out of memory?); run the command again, it goes on") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _on_ray(
    function: Callable[[Task], dict[str, Any]], tasks: Sequence[Task], address: str, workers: int, gpus: int = 0
) -> Iterator[dict[str, Any]]:
    """Ray Data maps the tasks and runs those of a dead worker again; only their small results travel.

    Media never pass through the object store: a task reads the source and writes its shards itself, so the source
    and the output must be on storage that every node sees.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would call home
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("--ray needs Ray: pip install 'codi2[ray]'") from error
    if not ray.is_initialized():
        _connect(ray, address, workers)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False

    shared = ray.put(list(tasks))

    def one(row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"result": json.dumps(function(ray.get(shared)[row["id"]])), "error": ""}
        except CoDi2Error as error:  # a user's error is told as such, not retried and not buried in a traceback
            return {"result": type(error).__name__, "error": str(error)}

    for row in ray.data.range(len(tasks), override_num_blocks=len(tasks)).map(one, num_gpus=gpus or None).iter_rows():
        if row["error"]:
            raise getattr(errors, row["result"], DataError)(row["error"])
        yield json.loads(row["result"])


def _connect(ray: Any, address: str, workers: int) -> None:
    """Raises DataError: there is no cluster at the address."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        # as large as asked for, and small in memory: the tasks' results are a few bytes
        cpus = workers if workers > 1 else None
        ray.init(num_cpus=cpus, object_store_memory=200 * 2**20, include_dashboard=False, **quiet)
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():  # Ray itself tries for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, **quiet)
    except (OSError, ValueError) as error:
        raise DataError(f"there is no Ray cluster at {address!r} ({error}); start one, or say --ray local") from error

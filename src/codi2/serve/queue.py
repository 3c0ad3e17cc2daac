"""The jobs that wait for the model: a fair order, limits, and batches of jobs with the same stage and shape.

Order: every job has a turn, and the lowest turn runs first. A client's next job gets the turn after its last one, or
the newest turn that has run, if that is later. So a client with a hundred jobs does not delay a client with one.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from codi2.errors import BusyError
from codi2.serve.jobs import Job, OnEvent


class QueueFullError(BusyError):
    """The limit of waiting jobs, or of the bytes that they hold, is reached."""


class JobQueue:
    """Waiting and running jobs. Used from several threads; `lock` guards all of it.

    Args:
        max_waiting: jobs that may wait; above it `add` raises QueueFullError.
        max_held: decoded bytes of media that all jobs may hold together; above it `add` raises QueueFullError.
        on_expired: called with each job that is cancelled or late before it runs.
    """

    def __init__(self, max_waiting: int, max_held: int, on_expired: Callable[[Job], None]) -> None:
        self.max_waiting, self.max_held, self.on_expired = max_waiting, max_held, on_expired
        self.lock = threading.Condition(threading.RLock())
        self.waiting: list[Job] = []
        self.running: list[Job] = []
        self._turns: dict[str, int] = {}  # client → the last turn that it was given; empty while nothing waits
        self._turn = 0  # the newest turn that has run
        self._numbers = itertools.count()
        self._closed = False

    def add(
        self,
        stage: Any,
        callbacks: Sequence[OnEvent],
        client: str,
        timeout: float,
        size: int,
        work: Sequence[Mapping[str, Any]],
        seconds_per_job: float,
    ) -> list[Job]:
        """Adds one job per callback, all or none.

        Args:
            timeout: seconds from now to the jobs' deadline.
            size: decoded bytes of the media that the jobs share.
            work: the other fields of each job.
            seconds_per_job: how long a job takes, for the wait that an error names.
        Raises:
            QueueFullError; BusyError: the queue is closed.
        """
        self.sweep()
        with self.lock:
            if self._closed:
                raise BusyError("the server is shutting down; ask again in a minute", 60.0)
            self._check_room(len(work), size, max(1.0, seconds_per_job * len(self.waiting)))
            deadline = time.monotonic() + timeout
            jobs = []
            for on_event, fields in zip(callbacks, work, strict=True):
                turn = max(self._turns.get(client, -1) + 1, self._turn)
                self._turns[client] = turn
                jobs.append(Job(on_event, client, deadline, turn, next(self._numbers), stage, **fields))
            jobs[0].size = size  # counted once: the jobs share one conversation
            self.waiting += jobs
            self.lock.notify()
            return jobs

    def _check_room(self, count: int, size: int, wait: float) -> None:
        """Raises QueueFullError: `count` more jobs with media of `size` bytes are too many. `wait` is in seconds."""
        waiting = len(self.waiting)
        if waiting + count > self.max_waiting:
            more = f", and {count} more are too many" if count > 1 else ""
            raise QueueFullError(f"{waiting} requests are waiting already{more}; ask again in {wait:.0f} seconds", wait)
        held = sum(job.size for job in (*self.waiting, *self.running))
        if held and held + size > self.max_held:
            raise QueueFullError(
                f"the requests that are waiting hold {held >> 20} MB of media already; ask again in {wait:.0f} seconds",
                wait,
            )

    def add_stage(self, job: Job) -> None:
        """Puts a job back that has another stage to run; it keeps its turn."""
        with self.lock:
            self.waiting.append(job)

    def sweep(self) -> None:
        """Removes the waiting jobs that are over, and calls `on_expired` with each."""
        with self.lock:
            expired = [job for job in self.waiting if job.over]
            self.waiting = [job for job in self.waiting if job not in expired]
        for job in expired:
            self.on_expired(job)

    def next_batch(self, max_batch: int) -> list[Job] | None:
        """Waits for the next batch: the job with the lowest turn, and others of its stage and shape.

        None: the queue is closed and empty.
        """
        with self.lock:
            while True:
                self.sweep()
                if self.waiting:
                    break
                self._turns.clear()
                if self._closed:
                    return None
                self.lock.wait(timeout=1.0)
            ordered = sorted(self.waiting, key=lambda job: (job.turn, job.number))
            first = ordered[0]
            alike = [job for job in ordered if (job.stage, job.shape) == (first.stage, first.shape)]
            batch = [first] if first.stage == "round" else alike[:max_batch]
            self._turn = max(self._turn, first.turn)
            # earlier turns have no effect on `add`
            self._turns = {client: turn for client, turn in self._turns.items() if turn >= self._turn}
            self.waiting = [job for job in self.waiting if job not in batch]
            self.running = batch
            return batch

    def end_batch(self) -> None:
        with self.lock:
            self.running = []

    def close(self) -> None:
        """`add` raises from now on, and `next_batch` returns None when all jobs have run."""
        with self.lock:
            self._closed = True
            self.lock.notify()

    def jobs(self) -> list[Job]:
        """All jobs that wait or run."""
        with self.lock:
            return [*self.waiting, *self.running]

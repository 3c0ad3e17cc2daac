"""A pool of processes that decode the media of requests; see `serve.decoder_process`.

Hostile files attack the decoders of pictures and clips first, by their bytes, their time or their memory. So the server
itself decodes nothing: a process with limits of memory and time decodes the media of one request. When the request
exceeds a limit, or its client disconnects, the process is killed, and no other request waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import codi2
from codi2.errors import BusyError, LateError, LimitError, MediaError
from codi2.prompt.parts import Media
from codi2.serve.decoder_process import TOO_LONG, restore

BUDGET = 512 << 20
"""Limit of decoded bytes of one request's media: 3 for each pixel, 4 for each sample."""
MEMORY = 2048 << 20
"""Limit of a process's address space in bytes, while it decodes the media of one request."""
SECONDS = 30
"""Limit of processor time for one request's media; after twice as many seconds of any time the process is killed."""
PROCESSES = 2
WAITING = 64
"""Limit of requests whose media wait for a process."""
HEADER = 1 << 20  # bytes of the line before an answer's pixels
_LIMITS = "send fewer or smaller media"


@dataclass(frozen=True)
class File:
    """A medium as its client sent it."""

    data: bytes
    kind: str  # `decoder_process.STILL` or `SILENT`, or a kind of `senses.load_as`
    name: str  # in error messages


class Decoders:
    """Decodes the media of requests.

    Requests have turns as in `serve.queue`, so that a client with a hundred requests does not delay a client with one.
    All methods but `close` are for one event loop.
    """

    def __init__(
        self,
        processes: int = PROCESSES,
        seconds: int = SECONDS,
        memory: int = MEMORY,
        budget: int = BUDGET,
        waiting: int = WAITING,
    ) -> None:
        self.seconds, self.budget, self.most_waiting = seconds, budget, waiting
        self._all = [_Process(seconds, memory, budget) for _ in range(processes)]
        self._free = list(self._all)
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="codi2-decoding")
        self._waiting: list[tuple[int, int, asyncio.Future[_Process]]] = []
        self._turns: dict[str, int] = {}  # the last turn of each client that waits
        self._turn = self._number = 0
        self._end = weakref.finalize(self, _kill_all, self._all)

    def start(self) -> None:
        """Starts the processes now, instead of with the first request that needs them."""
        for process in self._all:
            self._threads.submit(process.start)

    def close(self) -> None:
        """Ends the processes; requests whose media are being decoded fail."""
        self._end()
        self._threads.shutdown(wait=False)

    @property
    def pids(self) -> list[int]:
        """Ids of the processes that run."""
        return [process.pid for process in self._all if process.pid]

    async def load(self, files: Sequence[File], client: str = "", deadline: float | None = None) -> list[Media]:
        """The media of one request, in order. Cancelling the call ends the process that works on it.

        Args:
            deadline: of the request, in seconds of the event loop's clock.
        Raises:
            MediaError: a file cannot be read. LimitError: the media are too large, or take too long.
            BusyError: too many requests wait. LateError: the request's own deadline has passed.
        """
        if not files:
            return []
        loop = asyncio.get_running_loop()
        left = float("inf") if deadline is None else deadline - loop.time()
        try:
            process = await asyncio.wait_for(self._take_process(client), min(left, 3600.0))
        except TimeoutError:
            raise LateError("the request's media were not read before its deadline; ask again later") from None
        left = float("inf") if deadline is None else deadline - loop.time()
        process.begin()
        work = loop.run_in_executor(self._threads, process.decode, files)
        work.add_done_callback(lambda _: self._release(process))
        try:
            return await asyncio.wait_for(asyncio.shield(work), min(left, 2 * self.seconds))
        except TimeoutError:
            if left < 2 * self.seconds:
                raise LateError("the request's media were not read before its deadline; send less") from None
            raise process.too_long() from None
        finally:
            if not work.done():
                process.kill()
                work.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _take_process(self, client: str) -> _Process:
        """A process that the caller has to release."""
        if self._free:
            return self._free.pop()
        if len(self._waiting) >= self.most_waiting:
            raise BusyError(f"the media of {len(self._waiting)} requests wait already; ask again later", 5.0)
        turn = max(self._turns.get(client, -1) + 1, self._turn)
        self._turns[client] = turn
        self._number += 1
        future: asyncio.Future[_Process] = asyncio.get_running_loop().create_future()
        entry = (turn, self._number, future)
        self._waiting.append(entry)
        try:
            return await future
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
            elif future.done() and not future.cancelled():
                self._release(future.result())
            raise

    def _release(self, process: _Process) -> None:
        """Gives a process to the request with the lowest turn, or back to the pool."""
        self._waiting = [entry for entry in self._waiting if not entry[2].done()]
        if not self._waiting:
            self._turns.clear()
            self._free.append(process)
            return
        first = min(self._waiting, key=lambda entry: entry[:2])
        self._waiting.remove(first)
        turn, _, future = first
        self._turn = max(self._turn, turn)
        # earlier turns have no effect on `_take_process`
        self._turns = {client: turn for client, turn in self._turns.items() if turn >= self._turn}
        future.set_result(process)


@dataclass
class _Process:
    """One process of the pool, which starts when it is needed and not running."""

    seconds: int
    memory: int
    budget: int
    _process: subprocess.Popen[bytes] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _killed: bool = False

    @property
    def pid(self) -> int:
        process = self._process
        return process.pid if process is not None and process.poll() is None else 0

    def start(self) -> None:
        """Starts the process, unless it runs or was killed for the current request."""
        with self._lock:
            if self._killed or (self._process is not None and self._process.poll() is None):
                return
            source = str(Path(codi2.__file__).parent.parent)
            paths = [source, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
            env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
            env |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # a process with threads must not fork
            limits = [str(number) for number in (self.memory >> 20, self.seconds, self.budget)]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "codi2.serve.decoder_process", *limits],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=env,
                start_new_session=True,  # it can be killed with its children, and ignores the terminal's Ctrl-C
            )

    def begin(self) -> None:
        """Assigns the process to a new request; a later `kill` is for this request."""
        self._killed = False

    def decode(self, files: Sequence[File]) -> list[Media]:
        """Sends files and waits for their media. Raises as `Decoders.load`."""
        try:
            self.start()
        except OSError as error:
            reason = f"the decoder of media cannot be started ({error.strerror}); ask again later"
            raise BusyError(reason, 10.0) from error
        process = self._process
        if process is None or self._killed:
            if process is not None:
                process.wait()  # so that the next request does not find it running
            raise self.too_long()
        assert process.stdin is not None and process.stdout is not None
        descriptions = [{"kind": file.kind, "name": file.name, "bytes": len(file.data)} for file in files]
        try:
            process.stdin.write(json.dumps({"media": descriptions}).encode() + b"\n")
            for file in files:
                process.stdin.write(file.data)
            process.stdin.flush()
            answer: dict[str, Any] = json.loads(process.stdout.readline(HEADER))
            if "error" in answer:
                raise LimitError(answer["error"]) if answer["limit"] else MediaError(answer["error"])
            if sum(medium["bytes"] for medium in answer["media"]) > self.budget:
                raise EOFError("more bytes than it may answer")
            return [restore(medium, process.stdout) for medium in answer["media"]]
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            # The process has ended, or its answer is malformed: nothing else may be read from it.
            was_killed = self._killed
            code = _exit_code(process)
            self.kill()
            process.wait()
            if was_killed or code == TOO_LONG:
                raise self.too_long() from error
            raise MediaError("the media of this request cannot be read: the decoder failed; convert them") from error

    def too_long(self) -> LimitError:
        return LimitError(f"the media of this request take more than {self.seconds} s to be read; {_LIMITS}")

    def kill(self) -> None:
        """Kills the process and its child; a running `decode` raises, and the next one starts a new process."""
        self._killed = True
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)


def _exit_code(process: subprocess.Popen[bytes]) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(2)
    return None


def _kill_all(processes: Sequence[_Process]) -> None:
    for process in processes:
        process.kill()

"""A bounded pool of processes that decode what clients send; see `serve.decoder_process`.

A decoder of pictures or clips is the part of a server that hostile bytes reach first, and the one whose time and memory
they choose. So the server never decodes itself: a request's media go to a process that has a limit of memory and a
deadline, and a request that breaks either, or whose client leaves, ends with its process and holds up nobody else.
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
"""Most decoded bytes of one request's media: 3 for each pixel, 4 for each sample."""
MEMORY = 2048 << 20
"""Most bytes of address space of a process while it decodes one request's media."""
SECONDS = 30
"""Most seconds of processor time for one request's media; it is given up after twice as long in any case."""
PROCESSES = 2
WAITING = 64
"""Most requests whose media wait for a process."""
HEADER = 1 << 20  # bytes of the line before an answer's pixels
_LIMITS = "send fewer or smaller media"


@dataclass(frozen=True)
class File:
    """A medium as a client sent it."""

    data: bytes
    kind: str  # `decoder_process.STILL` or `SILENT`, or of `senses.load_as`
    name: str  # for messages


class Decoders:
    """Decodes the media of requests.

    Requests are served in turns, as the engine serves them: a client who sends a hundred waits behind one who sends
    one. All methods but `close` are for one event loop.
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
        """Starts the processes now, in place of with the first request that needs them."""
        for process in self._all:
            self._threads.submit(process.start)

    def close(self) -> None:
        """Ends the processes; requests whose media are being decoded fail."""
        self._end()
        self._threads.shutdown(wait=False)

    @property
    def pids(self) -> list[int]:
        """Of the processes that run."""
        return [process.pid for process in self._all if process.pid]

    async def load(self, files: Sequence[File], client: str = "", deadline: float | None = None) -> list[Media]:
        """The media of one request, in order. Cancelling the call ends the process that works on it.

        Args:
            deadline: of the request, in seconds of the event loop's clock.
        Raises:
            MediaError: a file cannot be read. LimitError: they are too much, or take too long.
            BusyError: too many wait. LateError: the request's own deadline has passed.
        """
        if not files:
            return []
        loop = asyncio.get_running_loop()
        left = float("inf") if deadline is None else deadline - loop.time()
        try:
            process = await asyncio.wait_for(self._turn_of(client), min(left, 3600.0))
        except TimeoutError:
            raise LateError("the request's media were not read before its deadline; ask again later") from None
        left = float("inf") if deadline is None else deadline - loop.time()
        process.begin()
        work = loop.run_in_executor(self._threads, process.ask, files)
        work.add_done_callback(lambda _: self._give_back(process))
        try:
            return await asyncio.wait_for(asyncio.shield(work), min(left, 2 * self.seconds))
        except TimeoutError:
            if left < 2 * self.seconds:
                raise LateError("the request's media were not read before its deadline; send less") from None
            raise process.too_long() from None
        finally:
            if not work.done():
                process.kill()
                work.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _turn_of(self, client: str) -> _Process:
        if self._free:
            return self._free.pop()
        if len(self._waiting) >= self.most_waiting:
            raise BusyError(f"the media of {len(self._waiting)} requests wait already; ask again later", 5.0)
        turn = max(self._turns.get(client, -1) + 1, self._turn)
        self._turns[client] = turn
        self._number += 1
        mine = (turn, self._number, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        try:
            return await mine[2]
        except asyncio.CancelledError:
            if mine in self._waiting:
                self._waiting.remove(mine)
            elif mine[2].done() and not mine[2].cancelled():
                self._give_back(mine[2].result())
            raise

    def _give_back(self, process: _Process) -> None:
        self._waiting = [one for one in self._waiting if not one[2].done()]
        if not self._waiting:
            self._turns.clear()
            self._free.append(process)
            return
        first = min(self._waiting, key=lambda one: one[:2])
        self._waiting.remove(first)
        self._turn = max(self._turn, first[0])
        first[2].set_result(process)


@dataclass
class _Process:
    """One process of the pool; it is started when it is needed and is not there."""

    seconds: int
    memory: int
    budget: int
    _process: subprocess.Popen[bytes] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: bool = False  # by `kill`

    @property
    def pid(self) -> int:
        process = self._process
        return process.pid if process is not None and process.poll() is None else 0

    def start(self) -> None:
        """Starts it, unless it runs or was ended for the request that it is started for."""
        with self._lock:
            if self._ended or (self._process is not None and self._process.poll() is None):
                return
            source = str(Path(codi2.__file__).parent.parent)
            paths = [source, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
            env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
            env |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # no threads before it forks
            limits = [str(number) for number in (self.memory >> 20, self.seconds, self.budget)]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "codi2.serve.decoder_process", *limits],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=env,
                start_new_session=True,  # so that it ends with its children, and not by the terminal's Ctrl-C
            )

    def begin(self) -> None:
        """A request has got it: what `kill` ends from now on is that request."""
        self._ended = False

    def ask(self, files: Sequence[File]) -> list[Media]:
        """Waits for the answer. Raises as `Decoders.load`."""
        try:
            self.start()
        except OSError as error:
            reason = f"the decoder of media cannot be started ({error.strerror}); ask again later"
            raise BusyError(reason, 10.0) from error
        process = self._process
        if process is None or self._ended:
            if process is not None:
                process.wait()  # the next request should not take it for one that runs
            raise self.too_long()
        assert process.stdin is not None and process.stdout is not None
        about = [{"kind": file.kind, "name": file.name, "bytes": len(file.data)} for file in files]
        try:
            process.stdin.write(json.dumps({"media": about}).encode() + b"\n")
            for file in files:
                process.stdin.write(file.data)
            process.stdin.flush()
            answer: dict[str, Any] = json.loads(process.stdout.readline(HEADER))
            if "error" in answer:
                raise LimitError(answer["error"]) if answer["limit"] else MediaError(answer["error"])
            if sum(one["bytes"] for one in answer["media"]) > self.budget:
                raise EOFError("more bytes than it may answer")
            return [restore(one, process.stdout) for one in answer["media"]]
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            # The process is gone, or has answered what it never does: nothing else may be read from it.
            was_ended = self._ended
            code = _code(process)
            self.kill()
            process.wait()
            if was_ended or code == TOO_LONG:
                raise self.too_long() from error
            raise MediaError("the media of this request cannot be read: the decoder failed; convert them") from error

    def too_long(self) -> LimitError:
        return LimitError(f"the media of this request take more than {self.seconds} s to be read; {_LIMITS}")

    def kill(self) -> None:
        """Ends it and the child that decodes; a waiting `ask` ends with an error, and the next starts another."""
        self._ended = True
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)


def _code(process: subprocess.Popen[bytes]) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(2)
    return None


def _kill_all(processes: Sequence[_Process]) -> None:
    for process in processes:
        process.kill()

"""One queue of work for one model: fair order, batches of what is alike, deadlines, cancellation, back-pressure.

A *reply* answers a conversation that its client holds, in two stages, `write` (read it and write text and features)
and `decode` (draw media). Replies at the same stage whose work has the same shape run as one batch, and a batch gives
what single runs give. A *round* is one of a conversation that the server holds (`codi2.chat`), whose cache is its own:
it runs alone. The work is done by one thread, since there is one model; clients are called back from it.

Order: work has a turn. A client's next turn is one after its last, or the newest one that has begun: a client that asks
a hundred things at once waits behind one that asks one.

Ends: a job that is cancelled, or whose deadline passes, ends within one step of the model, while it waits as well. When
a batch fails, each of its jobs is made again alone: only what fails alone has failed.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from codi2.chat import Chat, Listener
from codi2.chat.events import Done, Event, MediaReady, Step
from codi2.decoding import check_options
from codi2.errors import BusyError, CoDi2Error, DeviceMemoryError, LateError, LimitError
from codi2.llm.decode import FeatureSegment, Segment, text_of
from codi2.model import CoDi2, Options, Reply
from codi2.prompt.layout import Message
from codi2.prompt.parts import Part, Prompt, Text
from codi2.reply import Stopwatch
from codi2.serve.jobs import LATE, Failed, Job, Tell, chat_bytes, media_bytes
from codi2.stopping import Stopped, stops_when

BUCKET = 64  # positions: prompts whose lengths are in one bucket are read together
MOST_HELD = 2 << 30
"""Decoded bytes of media that all jobs may hold together."""
MOST_OF_CHAT = 2 << 30
"""Decoded bytes of the media of one conversation that the server holds: about fifty photographs of a phone."""
KEEPERS = 2  # threads that write finished rounds to the disk

Check = Callable[[Sequence[Part]], tuple[list[Part], tuple[str, ...]]]
"""A reply's parts → those that may be shown, and what the user is told of the others."""


@dataclass
class Stats:
    """What the engine has done, for `/metrics` and benchmarks."""

    asked: Counter[str] = field(default_factory=Counter)  # by outcome: done, failed, late, cancelled, refused
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # of work, by stage
    batches: Counter[tuple[str, int]] = field(default_factory=Counter)  # by stage and size


class Engine:
    """Runs a model.

    Args:
        max_batch: most replies of a batch.
        max_waiting: jobs that may wait; above it `submit` raises BusyError.
        timeout: seconds until a job is given up, unless it brings its own.
        max_held: decoded bytes of media that all jobs may hold together; above it `submit` raises BusyError.
        check: what a reply's parts go through before anybody sees them (`serve.safety`).
    """

    def __init__(
        self,
        model: CoDi2,
        max_batch: int = 8,
        max_waiting: int = 64,
        timeout: float = 120.0,
        check: Check | None = None,
        max_held: int = MOST_HELD,
    ) -> None:
        self.check = check or (lambda parts: (list(parts), ()))
        self.model, self.max_batch, self.max_waiting, self.timeout = model, max_batch, max_waiting, timeout
        self.max_held = max_held
        self._keepers = ThreadPoolExecutor(KEEPERS, thread_name_prefix="codi2-keeping")
        self.stats = Stats()
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._turns: dict[str, int] = {}  # the last turn of each client that has work
        self._turn = 0  # the newest that has begun
        self._numbers = itertools.count()
        self._change, self._closed = threading.Condition(threading.RLock()), False
        self._thread = threading.Thread(target=self._work, name="codi2-engine", daemon=True)
        self._thread.start()

    def reply(
        self, conversation: Sequence[Message], options: Options, tell: Tell, client: str = "", timeout: float = 0.0
    ) -> Job:
        """Asks for the answer to a conversation. Raises BusyError, and PromptError where it cannot be laid out."""
        return self.replies(conversation, [options], [tell], client, timeout)[0]

    def replies(
        self,
        conversation: Sequence[Message],
        options: Sequence[Options],
        tells: Sequence[Tell],
        client: str = "",
        timeout: float = 0.0,
    ) -> list[Job]:
        """Asks for several answers to one conversation, all or none. Raises as `reply`."""
        length = len(self.model.layout(conversation, reply=True).ids)  # a bad prompt is refused before it waits
        for one in options:
            check_options(self.model, conversation, one)
        size = media_bytes(conversation)
        work = [
            {"options": one, "conversation": conversation, "shape": (length // BUCKET, one.max_new_tokens)}
            for one in options
        ]
        return self._submit("write", tells, client, timeout, size, work)

    def round(
        self,
        chat: Chat,
        prompt: str | Prompt,
        tell: Tell,
        client: str = "",
        timeout: float = 0.0,
        keep: Callable[[], None] = lambda: None,
        end: Callable[[], None] = lambda: None,
        **settings: Any,
    ) -> Job:
        """Asks for a round of a conversation that is held here; one conversation's rounds should not overlap.

        `keep` is called when the round is in the conversation, before its client hears that it is done, and in a thread
        of its own: writing large media to the disk takes seconds, and the model is free meanwhile. `end` is called when
        the conversation is free for the next round, whatever became of this one.

        Raises BusyError; PromptError: the message alone is longer than what the model reads; LimitError: the
        conversation's media are more than the memory has room for.
        """
        parts: Prompt = (Text(prompt),) if isinstance(prompt, str) else tuple(prompt)
        self.model.layout.check_length([Message("user", parts)])

        def play(hear: Callable[[Event], bool]) -> Reply:
            # the engine tells of Done when the round is kept
            return chat.play(
                prompt, (), settings, lambda event: False if isinstance(event, Done) else hear(event), self.check
            )

        size = media_bytes([Message("user", parts)])
        if chat_bytes(chat) + size > MOST_OF_CHAT:
            raise LimitError(
                f"with this message the conversation's media are more than {MOST_OF_CHAT >> 20} MB; start a new one"
            )
        return self._submit("round", [tell], client, timeout, size, [{"play": play, "keep": keep, "end": end}])[0]

    def _submit(
        self, stage: Any, tells: Sequence[Tell], client: str, timeout: float, size: int, work: Sequence[dict[str, Any]]
    ) -> list[Job]:
        """All jobs or none."""
        self._sweep()
        with self._change:
            if self._closed:
                raise BusyError("the server is shutting down; ask again in a minute", 60.0)
            waiting, wait = len(self._waiting), self.expected_wait()
            if waiting + len(work) > self.max_waiting:
                self.stats.asked["refused"] += len(work)
                more = f", and {len(work)} more are too many" if len(work) > 1 else ""
                raise BusyError(f"{waiting} requests are waiting already{more}; ask again in {wait:.0f} seconds", wait)
            held = sum(job.size for job in (*self._waiting, *self._running))
            if held and held + size > self.max_held:
                self.stats.asked["refused"] += len(work)
                raise BusyError(
                    f"the requests that are waiting hold {held >> 20} MB of media already; ask again in {wait:.0f} "
                    "seconds",
                    wait,
                )
            deadline = time.monotonic() + (timeout or self.timeout)
            jobs = []
            for tell, fields in zip(tells, work, strict=True):
                turn = max(self._turns.get(client, -1) + 1, self._turn)
                self._turns[client] = turn
                jobs.append(Job(tell, client, deadline, turn, next(self._numbers), stage, **fields))
            jobs[0].size = size  # they share one conversation
            self._waiting += jobs
            self._change.notify()
            return jobs

    def expected_wait(self) -> float:
        """Seconds until there is room: what a reply has taken so far, times those that wait in batches."""
        done = max(1, self.stats.asked["done"])
        return max(1.0, sum(self.stats.seconds.values()) / done * len(self._waiting) / 2)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    def close(self, patience: float = 30.0) -> int:
        """Takes no more work, finishes what was taken for `patience` seconds, then gives up the rest: how many."""
        with self._change:
            self._closed = True
            self._change.notify()
        until = time.monotonic() + patience
        self._thread.join(patience)
        keeping = threading.Thread(target=self._keepers.shutdown, daemon=True)
        keeping.start()
        keeping.join(max(0.0, until - time.monotonic()) + 1.0)
        with self._change:
            left = [*self._waiting, *self._running]
        for job in left:
            self._end(job, BusyError("the server has shut down before this was done; ask again", 60.0))
        self._thread.join(1.0)  # it stops at its next step
        return len(left)

    def _work(self) -> None:
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """One batch; nothing of it is referred to here while the next is waited for. False: there will be none."""
        jobs = self._next()
        if jobs is None:
            return False
        stage, began = jobs[0].stage, time.perf_counter()
        self._run(jobs)
        self.stats.seconds[stage] += time.perf_counter() - began
        with self._change:
            self._running = []
        return True

    def _run(self, jobs: Sequence[Job]) -> None:
        """A batch, and where that fails each of its jobs alone."""
        run = {"write": self._write, "decode": self._decode, "round": self._round}[jobs[0].stage]
        self.stats.batches[jobs[0].stage, len(jobs)] += 1
        try:
            with stops_when(lambda: self._all_over(jobs)):
                run(jobs)
        except Stopped:
            for job in jobs:
                self._end(job, LateError(LATE))
            return
        except Exception as error:
            if len(jobs) == 1:
                self._failed(jobs[0], error)
                return
        else:
            return
        for job in jobs:
            if job.over:
                self._end(job, LateError(LATE))
            else:
                self._run([job])

    def _all_over(self, jobs: Sequence[Job]) -> bool:
        """Asked once a step: ends the jobs that are over, those that wait as well. True: nobody waits for `jobs`."""
        self._sweep()
        for job in jobs:
            if job.over and job.stage != "round":  # a round ends when nothing touches its conversation any more
                self._end(job, LateError(LATE))
        return all(job.over for job in jobs)

    def _sweep(self) -> None:
        """Ends the waiting jobs that are over."""
        with self._change:
            over = [job for job in self._waiting if job.over]
            self._waiting = [job for job in self._waiting if job not in over]
        for job in over:
            self._end(job, LateError("the request was not begun before its deadline; ask again later"))

    def _next(self) -> list[Job] | None:
        """The next batch: what has the earliest turn, and others of its stage and shape. None: there will be none."""
        with self._change:
            while True:
                self._sweep()
                if self._waiting:
                    break
                self._turns.clear()
                if self._closed:
                    return None
                self._change.wait(timeout=1.0)
            first = min(self._waiting, key=lambda job: (job.turn, job.number))
            alike = [job for job in self._waiting if (job.stage, job.shape) == (first.stage, first.shape)]
            alike.sort(key=lambda job: (job.turn, job.number))
            batch = [first] if first.stage == "round" else alike[: self.max_batch]
            self._turn = max(self._turn, first.turn)
            self._waiting = [job for job in self._waiting if job not in batch]
            self._running = batch
            return batch

    def _write(self, jobs: Sequence[Job]) -> None:
        watch = Stopwatch(lambda stage, step, total: _tell_all(jobs, Step(stage, step, total)))
        tokenizer = self.model.mllm.backbone.tokenizer
        listeners = [Listener(tokenizer, job.hear, job.options.stop or ()) for job in jobs]
        for job in jobs:
            job.said = 0
        with watch("read"):
            readings = self.model.read([job.conversation for job in jobs])
        with watch("write"):
            options = [job.options for job in jobs]
            written = self.model.write(readings, options, lambda b, *token: listeners[b](b, *token))
        for listener in listeners:
            listener.finish()
        for job, segments in zip(jobs, written, strict=True):
            job.seconds |= watch.seconds
            self._alone(job, lambda job=job, segments=segments: self._written(job, segments))  # type: ignore[misc]

    def _written(self, job: Job, segments: Sequence[Segment]) -> None:
        """One job of a batch has its text and features: it is done, or waits for its media."""
        job.written = segments
        kinds = tuple(s.modality for s in segments if isinstance(s, FeatureSegment))
        o = job.options
        settings = (o.num_inference_steps, o.guidance_scale, o.source_guidance_scale, o.negative_prompt)
        if job.over:
            self._end(job, LateError(LATE))
        elif kinds:
            job.stage, job.shape = "decode", (kinds, settings)
            with self._change:
                self._waiting.append(job)
        else:
            tokenizer = self.model.mllm.backbone.tokenizer
            parts = [text_of(s, tokenizer) for s in segments if not isinstance(s, FeatureSegment)]
            self._finish(job, parts, self.model.notes(segments, job.options))

    def _decode(self, jobs: Sequence[Job]) -> None:
        watch = Stopwatch(lambda stage, step, total: _tell_all(jobs, Step(stage, step, total)))
        with watch("decode"):
            replies = self.model.decode(
                [job.written for job in jobs],
                [job.conversation for job in jobs],
                [job.options for job in jobs],
                watch.callback,
            )
        for job, made in zip(jobs, replies, strict=True):
            job.seconds |= watch.seconds
            self._alone(job, lambda job=job, made=made: self._drawn(job, made))  # type: ignore[misc]

    def _drawn(self, job: Job, made: Sequence[Part]) -> None:
        parts, told = self.check(made)
        notes = (*self.model.notes(job.written, job.options), *told)
        for place, part in enumerate(parts):
            if not isinstance(part, Text) and not job.ended:
                job.tell(MediaReady(place, part, self.model.recipe(job.options, job.seconds)))
        self._finish(job, parts, notes)

    def _alone(self, job: Job, finish: Callable[[], None]) -> None:
        """What is done for one job of a batch that ran: a failure is its own."""
        try:
            finish()
        except Exception as error:
            self._failed(job, error)

    def _finish(self, job: Job, parts: Sequence[Part], notes: tuple[str, ...] = ()) -> None:
        if job.over:
            self._end(job, LateError(LATE))
        else:
            self._done(job, Reply(tuple(parts), self.model.recipe(job.options, job.seconds), notes))

    def _done(self, job: Job, reply: Reply) -> None:
        if not job.ended:
            job.ended = True
            self.stats.asked["done"] += 1
            job.tell(Done(reply))
            job.release()

    def _round(self, jobs: Sequence[Job]) -> None:
        (job,) = jobs
        assert job.play is not None
        reply = job.play(job.hear)
        self._keepers.submit(self._keep, job, reply)

    def _keep(self, job: Job, reply: Reply) -> None:
        """Puts a round on the disk, frees its conversation, and then tells of it."""
        try:
            job.keep()
        except Exception as error:
            self._failed(job, error)
            return
        job.end()
        self._done(job, reply)

    def _failed(self, job: Job, error: Exception) -> None:
        if not job.over and not isinstance(error, CoDi2Error):
            logging.getLogger("codi2").exception("a request failed", exc_info=error)
        if isinstance(error, DeviceMemoryError):  # the client is told less: what to change is the operator's
            logging.getLogger("codi2").error("a request failed: %s", error)
        self._end(job, error)

    def _end(self, job: Job, error: Exception) -> None:
        """The job has failed; what is over already stays as it is."""
        with self._change:
            if job.ended:
                return
            outcome = "cancelled" if job.gone else "late" if isinstance(error, LateError) or job.over else "failed"
            job.ended = True
            self.stats.asked[outcome] += 1
        if outcome == "late" and not isinstance(error, LateError):
            error = LateError(LATE)
        job.end()
        job.tell(Failed(error))
        job.release()


def _tell_all(jobs: Sequence[Job], event: Event) -> None:
    for job in jobs:
        if not job.ended:
            job.tell(event)

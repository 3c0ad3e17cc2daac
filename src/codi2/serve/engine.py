"""One queue of work for one model: fair order, batches of what is alike, deadlines, cancellation, back-pressure.

A *reply* answers a conversation that its client holds, in two stages, `think` (read it and write text and features)
and `diffuse` (draw media). Replies at the same stage whose work has the same shape run as one batch, and a batch gives
what single runs give. A *round* is one of a conversation that the server holds (`codi2.chat`), whose cache is its own:
it runs alone. The work is done by one thread, since there is one model; whoever asks is called back from it.

Order: work has a turn. A client's next turn is one after its last, or the newest one that has begun: who asks a
hundred things at once waits behind who asks one.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from codi2.chat import Chat, Listener
from codi2.chat.events import Done, Event, Made, Step
from codi2.errors import BusyError, CoDi2Error, LateError
from codi2.llm.decode import FeatureSegment, Segment
from codi2.model import CoDi2, Options, Reply, Stopwatch
from codi2.prompt.layout import Message
from codi2.prompt.parts import Part, Prompt, Text

BUCKET = 64  # positions: prompts whose lengths are in one bucket are read together


@dataclass(frozen=True)
class Failed:
    """There will be no reply: the last event."""

    error: Exception


Tell = Callable[[Event | Failed], None]
"""Is called from the engine's thread with what happens, and must not wait."""


Check = Callable[[Sequence[Part]], tuple[list[Part], tuple[str, ...]]]
"""A reply's parts → those that may be shown, and what the user is told of the others."""


@dataclass
class Job:
    """Work that was asked for. `cancel` it when nobody waits for it any more."""

    tell: Tell
    client: str
    deadline: float  # of time.monotonic()
    turn: int
    number: int
    stage: Literal["think", "diffuse", "round"]
    options: Options = field(default_factory=Options)
    conversation: Sequence[Message] = ()
    shape: tuple[Any, ...] = ()
    written: Sequence[Segment] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    play: Callable[[Callable[[Event], bool]], Reply] | None = None  # of a round
    end: Callable[[], None] = lambda: None  # of a round that comes to nothing
    began: float = field(default_factory=time.monotonic)
    gone: bool = False

    def cancel(self) -> None:
        self.gone = True

    @property
    def over(self) -> bool:
        """Nobody waits any more, or it is too late."""
        return self.gone or time.monotonic() > self.deadline


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
        check: what a reply's parts go through before anybody sees them (`serve.safety`).
    """

    def __init__(
        self,
        model: CoDi2,
        max_batch: int = 8,
        max_waiting: int = 64,
        timeout: float = 120.0,
        check: Check | None = None,
    ) -> None:
        self.check = check or (lambda parts: (list(parts), ()))
        self.model, self.max_batch, self.max_waiting, self.timeout = model, max_batch, max_waiting, timeout
        self.stats = Stats()
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._turns: dict[str, int] = {}  # the last turn of each client that has work
        self._turn = 0  # the newest that has begun
        self._numbers = itertools.count()
        self._change, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, name="codi2-engine", daemon=True)
        self._thread.start()

    def reply(
        self, conversation: Sequence[Message], options: Options, tell: Tell, client: str = "", timeout: float = 0.0
    ) -> Job:
        """Asks for the answer to a conversation. Raises BusyError, and PromptError where it cannot be laid out."""
        length = len(self.model.layout(conversation, reply=True).ids)  # a bad prompt is refused before it waits
        self.model.reply_options(options)
        shape = (length // BUCKET, options.max_new_tokens)
        return self._submit("think", tell, client, timeout, options=options, conversation=conversation, shape=shape)

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

        `keep` is called when the round is in the conversation, before anybody hears that it is done; `end` when the
        conversation is free for the next, whatever became of this one.
        """

        def play(hear: Callable[[Event], bool]) -> Reply:
            def told(event: Event) -> bool:
                if isinstance(event, Done):
                    keep()
                    end()
                return hear(event)

            return chat.play(prompt, (), settings, told, self.check)

        return self._submit("round", tell, client, timeout, play=play, end=end)

    def _submit(self, stage: Any, tell: Tell, client: str, timeout: float, **work: Any) -> Job:
        with self._change:
            if self._closed:
                raise BusyError("the server is shutting down; ask again in a minute", 60.0)
            if len(self._waiting) >= self.max_waiting:
                self.stats.asked["refused"] += 1
                wait = self.expected_wait()
                raise BusyError(
                    f"{len(self._waiting)} requests are waiting already; ask again in {wait:.0f} seconds", wait
                )
            turn = max(self._turns.get(client, -1) + 1, self._turn)
            self._turns[client] = turn
            deadline = time.monotonic() + (timeout or self.timeout)
            job = Job(tell, client, deadline, turn, next(self._numbers), stage, **work)
            self._waiting.append(job)
            self._change.notify()
            return job

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
        self._thread.join(patience)
        with self._change:
            left = [*self._waiting, *self._running]
        for job in left:
            job.cancel()
            job.tell(Failed(BusyError("the server has shut down before this was done; ask again", 60.0)))
        return len(left)

    def _work(self) -> None:
        while (jobs := self._next()) is not None:
            run = {"think": self._think, "diffuse": self._diffuse, "round": self._round}[jobs[0].stage]
            stage, began = jobs[0].stage, time.perf_counter()
            try:
                run(jobs)
            except Exception as error:
                self._failed(jobs, error)
            self.stats.seconds[stage] += time.perf_counter() - began
            self.stats.batches[stage, len(jobs)] += 1
            with self._change:
                self._running = []

    def _next(self) -> list[Job] | None:
        """The next batch: what has the earliest turn, and others of its stage and shape. None: there will be none."""
        with self._change:
            while True:
                for job in [job for job in self._waiting if job.over]:
                    self._waiting.remove(job)
                    self._end(job, LateError("the request was not begun before its deadline; ask again later"))
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

    def _think(self, jobs: list[Job]) -> None:
        watch = Stopwatch(lambda stage, step, total: _tell_all(jobs, Step(stage, step, total)))
        listeners = [
            Listener(self.model.mllm.backbone.tokenizer, lambda event, job=job: _hear(job, event))  # type: ignore[misc]
            for job in jobs
        ]
        with watch("encode"):
            readings = self.model.read([job.conversation for job in jobs])
        with watch("think"):
            options = [job.options for job in jobs]
            written = self.model.think(readings, options, lambda b, *token: listeners[b](b, *token))
        for listener in listeners:
            listener.finish()
        for job, segments in zip(jobs, written, strict=True):
            job.seconds |= watch.seconds
            job.written = segments
            kinds = tuple(s.modality for s in segments if isinstance(s, FeatureSegment))
            o = job.options
            settings = (o.num_inference_steps, o.guidance_scale, o.source_guidance_scale, o.negative_prompt)
            job.stage, job.shape = "diffuse", (kinds, settings)
            if job.over:
                self._end(job, LateError("the reply was not ready before its deadline; ask for less, or allow more"))
            elif kinds:
                with self._change:
                    self._waiting.append(job)
            else:
                tokenizer = self.model.mllm.backbone.tokenizer
                parts = [Text(tokenizer.decode(s.ids), s.ids) for s in segments if not isinstance(s, FeatureSegment)]
                self._finish(job, parts)

    def _diffuse(self, jobs: list[Job]) -> None:
        watch = Stopwatch(lambda stage, step, total: _tell_all(jobs, Step(stage, step, total)))
        with watch("diffuse"):
            replies = self.model.diffuse(
                [job.written for job in jobs],
                [job.conversation[-1].parts for job in jobs],
                [job.options for job in jobs],
                watch.callback,
            )
        for job, made in zip(jobs, replies, strict=True):
            job.seconds |= watch.seconds
            parts, notes = self.check(made)
            for place, part in enumerate(parts):
                if not isinstance(part, Text):
                    job.tell(Made(place, part))
            self._finish(job, parts, notes)

    def _finish(self, job: Job, parts: Sequence[Part], notes: tuple[str, ...] = ()) -> None:
        if job.over:
            self._end(job, LateError("the reply was not ready before its deadline; ask for less, or allow more"))
            return
        self.stats.asked["done"] += 1
        job.tell(Done(Reply(tuple(parts), self.model.recipe(job.options, job.seconds), notes)))

    def _round(self, jobs: list[Job]) -> None:
        (job,) = jobs
        assert job.play is not None
        job.play(lambda event: _hear(job, event))  # tells of Done as its last
        self.stats.asked["done"] += 1

    def _failed(self, jobs: Sequence[Job], error: Exception) -> None:
        for job in jobs:
            if not job.over and not isinstance(error, CoDi2Error):
                import logging

                logging.getLogger("codi2").exception("a request failed", exc_info=error)
            self._end(job, error)

    def _end(self, job: Job, error: Exception) -> None:
        outcome = "cancelled" if job.gone else "late" if isinstance(error, LateError) or job.over else "failed"
        self.stats.asked[outcome] += 1
        if outcome == "late" and not isinstance(error, LateError):
            error = LateError("the reply was not ready before its deadline; ask for less, or allow more")
        job.end()
        job.tell(Failed(error))


def _hear(job: Job, event: Event) -> bool:
    job.tell(event)
    return job.over


def _tell_all(jobs: Sequence[Job], event: Event) -> None:
    for job in jobs:
        job.tell(event)

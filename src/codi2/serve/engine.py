"""Runs the jobs of one model in one thread: batches, deadlines, cancellation.

A *reply* answers a conversation that its client holds, in two stages: `write` (read the conversation, write text and
features) and `decode` (draw the media). Replies at the same stage whose work has the same shape run as one batch; each
gets the reply that it would get alone. A *round* belongs to a conversation that the server holds (`codi2.chat`), which
has a cache of its own, so it runs alone. Callbacks are called from the engine's threads. `serve.queue` has the order.

A job that is cancelled, or whose deadline passes, ends within one step of the model, also while it waits. When a batch
fails, each of its jobs runs again alone, and only the jobs that fail alone have failed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from codi2.cancellation import Cancelled, cancel_when
from codi2.chat import Chat
from codi2.chat.events import Done, Event, MediaReady, StageProgress
from codi2.chat.listener import TextListener
from codi2.decoding import check_options
from codi2.errors import BusyError, CoDi2Error, DeviceMemoryError, LateError, LimitError
from codi2.llm.generation import FeatureSegment, Segment, text_of
from codi2.model import CoDi2, Options, Reply
from codi2.notes import notes_of
from codi2.prompt.layout import Message
from codi2.prompt.parts import Part, Prompt, Text
from codi2.reply import Stopwatch
from codi2.serve.jobs import LATE, Failed, Job, OnEvent, chat_bytes, media_bytes
from codi2.serve.queue import JobQueue, QueueFullError

BUCKET = 64  # positions: prompts whose lengths are in one bucket are read together
MAX_HELD = 2 << 30
"""Decoded bytes of media that all jobs may hold together."""
MAX_CHAT_BYTES = 2 << 30
"""Decoded bytes of the media of one conversation that the server holds: about fifty photographs of a phone."""
STORE_THREADS = 2  # write finished rounds to the disk
NOT_BEGUN = "the request was not begun before its deadline; ask again later"

Check = Callable[[Sequence[Part]], tuple[list[Part], tuple[str, ...]]]
"""A reply's parts → the parts that may be shown, and notes for the user about the others."""


@dataclass
class Stats:
    """Counts and times of all jobs, for `/metrics` and benchmarks."""

    outcomes: Counter[str] = field(default_factory=Counter)  # done, failed, late, cancelled, refused → jobs
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # of work, by stage
    batches: Counter[tuple[str, int]] = field(default_factory=Counter)  # by stage and size


class Engine:
    """Runs a model.

    Args:
        max_batch: most replies of a batch.
        max_waiting: jobs that may wait; above it `submit_…` raises BusyError.
        timeout: seconds until a job is given up, unless it brings its own.
        max_held: decoded bytes of media that all jobs may hold together; above it `submit_…` raises BusyError.
        check: filters a reply's parts before they are sent (`serve.safety`).
    """

    def __init__(
        self,
        model: CoDi2,
        max_batch: int = 8,
        max_waiting: int = 64,
        timeout: float = 120.0,
        check: Check | None = None,
        max_held: int = MAX_HELD,
    ) -> None:
        self.check = check or (lambda parts: (list(parts), ()))
        self.model, self.max_batch, self.timeout = model, max_batch, timeout
        self.stats = Stats()
        self._store_threads = ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="codi2-store")
        self._queue = JobQueue(max_waiting, max_held, lambda job: self._fail(job, LateError(NOT_BEGUN)))
        self._thread = threading.Thread(target=self._work, name="codi2-engine", daemon=True)
        self._thread.start()

    def submit_reply(
        self, conversation: Sequence[Message], options: Options, on_event: OnEvent, client: str = "", timeout: float = 0
    ) -> Job:
        """Submits the reply to a conversation. Raises BusyError, and PromptError where it cannot be laid out."""
        return self.submit_replies(conversation, [options], [on_event], client, timeout)[0]

    def submit_replies(
        self,
        conversation: Sequence[Message],
        options: Sequence[Options],
        callbacks: Sequence[OnEvent],
        client: str = "",
        timeout: float = 0.0,
    ) -> list[Job]:
        """Submits several replies to one conversation, all or none. Raises as `submit_reply`."""
        length = len(self.model.layout(conversation, reply=True).ids)  # a bad prompt is refused before it waits
        for reply_options in options:
            check_options(self.model, conversation, reply_options)
        work = [
            {
                "options": reply_options,
                "conversation": conversation,
                "shape": (length // BUCKET, reply_options.max_new_tokens),
            }
            for reply_options in options
        ]
        return self._submit("write", callbacks, client, timeout, media_bytes(conversation), work)

    def submit_round(
        self,
        chat: Chat,
        prompt: str | Prompt,
        on_event: OnEvent,
        client: str = "",
        timeout: float = 0.0,
        store: Callable[[], None] = lambda: None,
        release: Callable[[], None] = lambda: None,
        **settings: Any,
    ) -> Job:
        """Submits a round of a conversation that the server holds. Rounds of one conversation should not overlap.

        Args:
            store: called when the round is part of the conversation and before `on_event` gets `Done`, in a thread of
                its own: writing large media to the disk takes seconds, in which the model is free.
            release: called when the conversation is free for the next round, also after an error.
        Raises:
            BusyError. PromptError: the message alone is longer than what the model reads.
            LimitError: the conversation's media need more memory than one conversation may use.
        """
        parts: Prompt = (Text(prompt),) if isinstance(prompt, str) else tuple(prompt)
        self.model.layout.check_length([Message("user", parts)])

        def play(forward: Callable[[Event], bool]) -> Reply:
            # `_store_round` sends Done when the round is stored
            return chat.play(
                prompt, (), settings, lambda event: False if isinstance(event, Done) else forward(event), self.check
            )

        size = media_bytes([Message("user", parts)])
        if chat_bytes(chat) + size > MAX_CHAT_BYTES:
            raise LimitError(
                f"with this message the conversation's media are more than {MAX_CHAT_BYTES >> 20} MB; start a new one"
            )
        work = {"play": play, "store": store, "release_conversation": release}
        return self._submit("round", [on_event], client, timeout, size, [work])[0]

    def _submit(
        self,
        stage: Any,
        callbacks: Sequence[OnEvent],
        client: str,
        timeout: float,
        size: int,
        work: Sequence[dict[str, Any]],
    ) -> list[Job]:
        """All jobs or none. Raises as `JobQueue.add`."""
        try:
            return self._queue.add(
                stage, callbacks, client, timeout or self.timeout, size, work, self._seconds_per_job()
            )
        except QueueFullError:
            self.stats.outcomes["refused"] += len(work)
            raise

    def _seconds_per_job(self) -> float:
        """Mean seconds of a finished job, halved, as waiting jobs run in batches."""
        return sum(self.stats.seconds.values()) / max(1, self.stats.outcomes["done"]) / 2

    @property
    def waiting(self) -> int:
        return len(self._queue.waiting)

    @property
    def running(self) -> int:
        return len(self._queue.running)

    def close(self, patience: float = 30.0) -> int:
        """Refuses new jobs, works on the others for `patience` seconds, then ends the rest and returns their number."""
        self._queue.close()
        until = time.monotonic() + patience
        self._thread.join(patience)
        storing = threading.Thread(target=self._store_threads.shutdown, daemon=True)
        storing.start()
        storing.join(max(0.0, until - time.monotonic()) + 1.0)
        unfinished = self._queue.jobs()
        for job in unfinished:
            self._fail(job, BusyError("the server has shut down before this was done; ask again", 60.0))
        self._thread.join(1.0)  # it stops at its next step
        return len(unfinished)

    def _work(self) -> None:
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """Runs one batch, and keeps no reference to it while the next one is waited for. False: there is no next."""
        jobs = self._queue.next_batch(self.max_batch)
        if jobs is None:
            return False
        stage, start = jobs[0].stage, time.perf_counter()
        self._run(jobs)
        self.stats.seconds[stage] += time.perf_counter() - start
        self._queue.end_batch()
        return True

    def _run(self, jobs: Sequence[Job]) -> None:
        """Runs a batch, and where that fails each of its jobs alone."""
        run_stage = {"write": self._write, "decode": self._decode, "round": self._round}[jobs[0].stage]
        self.stats.batches[jobs[0].stage, len(jobs)] += 1
        try:
            with cancel_when(lambda: self._all_over(jobs)):
                run_stage(jobs)
        except Cancelled:
            for job in jobs:
                self._fail(job, LateError(LATE))
            return
        except Exception as error:
            if len(jobs) == 1:
                self._log_and_fail(jobs[0], error)
                return
        else:
            return
        for job in jobs:
            if job.over:
                self._fail(job, LateError(LATE))
            else:
                self._run([job])

    def _all_over(self, jobs: Sequence[Job]) -> bool:
        """Called once a step: ends the jobs that are over, waiting ones as well. True: all `jobs` are over."""
        self._queue.sweep()
        for job in jobs:
            if job.over and job.stage != "round":  # a round ends only when its conversation is no longer in use
                self._fail(job, LateError(LATE))
        return all(job.over for job in jobs)

    def _write(self, jobs: Sequence[Job]) -> None:
        watch = Stopwatch(lambda stage, step, total: _send_all(jobs, StageProgress(stage, step, total)))
        tokenizer = self.model.mllm.backbone.tokenizer
        listeners = [TextListener(tokenizer, job.forward, job.options.stop or ()) for job in jobs]
        for job in jobs:
            job.characters_written = 0
        with watch("read"):
            readings = self.model.read([job.conversation for job in jobs])
        with watch("write"):
            options = [job.options for job in jobs]
            written = self.model.write(readings, options, lambda b, *token: listeners[b](b, *token))
        for listener in listeners:
            listener.finish()
        for job, segments in zip(jobs, written, strict=True):
            job.seconds |= watch.seconds
            self._run_for_one(job, lambda job=job, segments=segments: self._after_write(job, segments))  # type: ignore[misc]

    def _after_write(self, job: Job, segments: Sequence[Segment]) -> None:
        """The text and features of one job of a batch: the job is done, or waits for the stage `decode`."""
        job.segments = segments
        modalities = tuple(s.modality for s in segments if isinstance(s, FeatureSegment))
        o = job.options
        settings = (o.num_inference_steps, o.guidance_scale, o.source_guidance_scale, o.negative_prompt)
        if job.over:
            self._fail(job, LateError(LATE))
        elif modalities:
            job.stage, job.shape = "decode", (modalities, settings)
            self._queue.add_stage(job)
        else:
            tokenizer = self.model.mllm.backbone.tokenizer
            parts = [text_of(s, tokenizer) for s in segments if not isinstance(s, FeatureSegment)]
            self._finish(job, parts, notes_of(self.model.config, job.options, segments))

    def _decode(self, jobs: Sequence[Job]) -> None:
        watch = Stopwatch(lambda stage, step, total: _send_all(jobs, StageProgress(stage, step, total)))
        with watch("decode"):
            replies = self.model.decode(
                [job.segments for job in jobs],
                [job.conversation for job in jobs],
                [job.options for job in jobs],
                watch.callback,
            )
        for job, parts in zip(jobs, replies, strict=True):
            job.seconds |= watch.seconds
            self._run_for_one(job, lambda job=job, parts=parts: self._after_decode(job, parts))  # type: ignore[misc]

    def _after_decode(self, job: Job, decoded: Sequence[Part]) -> None:
        parts, check_notes = self.check(decoded)
        notes = (*notes_of(self.model.config, job.options, job.segments), *check_notes)
        for place, part in enumerate(parts):
            if not isinstance(part, Text) and not job.ended:
                job.on_event(MediaReady(place, part, self.model.recipe(job.options, job.seconds)))
        self._finish(job, parts, notes)

    def _run_for_one(self, job: Job, work: Callable[[], None]) -> None:
        """Work for one job of a batch: an error ends this job only."""
        try:
            work()
        except Exception as error:
            self._log_and_fail(job, error)

    def _round(self, jobs: Sequence[Job]) -> None:
        (job,) = jobs
        assert job.play is not None
        reply = job.play(job.forward)
        self._store_threads.submit(self._store_round, job, reply)

    def _store_round(self, job: Job, reply: Reply) -> None:
        """Writes a round to the disk, frees its conversation, and then sends `Done`."""
        try:
            job.store()
        except Exception as error:
            self._log_and_fail(job, error)
            return
        job.release_conversation()
        self._complete(job, reply)

    def _finish(self, job: Job, parts: Sequence[Part], notes: tuple[str, ...] = ()) -> None:
        if job.over:
            self._fail(job, LateError(LATE))
        else:
            self._complete(job, Reply(tuple(parts), self.model.recipe(job.options, job.seconds), notes))

    def _complete(self, job: Job, reply: Reply) -> None:
        """Ends a job with its reply; a job that has ended before stays as it is."""
        with self._queue.lock:
            if job.ended:
                return
            job.ended = True
            self.stats.outcomes["done"] += 1
        job.on_event(Done(reply))
        job.drop_data()

    def _log_and_fail(self, job: Job, error: Exception) -> None:
        if not job.over and not isinstance(error, CoDi2Error):
            logging.getLogger("codi2").exception("a request failed", exc_info=error)
        if isinstance(error, DeviceMemoryError):  # the client gets a shorter message: only the operator can act on it
            logging.getLogger("codi2").error("a request failed: %s", error)
        self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        """Ends a job with an error; a job that has ended before stays as it is."""
        with self._queue.lock:
            if job.ended:
                return
            late = isinstance(error, LateError) or job.over
            outcome = "cancelled" if job.cancelled else "late" if late else "failed"
            job.ended = True
            self.stats.outcomes[outcome] += 1
        if outcome == "late" and not isinstance(error, LateError):
            error = LateError(LATE)
        job.release_conversation()
        job.on_event(Failed(error))
        job.drop_data()


def _send_all(jobs: Sequence[Job], event: Event) -> None:
    for job in jobs:
        if not job.ended:
            job.on_event(event)

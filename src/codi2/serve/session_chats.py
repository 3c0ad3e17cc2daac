"""The conversations of a store that are in memory: loaded from it, and written to it round by round."""

from __future__ import annotations

import asyncio
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any

from codi2.chat import Chat
from codi2.chat.compose import Composed, compose
from codi2.chat.events import Event
from codi2.chat.files import reader, save
from codi2.errors import BusyError, DataError
from codi2.prompt.parts import Prompt
from codi2.serve.engine import Engine
from codi2.serve.jobs import Failed, Job, OnEvent, chat_bytes
from codi2.serve.store import NoSession, SessionChanged, Store
from codi2.serve.waiting import JobEvents

MAX_OPEN = 16  # conversations whose cache stays in memory
MAX_IDLE_BYTES = 2 << 30  # decoded bytes of the media of the conversations that no request uses


@dataclass
class OpenSession:
    """A conversation in memory."""

    chat: Chat
    revision: int  # of the session in the store, from which `chat` was loaded
    lock: threading.Lock = field(default_factory=threading.Lock)  # held while a round is played or undone
    job: Job | None = None  # the round in progress
    deleted: bool = False

    def report_deletion(self, on_event: OnEvent) -> OnEvent:
        """`on_event`, which gets NoSession as the error of a round whose session was deleted."""

        def forward(event: Event | Failed) -> None:
            if self.deleted and isinstance(event, Failed):
                event = Failed(NoSession("the session was deleted while its round was made"))
            on_event(event)

        return forward


class SessionChats:
    """The conversations of a store that requests use.

    Other servers may change sessions in the store, so each use compares revisions with the store first.
    """

    def __init__(self, engine: Engine, store: Store, marks: bool = True) -> None:
        self.engine, self.store, self.marks = engine, store, marks
        self._open: OrderedDict[tuple[str, str], OpenSession] = OrderedDict()
        self._lock = threading.Lock()
        store.keep_sweeping()

    def get(self, owner: str, name: str) -> tuple[Chat, threading.Lock]:
        """A conversation in the store's revision, and the lock of its rounds. Raises NoSession."""
        session = self._get(owner, name)
        return session.chat, session.lock

    def _get(self, owner: str, name: str) -> OpenSession:
        revision = self._revision(owner, name)
        with self._lock:
            session = self._open.get((owner, name))
            if session is not None and session.revision == revision:
                self._open.move_to_end((owner, name))
                return session
        chat, revision = self._load(owner, name)  # without the lock: with many media it takes seconds
        with self._lock:
            session = self._open.get((owner, name))
            if session is None:
                session = self._open[owner, name] = OpenSession(chat, revision)
            elif session.lock.locked():  # its round belongs to an older revision; the store will refuse it
                return OpenSession(chat, revision, session.lock)
            else:
                session.chat, session.revision = chat, revision
            self._open.move_to_end((owner, name))
            self._close_idle(session)
            return session

    def _close_idle(self, used: OpenSession) -> None:
        """Drops the conversations that were not used for longest, until the limits are met. Needs `_lock`."""
        idle = [key for key, session in self._open.items() if not session.lock.locked() and session is not used]
        sizes = [chat_bytes(self._open[key].chat) for key in idle]
        while idle and (len(self._open) > MAX_OPEN or sum(sizes) > MAX_IDLE_BYTES):
            del self._open[idle.pop(0)], sizes[0]

    def _revision(self, owner: str, name: str) -> int:
        try:
            return self.store.revision(owner, name)
        except NoSession:
            with self._lock:
                self._open.pop((owner, name), None)
            raise

    def _load(self, owner: str, name: str) -> tuple[Chat, int]:
        stored = self.store.load(owner, name)
        chat, read = Chat(self.engine.model, stored.about.get("system")), reader(self.store.get)
        for value in stored.rounds:
            chat.add(read(value))
        return chat, stored.revision

    def _lock_session(self, owner: str, name: str) -> OpenSession:
        """A conversation whose lock the caller has to release. Raises NoSession; BusyError: a round is in progress."""
        session = self._get(owner, name)
        if not session.lock.acquire(blocking=False):
            raise BusyError("this conversation has a round under way; wait for its reply", 2.0)
        try:
            if session.revision != self._revision(owner, name):  # changed before the lock was acquired
                session.chat, session.revision = self._load(owner, name)
            with self._lock:
                self._open[owner, name] = session
        except BaseException:
            session.lock.release()
            raise
        return session

    async def submit_round(
        self,
        owner: str,
        name: str,
        content: Prompt,
        number: int | None = None,
        known: int | None = None,
        timeout: float = 0.0,
        uploads: Sequence[str] = (),
        queue: str = "",
        **settings: Any,
    ) -> JobEvents:
        """Submits a round, which is stored when it is done.

        Args:
            number: of the round that it replaces, with all rounds after it; None: it is appended.
            known: rounds that the client expects in the session; None: any number.
            uploads: ids of the uploads in `content`; they are removed when the round is stored.
            queue: the name under which it waits, see `requests.queue_name`.
        Raises:
            NoSession; PromptError: a placeholder in the content names no item. SessionChanged: there are other rounds
            than `known`.
            DataError: there is no round `number`. BusyError: the conversation has a round in progress.
        """
        locking = asyncio.ensure_future(asyncio.to_thread(self._lock_session, owner, name))
        try:
            session = await asyncio.shield(locking)
        except asyncio.CancelledError:  # the client has disconnected; the thread continues and acquires the lock
            locking.add_done_callback(lambda task: None if task.exception() else task.result().lock.release())
            raise

        def release() -> None:
            session.job = None
            session.lock.release()

        try:
            count = len(session.chat.rounds)
            if known is not None and known != count:
                raise SessionChanged.of_counts(count, known)
            if number is not None and number >= count:
                raise DataError(f"there is no round {number}: this session has {count}")
            at = count if number is None else number
            message = await asyncio.to_thread(lambda: compose(content, session.chat.items(at)))
            chat = session.chat if at == count else session.chat.branch(at)

            def store() -> None:
                self._store_round(owner, name, session, chat, message, count)
                self.store.uploads.drop(owner, uploads)

            events = JobEvents(
                lambda on_event: self.engine.submit_round(
                    chat, message.prompt, session.report_deletion(on_event), queue, timeout, store, release, **settings
                )
            )
        except BaseException:
            session.lock.release()
            raise
        session.job = events.job
        return events

    def _store_round(
        self, owner: str, name: str, session: OpenSession, chat: Chat, message: Composed, count: int
    ) -> None:
        """Writes the last round of `chat` to the disk, in place of all rounds after it of `count`. Called before
        clients get `Done`."""
        chat.rounds[-1] = replace(chat.rounds[-1], words=message.words, new_media=message.new_media)
        try:
            session.revision = self.store.keep(
                owner, name, len(chat.rounds) - 1, chat.rounds[-1], count, session.revision
            )
        except BaseException:
            chat.undo()
            raise
        session.chat = chat

    def undo(self, owner: str, name: str) -> int:
        """Removes the last round and returns the number of the others. Raises NoSession, DataError, BusyError."""
        session = self._lock_session(owner, name)
        try:
            count = self.store.undo(owner, name, session.revision)
            session.chat.undo()
            session.revision += 1  # not read from the store, where another server may have added a round since
            return count
        finally:
            session.lock.release()

    def delete(self, owner: str, name: str) -> None:
        """Removes a session, and cancels its round in progress. Raises NoSession."""
        self.store.delete(owner, name)
        with self._lock:
            session = self._open.pop((owner, name), None)
        if session is not None and session.job is not None:
            session.deleted = True
            session.job.cancel()

    def export(self, owner: str, name: str) -> IO[bytes]:
        """A zip file of one folder: the conversation, and a page that shows and plays it. The file is
        temporary and is removed when it is closed. Raises NoSession."""
        title = self.store.session(owner, name).title or "A conversation"
        chat = self.get(owner, name)[0]
        file = TemporaryFile()  # noqa: SIM115 - the caller closes it
        with TemporaryDirectory() as folder, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            saved = save(chat, Path(folder) / "conversation", title, self.marks)
            for path in sorted(saved.rglob("*")):
                if path.is_file():
                    archive.write(path, str(path.relative_to(folder)))
        file.seek(0)
        return file

"""`Watcher`: reads jobs for all coroutines that wait for them, in one thread. For `JobQueue.watch`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field

from queueport.engine.arguments import missing
from queueport.engine.batches import call_batch
from queueport.errors import BackendUnavailable
from queueport.spi.locks import ForkAware
from queueport.spi.record import Record
from queueport.spi.store import JobStore

__all__ = ["Watcher"]

SHORTEST, LONGEST, JOBS_PER_SECOND = 0.01, 0.05, 20_000
"""The timeout in seconds of each call of `JobStore.wait` is the number of watched jobs divided by JOBS_PER_SECOND, but
at least SHORTEST and at most LONGEST. It is also the pause after a call that raises BackendUnavailable. It is short,
because a job that somebody begins to watch during a call is only included in the next call."""


@dataclass(slots=True, eq=False)
class _Watch:
    job_id: str
    read_at: float
    """The monotonic time at which the job is read even if it has not ended."""
    record: Future[Record] = field(default_factory=Future)

    def settle(self, answer: Record | Exception | None) -> None:
        """Set the result or the error of the future, unless it was cancelled. None: the job has no record."""
        if not self.record.set_running_or_notify_cancel():
            return
        answer = missing(self.job_id) if answer is None else answer
        if isinstance(answer, Exception):
            self.record.set_exception(answer)
        else:
            self.record.set_result(answer)


class Watcher(ForkAware):
    """Waits for any number of jobs in one thread, which ends when no job is watched. Thread-safe.

    Each round of the thread is one call of `JobStore.wait` for all watched jobs, and one call of `JobStore.get` for
    those that have ended or must be read.
    """

    def __init__(self) -> None:
        super().__init__()
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._watches: set[_Watch] = set()
        self._running = False

    def after_fork(self, *, child: bool) -> None:
        if child:  # the thread, and those who wait, are in the parent
            self._forget()

    def watch(self, store: Callable[[], JobStore], job_id: str, seconds: float) -> Future[Record]:
        """The job's record when the job has ended, or as it is after `seconds`. Cancel the future to stop waiting.

        `store` returns the store of the job, or raises QueueClosed. The future raises JobNotFound, CorruptRecord, and
        any error of `store` and `JobStore.wait`. It raises BackendUnavailable only if the store does not answer after
        `seconds`; before that, the call is repeated.
        """
        watch = _Watch(job_id, time.monotonic() + seconds)
        with self._lock:
            if not self._running:
                threading.Thread(target=self._run, args=[store], name="queueport-results", daemon=True).start()
                self._running = True
            self._watches.add(watch)
        return watch.record

    def _run(self, store: Callable[[], JobStore]) -> None:
        while True:
            with self._lock:
                self._watches = {watch for watch in self._watches if not watch.record.done()}
                watches = list(self._watches)
                if not watches:
                    self._running = False
                    return
            try:
                ended = _ended(store(), {watch.job_id for watch in watches})
            except Exception as error:  # noqa: BLE001  # those who wait raise it: the call is about all their jobs
                for watch in watches:
                    watch.settle(error)
                continue
            now = time.monotonic()
            _read(store, [watch for watch in watches if watch.job_id in ended or watch.read_at <= now])


def _ended(store: JobStore, ids: Collection[str]) -> set[str]:
    timeout = min(max(len(ids) / JOBS_PER_SECOND, SHORTEST), LONGEST)
    try:
        return {record.id for record in store.wait(ids, timeout)}
    except BackendUnavailable:
        time.sleep(timeout)
        return set()


def _read(store: Callable[[], JobStore], watches: Collection[_Watch]) -> None:
    """Read the jobs in one call, and give the answers to those who wait. If one record is damaged, read each alone."""
    ids = list({watch.job_id for watch in watches})
    answers: dict[str, Record | Exception | None] = {}
    try:
        answers = dict(zip(ids, call_batch(store().get, ids, lambda _, error: error), strict=True))
    except Exception as error:  # noqa: BLE001  # those who wait raise it
        answers = dict.fromkeys(ids, error)
    for watch in watches:
        watch.settle(answers[watch.job_id])

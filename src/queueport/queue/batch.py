"""`Batch`: jobs that were enqueued together, and the jobs that follow them. For applications and operators.

`JobQueue.batch` enqueues a batch. Its jobs have a tag of their own, by which they are found.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from queueport.context import running_job
from queueport.engine.arguments import ALIVE, filters, seconds
from queueport.engine.bulk import cancelling_batch, retrying_batch
from queueport.engine.operations import Operations
from queueport.errors import InvalidState, ResultTimeout
from queueport.job import AFTER_TAG, BATCH_TAG
from queueport.spi.store import Query
from queueport.status import JobState, JobStatus

__all__ = ["Batch", "BatchProgress"]

PAGE = 100
"""The number of jobs that `Batch.jobs` reads at once."""
WAIT = 1.0
"""Maximum seconds to wait in the store for a job of a batch before the next one is looked for."""


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """The number of jobs of a batch by state.

    The counts are read one after the other, so their sum can differ from the size of the batch while jobs run.
    """

    scheduled: int
    queued: int
    running: int
    retrying: int
    succeeded: int
    dead: int
    cancelled: int

    @property
    def total(self) -> int:
        """All jobs of the batch that have a record."""
        return sum(asdict(self).values())

    @property
    def ended(self) -> bool:
        """Whether each job has succeeded, or was cancelled or discarded. A dead job keeps its batch open."""
        return self.succeeded + self.cancelled == self.total

    def as_dict(self) -> dict[str, Any]:
        """The counts by state, `total` and `ended`, as plain JSON values."""
        return {**asdict(self), "total": self.total, "ended": self.ended}


class BatchQueue(Protocol):
    """The members of `JobQueue` that `Batch` uses."""

    @property
    def operations(self) -> Operations: ...

    def check_wait(self, job_id: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch, by its id. `JobQueue.batch` and `JobQueue.get_batch` make it. It keeps no data of the jobs."""

    id: str
    queue: BatchQueue = field(repr=False, compare=False)

    def progress(self) -> BatchProgress:
        """The number of jobs by state."""
        count, query = self._operations.store.count, self._query
        return BatchProgress(**{state.value: count(replace(query, state=state)) for state in JobState})

    def jobs(self, state: JobState | str | None = None) -> Iterator[JobStatus]:
        """The jobs of the batch, the latest enqueued first, read page by page; with `state`, those in this state.

        for status in batch.jobs("succeeded"):
            print(status.id, status.result)
        """
        wanted = filters(state=state).state
        page = replace(self._query, state=wanted, limit=PAGE)
        while found := self._operations.find(page):
            yield from found
            page = replace(page, after=found[-1].id)

    def follow_ups(self) -> list[JobStatus]:
        """The status of the jobs that were given as `then` and `on_dead`, and of replays of these; of a chain, that of
        its first job.

        This method reads the store. `JobHandle.follow_ups` is an attribute instead, and has handles.
        """
        return self._operations.find(Query(tag=f"{AFTER_TAG}{self.id}"))

    def cancel(self, interrupt: bool = True) -> int:
        """Cancel the jobs that follow the batch, if they still wait, and each job of the batch that has not ended, as
        `JobQueue.cancel` does. Returns the number of cancelled jobs of the batch.

        The number includes running jobs that were asked to stop. Dead jobs stay dead.
        """
        return cancelling_batch(self._operations, self.id, interrupt=interrupt).run()

    def retry(self) -> int:
        """Retry all dead jobs of the batch, as `JobQueue.retry` does. Returns their number."""
        return retrying_batch(self._operations, self.id).run()

    def wait(self, timeout: float | None = None) -> BatchProgress:
        """Wait until no job of the batch waits or runs, at most `timeout` seconds (None: no limit).

        Returns the progress: `ended` is False if a job is dead. Raises ResultTimeout, and InvalidState in a job of the
        batch.
        """
        running = running_job.get(None)
        if running is not None and running.batch == self.id:
            raise InvalidState(f"a job of the batch {self.id} waits for its end, which never comes: pass then= instead")
        if timeout is not None:
            seconds("timeout", timeout, -math.inf)
        deadline = None if timeout is None else time.monotonic() + timeout
        while alive := self._alive() or self._alive():  # twice, because a job can move on while it is looked for
            self.queue.check_wait(alive)
            left = WAIT if deadline is None else min(WAIT, deadline - time.monotonic())
            if left <= 0:
                raise ResultTimeout(
                    f"jobs of the batch {self.id} still wait or run after {timeout:g} s: call wait() again, and check "
                    "that a live worker takes them"
                )
            self._operations.store.wait([alive], left)
        return self.progress()

    def _alive(self) -> str | None:
        """The id of a job that has not ended; None if there is none."""
        for state in ALIVE:
            for record in self._operations.store.find(replace(self._query, state=state, limit=1)):
                return record.id
        return None

    @property
    def _operations(self) -> Operations:
        return self.queue.operations

    @property
    def _query(self) -> Query:
        return Query(tag=f"{BATCH_TAG}{self.id}")

"""Makes the events of applied changes, and calls the `on_event` hooks. For the engine and the workers."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from queueport import hooks
from queueport.context import running_job
from queueport.engine.runtime import Runtime
from queueport.hooks import Event, EventName
from queueport.spi.driver import Driver
from queueport.spi.failures import FailureLog
from queueport.spi.record import Change, Record
from queueport.spi.store import Insert
from queueport.status import JobState

__all__ = ["Events"]

logger: logging.Logger = logging.getLogger("queueport")

ENTERED: dict[JobState, EventName] = {
    JobState.SUCCEEDED: "succeeded",
    JobState.RETRYING: "retrying",
    JobState.DEAD: "dead",
    JobState.CANCELLED: "cancelled",
}
"""The events of changes that set the state, whatever the state was before."""


class Events:
    """Makes events for one backend. Thread-safe.

    The methods raise no error of a hook. Callers first check that `hooks.event_hooks` is not empty, so that events cost
    nothing without a hook.
    """

    def __init__(self, driver: Driver, runtime: Runtime) -> None:
        self._driver = driver
        self._runtime = runtime
        self._failures = FailureLog(logger, runtime.monotonic)

    def enqueued(self, inserts: Iterable[Insert]) -> None:
        """Call the hooks for new jobs, which were accepted."""
        for insert in inserts:
            self._call("enqueued", insert.record, state=insert.change.set["state"])

    def started(self, record: Record) -> None:
        """Call the hooks for an attempt whose code is about to run."""
        self._call("started", record)

    def changed(self, done: Iterable[tuple[Record, Change]]) -> None:
        """Call the hooks for applied changes, each with the record after the change."""
        for record, change in done:
            names = _names(change)
            if names:
                errors = change.set.get("errors", ())
                details = {
                    "state": change.set["state"],
                    "duration": _duration(record, change),
                    "error": errors[-1] if errors else None,
                    "reason": change.set.get("reason"),
                }
                for name in names:
                    self._call(name, record, **details)

    def worker(self, name: EventName, worker: str) -> None:
        """Call the hooks for an event of the worker with this name."""
        self._call_hooks(Event(name=name, at=self._now(), backend=self._driver.name, worker=worker))

    def put_aside(self, worker: str, reason: str) -> None:
        """Call the hooks for a message that this worker puts aside."""
        event = Event(name="put_aside", at=self._now(), backend=self._driver.name, worker=worker, reason=reason)
        self._call_hooks(event)

    def _call(self, name: EventName, record: Record, **details: Any) -> None:
        self._call_hooks(
            Event(
                name=name,
                at=self._now(),
                backend=self._driver.name,
                job_id=record.id,
                task=record.task,
                queue=record.queue,
                attempt=record.attempts,
                worker=record.worker,
                headers=record.headers,
                **{"state": record.state, **details},
            )
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._runtime.wall(), UTC)

    def _call_hooks(self, event: Event) -> None:
        context = contextvars.copy_context()  # a hook must not change the context of a task
        for hook in tuple(hooks.event_hooks):
            try:
                context.run(hook, event)
            except BaseException as error:
                # If a task that calls queueport is interrupted during a hook, the interruption must reach the task.
                if running_job.get(None) is not None and not isinstance(error, Exception | SystemExit):
                    raise
                self._failures.error(error, "an on_event hook raised an error, which affects neither job nor worker")


def _names(change: Change) -> Sequence[EventName]:
    """The events of a change, in order."""
    state: JobState | None = change.set.get("state")
    names: list[EventName] = ["failed"] if change.failed else []
    if state is JobState.QUEUED and (change.failed or "life" in change.set):  # after a crash, or by `JobQueue.retry`
        names.append("retrying")
    elif state is not None and state in ENTERED:
        names.append(ENTERED[state])
    return names


def _duration(record: Record, change: Change) -> float | None:
    """The seconds of the attempt that the change has ended. None if the change has not ended an attempt, or if a
    dispatcher has ended it because of its lapsed lease.
    """
    # The end of an attempt keeps its token. A dispatcher removes the token, and so does the change to `queued`.
    ended = change.failed or record.cancel_requested or record.state in (JobState.SUCCEEDED, JobState.RETRYING)
    if not ended or record.token is None or record.started_at is None:
        return None
    name, seconds = next(iter(change.stamp.items()))
    stamped: float | None = getattr(record, name)
    return None if stamped is None else max(0.0, stamped - seconds - record.started_at)

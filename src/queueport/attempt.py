"""One attempt at a job, while it runs in this process: its claim, its interruption, its way out. For the runner."""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from queueport.context import CurrentJob
from queueport.record import Record
from queueport.status import JobStatus
from queueport.tasks import Task

__all__ = ["Attempt", "Interrupted", "Why"]


class Interrupted(BaseException):
    """Thrown into a task's thread. No Exception, so that `except Exception` in a task does not swallow it."""


class Why(Enum):
    """Why an attempt was interrupted."""

    TIMEOUT = "timeout"
    CANCEL = "cancel"
    LOST = "lost"
    """Another attempt holds the job by now."""
    STOP = "stop"
    """The worker is stopping and its grace period is over."""


class Attempt:
    """A begun job. `until` ends its lease and `deadline` its timeout, both on this process's monotonic clock.

    The thread that runs the task calls `enter` and `leave`; any other thread may call `interrupt`, once.
    """

    __slots__ = (
        "_coroutine",
        "_left",
        "_lock",
        "_thread",
        "deadline",
        "interrupted_at",
        "job",
        "on_acknowledge",
        "on_heartbeat",
        "record",
        "started",
        "store_offset",
        "task",
        "token",
        "until",
        "why",
        "written_progress",
    )

    def __init__(
        self,
        record: Record,
        task: Task[..., Any, Any],
        token: str,
        *,
        called_at: float,
        lease: float,
        timeout: float | None,
        status: Callable[[], JobStatus],
    ) -> None:
        self.record: Record = record
        self.task: Task[..., Any, Any] = task
        self.token: str = token
        self.until: float = called_at + lease
        self.started: float = time.monotonic()
        self.deadline: float | None = None if timeout is None else self.started + timeout
        self.store_offset: float = (record.started_at or 0.0) - self.started
        self.why: Why | None = None
        self.interrupted_at: float | None = None
        self.written_progress: object = None
        self._lock = threading.Lock()
        self._left = False
        self._thread: int | None = None
        self._coroutine: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self.on_acknowledge: Callable[[], None] | None = None
        self.on_heartbeat: Callable[[], None] | None = None
        self.job: CurrentJob = CurrentJob(
            id=record.id,
            task=record.task,
            queue=record.queue,
            attempt=record.attempts,
            headers=record.headers,
            deadline=None if timeout is None else datetime.fromtimestamp((record.started_at or 0.0) + timeout, UTC),
            status=status,
        )

    def now(self) -> datetime:
        """The store's clock, as this process reckons it since the attempt began."""
        return datetime.fromtimestamp(time.monotonic() + self.store_offset, UTC)

    def seconds(self) -> float:
        """How long ago it began."""
        return time.monotonic() - self.started

    def prolong(self) -> None:
        """Tell the backend that the job still runs; one that does not ask for more has its message acknowledged."""
        if self.on_heartbeat is None:
            self.acknowledge()
        else:
            self.on_heartbeat()

    def acknowledge(self) -> None:
        """Tell the backend, once, that its message has done its work."""
        with self._lock:
            acknowledge, self.on_acknowledge = self.on_acknowledge, None
        if acknowledge is not None:
            acknowledge()

    def enter(self, coroutine: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None) -> None:
        """The task's code starts here: in this thread, or in that coroutine. Raises Interrupted if it must not."""
        with self._lock:
            if self.why is not None:
                raise Interrupted
            self._thread = None if coroutine is not None else threading.get_ident()
            self._coroutine = coroutine

    def leave(self) -> None:
        """The task's code has ended: from here on nothing is thrown into its thread any more."""
        while True:
            try:
                with self._lock:
                    thread, self._thread, self._coroutine = self._thread, None, None
                    self._left = True
                if thread is not None:  # one thrown a moment ago may not have surfaced yet
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None)
                return
            except Interrupted:
                continue

    def stuck(self, seconds: float) -> bool:
        """Whether its code goes on, so many seconds after it was interrupted."""
        return self.interrupted_at is not None and not self._left and time.monotonic() - self.interrupted_at > seconds

    def interrupt(self, why: Why) -> None:
        """End the task's code, as far as Python lets anybody: threads are reached between two steps of Python code."""
        with self._lock:
            if self.why is not None:
                return
            self.why = why
            self.interrupted_at = time.monotonic()
            if self._thread is not None:
                thrown = ctypes.py_object(Interrupted)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), thrown)
            if self._coroutine is not None:
                loop, coroutine = self._coroutine
                loop.call_soon_threadsafe(coroutine.cancel)

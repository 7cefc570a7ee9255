"""A thread with an event loop, and what lives in it. For the transport, whose callers come from any thread.

Nothing here waits under a lock that a caller could leave behind: a task's thread is interrupted between any two lines.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakSet

__all__ = ["LoopThread", "NoAnswer", "Tenant"]

LATE = 0.25
"""Seconds beyond its time after which a call no longer waits to be told by the loop that the time is over."""
CLOSING = 1.0
"""Seconds that a tenant has to take its leave."""


class Tenant(Protocol):
    """What lives in a loop: made with it, and used from its thread only."""

    async def close(self) -> None:
        """Let go of everything; it must not raise, and may be cut short."""


S = TypeVar("S", bound=Tenant)
T = TypeVar("T")


class NoAnswer(TimeoutError):
    """The loop itself did not answer: what it did, and what it will still do, is unknown."""


@dataclass(slots=True)
class _Running(Generic[S]):
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    tenant: S
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a task, and hold it: the loop does so only weakly."""
        task = self.loop.create_task(work())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def end(self) -> None:
        with suppress(Exception):
            async with asyncio.timeout(CLOSING):
                await self.tenant.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        self.loop.stop()


class LoopThread(Generic[S]):
    """Started on first use, in a child after a fork once more, with a tenant of its own. Thread-safe."""

    def __init__(self, name: str, make: Callable[[], S]) -> None:
        self._name = name
        self._make = make
        self._closed = False
        self._running: _Running[S] | None = None
        self._starting = threading.Lock()
        _threads.add(self)

    @property
    def tenant(self) -> S | None:
        """The tenant of this process, for what it lets other threads read; None where nothing was called yet."""
        return None if self._running is None else self._running.tenant

    def call(self, operation: Callable[[S], Awaitable[T]], timeout: float) -> T:
        """Await the operation in the loop and return its answer. Raises what it raises, and TimeoutError."""
        running = self._started()
        answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

        async def answer() -> None:
            try:
                async with asyncio.timeout(timeout):
                    answers.put((await operation(running.tenant), None))
            except asyncio.CancelledError:
                answers.put((None, ConnectionAbortedError("the queue was closed meanwhile")))
            except Exception as error:  # noqa: BLE001  # the caller raises it
                answers.put((None, error))

        try:
            running.loop.call_soon_threadsafe(running.begin, answer)
        except RuntimeError as closed:
            raise ConnectionAbortedError("the queue was closed meanwhile") from closed
        try:
            value, error = answers.get(timeout=timeout + LATE)
        except Empty:
            raise NoAnswer from None
        if error is not None:
            raise error
        answered: T = value
        return answered

    def post(self, function: Callable[..., object], *args: object) -> None:
        """Call a function in the loop soon; nothing happens where no loop runs."""
        running = self._running
        if running is not None:
            with suppress(RuntimeError):  # the loop is closed
                running.loop.call_soon_threadsafe(function, *args)

    def close(self) -> None:
        """End the thread; idempotent. What waits in it ends with an error."""
        self._closed = True
        with self._starting:
            running, self._running = self._running, None
        if running is not None:
            with suppress(RuntimeError):  # the loop is closed
                running.loop.call_soon_threadsafe(running.begin, running.end)
            running.thread.join(CLOSING * 2)

    def _started(self) -> _Running[S]:
        running = self._running
        if running is not None:
            return running
        with self._starting:
            if self._closed:
                raise ConnectionAbortedError("the queue is closed")
            if self._running is None:
                self._running = self._start()
            return self._running

    def _start(self) -> _Running[S]:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_run, args=[loop], name=self._name, daemon=True)
        running = _Running(loop, thread, self._make())
        thread.start()
        return running

    def after_fork(self) -> None:
        """The thread is the parent's. Its loop and its sockets must be neither used nor closed nor collected here."""
        _inherited.append(self._running)
        self._running = None
        self._starting = threading.Lock()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _after_fork() -> None:
    for thread in list(_threads):
        thread.after_fork()


_threads: WeakSet[LoopThread[Any]] = WeakSet()
_inherited: list[Any] = []
"""What a child has of its parent's loops."""
os.register_at_fork(after_in_child=_after_fork)

"""An event loop in a separate thread. For `AsyncTransport`, and for drivers with more than one connection.

A caller may be the thread of a task, which can be interrupted between any two lines. Therefore no caller waits while it
holds a lock that the event loop needs, and the event loop never waits for a caller.
"""

from __future__ import annotations

import _thread
import asyncio
import select
import selectors
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from types import BuiltinFunctionType
from typing import Any, Generic, Protocol, TypeVar, cast

from queueport.errors import ConfigurationError
from queueport.spi.locks import ForkAware

__all__ = ["Closed", "LoopThread", "NoAnswer", "Resource"]

LATE = 0.25
"""Seconds that a caller waits after its timeout, so that the event loop can report the timeout. Also the time after
which `_Running.start` tries again to start the thread."""
CLOSING = 1.0
"""Maximum seconds for a resource to close."""


class Closed(ConnectionAbortedError):
    """`LoopThread.close` was called before or during this call."""


class NoAnswer(TimeoutError):
    """The event loop was blocked, and reported no result and no timeout. The operation may still take place."""


class Resource(Protocol):
    """An object that belongs to one event loop. Made before the loop starts.

    Only the loop's thread may use it, except for members that are thread-safe.
    """

    async def close(self) -> None:
        """Release what the resource holds, such as connections. May be cancelled after a second; errors are ignored."""


R = TypeVar("R", bound=Resource)
T = TypeVar("T")
Answers = SimpleQueue[tuple[Any, BaseException | None]]


class LoopThread(ForkAware, Generic[R]):
    """A thread with an event loop that owns one resource. Thread-safe.

    The thread starts on first use. After a fork, the child process starts its own thread with a new resource. If the
    thread has ended unexpectedly, the next call starts another thread. Under gevent and eventlet, the thread is a
    greenlet.
    """

    def __init__(self, name: str, make: Callable[[], R]) -> None:
        """`make` returns a new resource. Raises ConfigurationError if gevent or eventlet has patched only a part of
        what an event loop needs.
        """
        super().__init__()
        _check_patches()
        self._name = name
        self._make = make
        self._closed = False
        self._running: _Running[R] | None = None
        self._starting = threading.Lock()

    @property
    def resource(self) -> R | None:
        """This process's resource; None if no thread runs. Other threads may use only its thread-safe members."""
        running = self._running
        return None if running is None or running.ended else running.resource

    def call(self, operation: Callable[[R], Awaitable[T]], timeout: float) -> T:
        """Run the operation in the loop and return its result. Raises the operation's errors, TimeoutError and Closed.

        Raises OSError if the thread cannot start, and ConnectionAbortedError if the thread ended unexpectedly before it
        answered. A NoAnswer, which is a TimeoutError, means that the operation may still take place.
        Must not be called in the loop's own thread. If the calling thread is interrupted, the operation continues until
        it ends, its time is over, or `close` is called.
        """
        running = self._started()
        answers: Answers = SimpleQueue()

        async def answer() -> None:
            try:
                async with asyncio.timeout(timeout):
                    answers.put((await operation(running.resource), None))
            except asyncio.CancelledError:
                answers.put((None, running.end_error()))
            except Exception as error:  # noqa: BLE001  # the caller raises it
                answers.put((None, running.end_error(error) if running.ending else error))

        return cast("T", _answered(running, answers, partial(running.begin, answer), timeout + LATE))

    def ask(self, begin: Callable[[R, Callable[[T], None]], object], timeout: float) -> T:
        """Call `begin(resource, answer)` in the loop, and return what it passes to `answer`, at once or later.

        This takes the loop fewer steps than `call`. `begin` must not wait. Later calls of `answer` are ignored. Raises
        the errors of `begin`, and the errors of `call`; but every timeout is a NoAnswer.
        """
        running = self._started()
        answers: Answers = SimpleQueue()

        def start() -> None:
            try:
                begin(running.resource, lambda value: answers.put((value, None)))
            except Exception as error:  # noqa: BLE001  # the caller raises it
                answers.put((None, error))

        return cast("T", _answered(running, answers, start, timeout))

    def post(self, function: Callable[..., object], *args: object) -> None:
        """Schedule a call of the function in the loop, and return at once. Does nothing if no loop runs."""
        running = self._running
        if running is not None and running.runs:
            with suppress(ConnectionAbortedError):
                running.post(function, *args)

    def close(self) -> None:
        """End the thread, and wait at most two seconds for its end. Calls in progress and later ones raise Closed.

        Idempotent. May be called during calls in other threads.
        """
        self._closed = True
        with self._starting:
            running = self._running
        if running is not None:
            with suppress(OSError):  # `Closed` is an OSError
                running.start()  # an interrupted caller may have left the thread unstarted
                running.post(running.end)
                running.thread.join(CLOSING * 2)
            self._running = None

    def after_fork(self, *, child: bool) -> None:
        """In a child process, forget the parent's thread. The child must not use, close or free the parent's loop."""
        if child:
            _inherited.append(self._running)
            self._running = None
            self._starting = threading.Lock()

    def _started(self) -> _Running[R]:
        running = self._running
        if running is None or running.ended:
            with self._starting:
                if self._closed:
                    raise Closed("the queue is closed")
                if self._running is None or self._running.ended:
                    self._running = _Running(self._name, self._make())
                running = self._running
        try:
            running.start()
        except OSError:
            self._running = None
            raise
        return running


def _answered(running: _Running[Any], answers: Answers, start: Callable[[], object], timeout: float) -> Any:
    """Call `start` in the loop, and wait at most `timeout` seconds for the first answer. Returns or raises it."""
    try:
        running.waiting.add(answers)
        running.post(start)
        value, error = answers.get(timeout=timeout)
    except Empty:
        raise NoAnswer from None
    finally:
        running.waiting.discard(answers)
    if error is not None:
        raise error
    return value


class _Running(Generic[R]):
    """One loop, its thread and its resource."""

    def __init__(self, name: str, resource: R) -> None:
        self.resource = resource
        self.waiting: set[Answers] = set()
        """For each call that has no answer yet, the `SimpleQueue` from which the caller reads the answer."""
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._tasks: set[asyncio.Task[None]] = set()
        self.ending = False
        """True after `end` was called."""
        self.ended = False
        """True after the loop has stopped."""
        self._failure: OSError | None = None
        self._launched = threading.Lock()
        self._ready = False
        self._starting = threading.Lock()
        """A lock that is held until `_ready` is set, so that callers of `start` can wait for this moment."""
        self._starting.acquire()

    @property
    def runs(self) -> bool:
        """True after the loop has started, even if the loop has ended since. Call `post` only if this is True."""
        return self._ready and self._failure is None

    def start(self) -> None:
        """Start the thread, unless it was started before, and return when its loop has started.

        Several threads may call this, and each may be interrupted.

        Raises OSError if the process cannot have another thread or loop.

        If a thread is interrupted while it starts another one, CPython 3.11 can raise the interruption in the new
        thread. The new thread then ends, and `Thread.start` waits for it forever. Therefore the caller starts an
        auxiliary thread without waiting for it, and the auxiliary thread starts the loop's thread. If an interruption
        ends the auxiliary thread, the caller starts another one.
        """
        while not self._ready:
            try:
                _thread.start_new_thread(self._launch, ())
            except RuntimeError as error:
                raise OSError(f"this process cannot start another thread: {error}") from error
            if self._starting.acquire(timeout=LATE):
                self._starting.release()
        if self._failure is not None:
            raise self._failure

    def _launch(self) -> None:
        if self._launched.acquire(blocking=False):  # only the first auxiliary thread starts the loop
            try:
                self.thread.start()
            except RuntimeError as error:
                self._set_ready(OSError(f"this process cannot start another thread: {error}"))

    def post(self, function: Callable[..., object], *args: object) -> None:
        """Schedule a call of the function in the loop, and return at once.

        If the loop has ended, raises Closed, or ConnectionAbortedError if `end` was not called.
        """
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError as ended:
            raise self.end_error(ended) from ended

    def end_error(self, cause: Exception | None = None) -> ConnectionAbortedError:
        """The error for an unfinished call: Closed if `end` was called, else a ConnectionAbortedError."""
        error: ConnectionAbortedError = Closed("the queue was closed during the call")
        if not self.ending:
            error = ConnectionAbortedError(f"the thread {self.thread.name!r} ended unexpectedly: try again")
        error.__cause__ = cause
        return error

    def begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start an asyncio task, unless `end` was called.

        Keeps a reference to the task, because the loop has only a weak reference.
        """
        if not self.ending:
            task = self._loop.create_task(work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def end(self) -> None:
        """Start an asyncio task that closes the resource, cancels all other asyncio tasks and then stops the loop."""
        self.begin(self._end)
        self.ending = True

    async def _end(self) -> None:
        with suppress(Exception):
            async with asyncio.timeout(CLOSING):
                await self.resource.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        self._loop.stop()

    def _run(self) -> None:
        try:
            self._loop = _new_loop()
        except OSError as error:  # too many open files
            self._set_ready(error)
            return
        self._set_ready()
        try:
            self._loop.run_forever()
        finally:
            self.ended = True
            self._loop.close()
            for answers in list(self.waiting):  # answer the calls that the loop had not started
                answers.put((None, self.end_error()))

    def _set_ready(self, failure: OSError | None = None) -> None:
        self._failure = failure
        self._ready = True
        self._starting.release()


def _has_greenlets() -> bool:
    """True if gevent or eventlet has replaced the threads of this process by greenlets of one thread."""
    return not isinstance(_thread.start_new_thread, BuiltinFunctionType)


def _check_patches() -> None:
    """Raise ConfigurationError if gevent or eventlet has patched threads but not `select`.

    Also raises it if gevent has patched `select` but not threads. In the first case, a loop would block all greenlets
    of its thread; in the second case, it would wait for greenlets of another thread.
    """
    waits: Any = select.select
    blocks = isinstance(waits, BuiltinFunctionType)
    if _has_greenlets() and blocks:
        patched, other = "threads", "select"
    elif not _has_greenlets() and not blocks and waits.__module__.startswith("gevent"):
        patched, other = "select", "threads"
    else:
        return
    raise ConfigurationError(
        f"this process has monkey-patched {patched} but not {other}, and a connection needs both or none patched: "
        "call gevent's monkey.patch_all() or eventlet's monkey_patch() without arguments, before other imports"
    )


def _new_loop() -> asyncio.AbstractEventLoop:
    """Make a loop for the calling thread. Raises OSError if no file descriptors are left.

    Without free descriptors, asyncio would leave an incomplete loop behind, and Python would print an AttributeError
    when it deletes that loop. Therefore, without greenlets, this function first opens and closes as many descriptors as
    a loop needs.

    gevent and eventlet run threads as greenlets of one operating-system thread, and asyncio allows only one running
    loop in such a thread. While a loop runs, other greenlets run only when the loop waits in `select`. Therefore the
    loop for a greenlet is not registered as the running loop while it waits in `select`, so that other greenlets can
    run their loops.
    """
    if not _has_greenlets():
        one, other = socket.socketpair()
        with one, other, selectors.DefaultSelector():
            pass
        return asyncio.new_event_loop()
    selector: Any = selectors.DefaultSelector()
    loop, wait = asyncio.SelectorEventLoop(selector), selector.select
    # asyncio documents the private `_get_running_loop` and `_set_running_loop` for authors of event loops.
    others = asyncio._get_running_loop()

    def select_with_others(timeout: float | None = None) -> Any:
        nonlocal others
        asyncio._set_running_loop(others)
        try:
            return wait(timeout)
        finally:
            others = asyncio._get_running_loop()
            asyncio._set_running_loop(loop)

    selector.select = select_with_others
    asyncio._set_running_loop(None)  # `run_forever` fails if a loop is set, and sets this one
    return loop


_inherited: list[Any] = []
"""In a child process, the threads and loops of its parent. These references prevent their garbage collection."""

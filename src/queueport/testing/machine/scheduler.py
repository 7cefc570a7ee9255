"""Actors: threads of production code. Only one actor runs at a time, and `Actor.go` sets how far the actor runs.

A thread hands control back at a *point*: before and after the effect of each call to store or broker, inside a task's
code, and wherever production code waits. Nothing here sleeps, so an example runs in the same way each time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum, auto
from queue import SimpleQueue
from typing import Any, NoReturn, TypeVar

from queueport.errors import BackendUnavailable

T = TypeVar("T")


class Crashed(BaseException):
    """Ends the procedure of an actor that was killed or has broken a promise.

    If production code catches the exception, the next point raises it again.
    """


class Fault(Enum):
    """A fault that may happen to an actor at a point. At a point inside a task's code, only CRASH has an effect."""

    NO_ANSWER = auto()
    """The call raises BackendUnavailable; a call that sends messages returns the outcome UNKNOWN instead. If the fault
    happens before the call, the call is not made; if it happens after the call, the answer is lost.
    """
    FAILED = auto()
    """The broker answers that it did not take the messages. This happens only at the point before a call that sends
    messages; at other points, this fault has the effect of NO_ANSWER.
    """
    REFUSED = auto()
    """Like FAILED, but the broker refuses the messages for good."""
    PARTLY = auto()
    """Like FAILED, but the broker takes the first message of the call."""
    CRASH = auto()
    """The producer, or the process that the actor belongs to, is killed."""


class Actor:
    """A thread of production code. `role` is its role in the protocol, and `process` is the name of its worker process;
    "" for a producer or operator.
    """

    def __init__(self, scheduler: Scheduler, role: str, process: str = "") -> None:
        self.role = role
        self.process = process
        self.token = ""
        """The token of the actor's latest attempt."""
        self.begun = True
        """False until the store has answered the begin of that attempt."""
        self.redriven: int | None = None
        """The life in the dead-letter copy that the actor received last; None if the last message was not a copy."""
        self.answered = True
        """False if the actor's latest call was not answered."""
        self.failure: BaseException | None = None
        """The error or the broken promise that ended the actor's procedure."""
        self.after: list[Callable[[], None]] = []
        """What production code has given to other threads. The actor calls it after its procedure."""
        self.calling = False
        """True between the points before and after the effect of a call."""
        self._scheduler = scheduler
        self._thread: Thread | None = None
        self._crashed = False
        self._passes = 0
        self._fault: Fault | None = None

    @property
    def idle(self) -> bool:
        """True if the actor has no procedure to run."""
        return self._thread is None

    # -- called by the thread that lets actors run ----------------------------------------------------

    def begin(self, procedure: Callable[[], object]) -> None:
        """Give an idle actor a procedure. `go` then runs it."""
        self._crashed = False
        self.after.clear()
        self._thread = _idle.pop() if _idle else Thread()
        self._thread.work = lambda: self._perform(procedure)

    def go(self, passes: int, fault: Fault | None = None) -> None:
        """Let the actor pass this number of points, and stop at the following point.

        With `fault`, the fault happens at that following point, and the actor continues to the point after it. The
        actor stops earlier if production code waits or the procedure ends. Raises the actor's `failure`, if any.
        """
        if self._thread is None:
            return
        self._passes, self._fault = passes, fault
        self._scheduler.current = self
        self._thread.resume()
        self._scheduler.current = None
        if self._thread.work is None:
            _idle.append(self._thread)
            self._thread = None
        if self.failure is not None:
            raise self.failure

    def crash(self) -> None:
        """End the actor's procedure where it has stopped. Its `finally` blocks run, but cannot call store or broker."""
        self._crashed = True
        self.go(0)

    # -- called by the actor's own thread -------------------------------------------------------------

    def call(self, do: Callable[[], T], failing: Callable[[Fault], T] | None) -> T:
        """Make a call to the store or broker. The actor may stop or fail at a point before the call and one after it.

        `failing` is given for calls that send messages. If a fault other than NO_ANSWER happens before such a call,
        `failing` is called instead of `do`, and its result is returned. In all other cases, a fault raises
        BackendUnavailable.
        """
        if self.calling:  # a call inside another call does not stop at points
            return do()
        self.answered = False
        if (fault := self.point()) is not None:
            if fault is not Fault.NO_ANSWER and failing is not None:
                self.answered = True
                return failing(fault)
            raise BackendUnavailable("the call was lost")
        self.calling = True
        try:
            answer = do()
        except AssertionError as error:
            self.fail(error)
        finally:
            self.calling = False
        if self.point() is not None:
            raise BackendUnavailable("the answer was lost")
        self.answered = True
        return answer

    def point(self) -> Fault | None:
        """Hand control back until the actor may pass this point. Returns the fault to simulate, or None."""
        self.end_if_crashed()
        while not self._passes and self._fault is None:
            self.pause()
        if self._passes:
            self._passes -= 1
            return None
        fault, self._fault = self._fault, None
        return fault

    def pause(self) -> None:
        """Hand control back, even if the actor may pass more points."""
        self.end_if_crashed()
        if self._thread is not None:
            self._thread.pause()
        self.end_if_crashed()

    def fail(self, failure: BaseException) -> NoReturn:
        """End the procedure because a promise is broken. `go` then raises `failure`."""
        self.failure, self._crashed = failure, True
        raise Crashed

    def end_if_crashed(self) -> None:
        """If this actor was killed or has failed, raise the exception that ends its procedure."""
        if self._crashed:
            raise Crashed

    def _perform(self, procedure: Callable[[], object]) -> None:
        try:
            procedure()
            while self.after:
                self.after.pop()()
        except Crashed:
            pass
        except BaseException as error:  # noqa: BLE001  # `go` raises it, in the thread that calls `go`
            self.failure = self.failure or error


class Scheduler:
    """Knows which actor runs. In the thread of that actor, the wrapped store, the broker and the runtime call the
    scheduler.
    """

    def __init__(self) -> None:
        self.current: Actor | None = None

    def actor(self) -> Actor:
        """The actor that runs. Raises AssertionError if none does."""
        assert self.current is not None, "production code waits in a thread that is not an actor's"
        return self.current

    def call(self, do: Callable[[], T], failing: Callable[[Fault], T] | None = None) -> T:
        """Make a call to the store or broker as `Actor.call` does, for the actor that runs.

        If no actor runs, make the call without stopping before or after it.
        """
        return do() if self.current is None else self.current.call(do, failing)

    def check(self, check: Callable[..., object], *arguments: Any) -> None:
        """Call `check`. If it raises AssertionError, end the actor's procedure, and let `Actor.go` raise the error.

        Production code could catch an AssertionError that was raised in the actor's thread.
        """
        actor = self.actor()
        actor.end_if_crashed()  # production code may have caught Crashed
        try:
            check(*arguments)
        except AssertionError as error:
            actor.fail(error)


class Thread:
    """A thread that runs only during `resume`. Threads are reused, because starting one takes long."""

    def __init__(self) -> None:
        self.work: Callable[[], None] | None = None
        """The function that the thread runs; None when the function has returned."""
        self._resumed: SimpleQueue[None] = SimpleQueue()
        self._paused: SimpleQueue[None] = SimpleQueue()
        self._running = False
        threading.Thread(target=self._run, name="queueport-actor", daemon=True).start()

    def resume(self) -> None:
        """Let the thread run until it pauses or its work has ended."""
        self._running = True
        self._resumed.put(None)
        self._paused.get()

    def pause(self) -> None:
        """Block this thread until `resume`.

        If `Attempt.interrupt` interrupts the thread meanwhile, Interrupted is raised in this method after `resume`.
        """
        self._running = False
        try:
            self._paused.put(None)
            self._wait()
        except BaseException:
            self._wait()
            raise

    def _wait(self) -> None:
        while not self._running:  # if an exception ended an earlier wait, the item of that wait is left
            self._resumed.get()

    def _run(self) -> None:
        while True:
            self._wait()
            if self.work is not None:
                self.work()
            self.work, self._running = None, False
            self._paused.put(None)


_idle: list[Thread] = []

"""`fake` and `inline`: make a new `FakeQueue` the default queue, as a context manager or a decorator."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, ParamSpec, TypeVar, cast

from queueport.testing.fake_queue import FakeQueue

__all__ = ["fake", "inline"]

P = ParamSpec("P")
R = TypeVar("R")


class _Default(AbstractContextManager[FakeQueue]):
    """A context manager and decorator that makes a new `FakeQueue` the process's default queue."""

    def __init__(self, make: Callable[[], FakeQueue]) -> None:
        self._make = make
        self._contexts: list[ExitStack] = []

    def __enter__(self) -> FakeQueue:
        stack = ExitStack()
        queue = stack.enter_context(self._make())
        stack.enter_context(queue.as_default())
        self._contexts.append(stack)
        return queue

    def __exit__(self, *_: object) -> None:
        self._contexts.pop().close()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function or coroutine function: a new `FakeQueue` is the default queue while the function runs."""
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def decorated_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                with self:
                    return await function(*args, **kwargs)

            return cast("Callable[P, R]", decorated_async)

        @functools.wraps(function)
        def decorated(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return function(*args, **kwargs)

        return decorated


def fake(*, profile: str | None = None, **settings: Any) -> _Default:
    """A context manager and decorator that makes a new `FakeQueue` the default queue.

    Jobs run only when the test calls `drain` or `adrain`.

        with fake() as queue:
            sign_up("ann@example.org")
        queue.assert_enqueued(send_welcome)

        @fake()
        def test_sign_up(self): ...                   # get_queue() is the queue

    With `profile`, the queue imitates another backend, as `FakeQueue` describes. `settings` are those of `get_queue`.
    In a unittest, call `self.enterContext(fake())`.
    """
    return _Default(functools.partial(FakeQueue, profile=profile, **settings))


def inline(*, profile: str | None = None, **settings: Any) -> _Default:
    """As `fake`, but one attempt of each job runs when the job is enqueued, even with a delay.

    `enqueue` raises the exception of the task. A job that is to be retried then waits for `drain` or `adrain`. A job
    whose task is not registered stays queued or scheduled.
    """
    return _Default(functools.partial(FakeQueue, inline=True, profile=profile, **settings))

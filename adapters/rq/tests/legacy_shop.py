"""An existing app that uses RQ. For `test_joining`."""

from __future__ import annotations

from redis import Redis
from rq.decorators import job

CONNECTION = Redis()


@job("shop", connection=CONNECTION)  # type: ignore[untyped-decorator]  # RQ has no types here
def resize(number: int) -> int:
    """A function with RQ's own decorator."""
    return number * 2


def refuse(reason: str) -> None:
    """A function that the app enqueues by its path."""
    raise ValueError(reason)


async def slow(number: int) -> int:
    """A coroutine function."""
    return number + 1

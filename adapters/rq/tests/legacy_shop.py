"""An app that uses RQ, and knows nothing of queueport. For the tests of joining it."""

from __future__ import annotations

from redis import Redis
from rq.decorators import job

CONNECTION = Redis()


@job("shop", connection=CONNECTION)  # type: ignore[untyped-decorator]  # RQ has no types here
def resize(number: int) -> int:
    """Declared with RQ's own decorator."""
    return number * 2


def refuse(reason: str) -> None:
    """A function that was only ever enqueued by its path."""
    raise ValueError(reason)


async def slow(number: int) -> int:
    """The same as a coroutine."""
    return number + 1

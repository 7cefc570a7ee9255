"""The tasks that the contract suite enqueues. Worker processes import this module; nobody else needs it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from queueport import Abort, Retry, RetryLater, current_job, task
from queueport.testing import hard_tasks  # noqa: F401  # which workers are to know, too
from queueport.testing.trace import TRACE, Trace, traced

__all__ = ["QUEUE", "TRACE"]

QUEUE = "default"
"""Where they go unless a test says otherwise."""

ONCE = Retry(max_attempts=1)
QUICK = Retry(max_attempts=3, initial=0.2, factor=1.0, jitter=0.0)


def note(name: str, **values: Any) -> None:
    """Leave a note for the test that runs."""
    trace = Trace.here()
    if trace is not None:
        trace.note(name, **values)


class Refused(Exception):
    """An error of the suite's own."""


class RefusedForGood(Refused):
    """A more special one."""


class Parcel(BaseModel):
    """A model with aliases."""

    weight: Decimal = Field(alias="kg")
    labels: list[str] = []


@dataclass
class Point:
    """A dataclass."""

    x: int
    y: float


@task
@traced
def echo(value: Any) -> Any:
    """Give back what came."""
    return value


@task
@traced
def typed(  # noqa: PLR0917  # positional-only parameters are what it is for
    at: datetime, uid: UUID, price: Decimal, data: bytes, point: Point, parcel: Parcel, /, *rest: int, **named: Point
) -> dict[str, Any]:
    """Say of which types the arguments arrived."""
    values = [at, uid, price, data, point, parcel, *rest, *named.values()]
    return {"types": [type(value).__name__ for value in values], "parcel": parcel.labels, "point": point.x}


Everything = tuple[datetime, UUID, Decimal, bytes, Point, Parcel, list[int], dict[str, Point]]


@task
@traced
def same(  # noqa: PLR0917  # positional-only parameters are what it is for
    at: datetime, uid: UUID, price: Decimal, data: bytes, point: Point, parcel: Parcel, /, *rest: int, **named: Point
) -> Everything:
    """Give back typed arguments."""
    return at, uid, price, data, point, parcel, list(rest), named


@task
@traced
def length(text: str) -> int:
    """How long it is."""
    return len(text)


@task
@traced
def same_parcel(parcel: Parcel) -> Parcel:
    """Give back a model."""
    return parcel


@task
@traced
def add(a: int, b: int = 1) -> int:
    """The sum."""
    return a + b


@task
@traced
def headers() -> dict[str, str]:
    """The headers that came with the job."""
    return dict(current_job().headers)


@task(retry=QUICK)
@traced
def fail(message: str = "no") -> None:
    """Always raise."""
    raise Refused(message)


@task(retry=QUICK)
@traced
def fail_as(name: str, message: str = "no") -> None:
    """Raise an error of that class."""
    errors = {"Refused": Refused, "RefusedForGood": RefusedForGood, "ValueError": ValueError, "KeyError": KeyError}
    raise errors[name](message)


@task(retry=QUICK)
@traced
def fail_until(attempt: int) -> int:
    """Raise before that attempt."""
    if current_job().attempt < attempt:
        raise Refused(f"not before attempt {attempt}")
    return current_job().attempt


@task(retry=QUICK)
@traced
def abort(message: str) -> None:
    """Give up at once."""
    raise Abort(message)


@task(retry=QUICK)
@traced
def later(delay: float, burns: bool, times: int) -> int:
    """Ask for another try, that often."""
    if current_job().attempt <= times:
        raise RetryLater(delay=delay, burns=burns)
    return current_job().attempt


@task
@traced
def wait_for(gate: str) -> str:
    """Wait until the test opens a gate."""
    trace = Trace.here()
    if trace is not None:
        trace.wait_at(gate)
    return gate


@task
@traced
def spin(seconds: float) -> float:
    """Be busy in Python code, which can be interrupted."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)
    return seconds


@task
@traced
def sleep(seconds: float) -> float:
    """One long call, which cannot be interrupted."""
    time.sleep(seconds)
    return seconds


@task
@traced
async def asleep(seconds: float) -> float:
    """Wait in the event loop."""
    await asyncio.sleep(seconds)
    return seconds


@task
@traced
def polite(seconds: float) -> str:
    """Look whether it is to stop, and say so."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if current_job().cancel_requested:
            note("asked", job=current_job().id)
            current_job().raise_if_cancelled()
        time.sleep(0.01)
    return "never asked"


@task
@traced
def report(gate: str, total: int) -> int:
    """Tell progress, then wait at a gate."""
    current_job().progress(total // 2, total=total, message="half way")
    trace = Trace.here()
    if trace is not None:
        trace.wait_at(gate)
    return total


@task
@traced
def pass_on(value: int) -> str:
    """Enqueue another task; its job's id."""
    return echo.enqueue(value).id


@task
@traced
async def pass_on_async(value: int) -> str:
    """The same, from the event loop."""
    return (await echo.aenqueue(value)).id


@task
@traced
def unserialisable() -> Any:
    """Return what is no JSON."""
    return object()


@task
@traced
def large(size: int) -> str:
    """Return that many characters."""
    return "x" * size


@task
@traced
def die() -> None:
    """Kill the worker."""
    os.kill(os.getpid(), signal.SIGKILL)


@task
@traced
def die_once() -> int:
    """Kill the worker at the first attempt."""
    if current_job().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return current_job().attempt


@task(retry=ONCE)
@traced
def die_and_tell() -> None:
    """Kill the worker; its death is noted by whoever declares it."""
    os.kill(os.getpid(), signal.SIGKILL)


@task(aliases=("queueport.testing.tasks.old_name",))
@traced
def renamed(value: int) -> int:
    """A task that had another name once."""
    return value


@die_and_tell.on_dead
@fail.on_dead
def fail_has_died(status: Any) -> None:
    """Note the death; raise where the message asks for it."""
    note("dead", job=status.id, state=status.state.value, error=status.error and status.error.message)
    if status.args == ["raise in the hook"]:
        raise Refused("the hook raises")

"""Most of the tasks that the contract suite enqueues. For its tests and its worker processes.

The sample message and records in `samples` contain the name of a task, so this module must not be renamed.
"""

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

from queueport import Abort, AsyncJobQueue, JobQueue, Retry, RetryLater, current_job, get_queue, task
from queueport.testing import hard_tasks, rude_tasks  # noqa: F401  # workers must know these tasks too
from queueport.testing.trace import TRACE, Trace, traced

__all__ = ["QUEUE", "TRACE"]

QUEUE = "default"
"""The queue of all jobs, unless a test names another queue."""

ONCE = Retry(max_attempts=1)
QUICK = Retry(max_attempts=3, initial=0.2, factor=1.0, jitter=0.0)


def note(name: str, **values: Any) -> None:
    """Append a note to the trace of the test (`Trace.note`). Does nothing if there is no trace."""
    trace = Trace.here()
    if trace is not None:
        trace.note(name, **values)


class Refused(Exception):
    """The error that most failing tasks of the suite raise."""


class RefusedForGood(Refused):
    """A subclass of `Refused`, to test that a retry policy for a class also applies to its subclasses."""


class Parcel(BaseModel):
    """A Pydantic model with a field that has an alias, to test models as arguments and results."""

    weight: Decimal = Field(alias="kg")
    labels: list[str] = []


@dataclass
class Point:
    """A dataclass, to test dataclasses as arguments and results."""

    x: int
    y: float


@task
@traced
def echo(value: Any) -> Any:
    """Return the argument."""
    return value


@task
@traced
def named(**fields: int) -> dict[str, int]:
    """Return the keyword arguments, to test that these may have any name."""
    return fields


@task
@traced
def typed(  # noqa: PLR0917  # the task tests positional-only parameters
    at: datetime, uid: UUID, price: Decimal, data: bytes, point: Point, parcel: Parcel, /, *rest: int, **named: Point
) -> dict[str, Any]:
    """Return the names of the arguments' types and two values from the arguments, to test how they were decoded."""
    values = [at, uid, price, data, point, parcel, *rest, *named.values()]
    return {"types": [type(value).__name__ for value in values], "parcel": parcel.labels, "point": point.x}


Everything = tuple[datetime, UUID, Decimal, bytes, Point, Parcel, list[int], dict[str, Point]]


@task
@traced
def same(  # noqa: PLR0917  # the task tests positional-only parameters
    at: datetime, uid: UUID, price: Decimal, data: bytes, point: Point, parcel: Parcel, /, *rest: int, **named: Point
) -> Everything:
    """Return the arguments, to test results of these types."""
    return at, uid, price, data, point, parcel, list(rest), named


@task
@traced
def length(text: str) -> int:
    """Return the length of the text."""
    return len(text)


@task
@traced
def same_parcel(parcel: Parcel) -> Parcel:
    """Return the argument, to test a Pydantic model as an argument and a result."""
    return parcel


@task
@traced
def add(a: int, b: int = 1) -> int:
    """Return the sum."""
    return a + b


@task
@traced
def headers() -> dict[str, str]:
    """Return the headers of the job."""
    return dict(current_job().headers)


@task(retry=QUICK)
@traced
def fail(message: str = "no") -> None:
    """Raise `Refused` at every attempt."""
    raise Refused(message)


@task(retry=QUICK)
@traced
def fail_as(name: str, message: str = "no") -> None:
    """Raise an error of the named class."""
    errors = {"Refused": Refused, "RefusedForGood": RefusedForGood, "ValueError": ValueError, "KeyError": KeyError}
    raise errors[name](message)


@task(retry=QUICK)
@traced
def fail_until(attempt: int) -> int:
    """Raise an error in the attempts before `attempt`. From that attempt on, return the number of the attempt."""
    if current_job().attempt < attempt:
        raise Refused(f"the task fails before attempt {attempt}")
    return current_job().attempt


@task(retry=ONCE)
@traced
def abort(message: str) -> None:
    """Raise `Abort`."""
    raise Abort(message)


@task(retry=QUICK)
@traced
def later(delay: float, burns: bool, times: int) -> int:
    """Raise `RetryLater` in the first `times` attempts; then return the number of the attempt."""
    if current_job().attempt <= times:
        raise RetryLater(delay=delay, burns=burns)
    return current_job().attempt


@task
@traced
def wait_for(gate: str) -> str:
    """Wait until the test opens this gate (`Trace.open`), if there is a trace. Return the name of the gate."""
    trace = Trace.here()
    if trace is not None:
        trace.wait_at(gate)
    return gate


@task
@traced
def spin(seconds: float) -> float:
    """Run Python code, which can be interrupted, for this number of seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)
    return seconds


@task
@traced
def sleep(seconds: float) -> float:
    """Make one call that takes this number of seconds and cannot be interrupted."""
    time.sleep(seconds)
    return seconds


@task
@traced
async def asleep(seconds: float) -> float:
    """Wait in the event loop for this number of seconds."""
    await asyncio.sleep(seconds)
    return seconds


@task
@traced
def cancellable(seconds: float) -> str:
    """Check for this number of seconds whether a cancel was requested. As soon as one was, raise JobCancelled."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if current_job().cancel_requested:
            note("cancel requested", job=current_job().id)
            current_job().raise_if_cancelled()
        time.sleep(0.01)
    return "not cancelled"


@task
@traced
def report(gate: str, total: int) -> int:
    """Report half of `total` as progress, then wait until the test opens this gate (`Trace.open`). Return `total`."""
    current_job().progress(total // 2, total=total, message="half way")
    trace = Trace.here()
    if trace is not None:
        trace.wait_at(gate)
    return total


@task
@traced
def pass_on(value: int) -> str:
    """Enqueue the task `echo` and return the id of the new job."""
    return echo.enqueue(value).id


@task
@traced
async def pass_on_async(value: int) -> str:
    """Enqueue the task `echo` from the event loop and return the id of the new job."""
    return (await echo.aenqueue(value)).id


@task
@traced
def follow(times: int) -> str:
    """Enqueue a job of this task with the key of this job, and return its id; with 0, return "end"."""
    if times == 0:
        return "end"
    return follow.using(key=current_job().key, key_mode="replace").enqueue(times - 1).id


@task
@traced
def close_queue() -> None:
    """Close the queue that `get_queue()` returns in a task, in several ways, to test that this queue stays open."""
    with get_queue() as queue:
        handle = queue.enqueue(echo, 1)
    queue.close()
    asyncio.run(AsyncJobQueue(queue).close())
    get_queue().close()
    assert isinstance(handle.queue, JobQueue)
    handle.queue.close()


@task
@traced
def unserialisable() -> Any:
    """Return a value that cannot be encoded as JSON."""
    return object()


@task
@traced
def large(size: int) -> str:
    """Return a text of this many characters."""
    return "x" * size


@task
@traced
def die() -> None:
    """Kill the worker process at every attempt."""
    os.kill(os.getpid(), signal.SIGKILL)


@task
@traced
def die_once() -> int:
    """Kill the worker process at the first attempt. At a later attempt, return the number of the attempt."""
    if current_job().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return current_job().attempt


@task(retry=ONCE)
@traced
def die_with_hook() -> None:
    """Kill the worker process at every attempt. The process that records the death calls the hook `note_death`."""
    os.kill(os.getpid(), signal.SIGKILL)


@task(aliases=("queueport.testing.tasks.old_name",))
@traced
def renamed(value: int) -> int:
    """Return the argument. The alias stands for a name that the task had in an earlier release of an application."""
    return value


def wait_briefly(gate: str) -> str:
    """Wait for the gate as `wait_for` does, and then for 50 ms, so that jobs that run at the same time overlap."""
    trace = Trace.here()
    if trace is not None:
        trace.wait_at(gate)
    time.sleep(0.05)
    return gate


@task(concurrency=2)
@traced
def in_pairs(gate: str) -> str:
    """Wait for the gate. At most two jobs of this task run at a time."""
    return wait_briefly(gate)


@task(concurrency=1)
@traced
def alone(gate: str) -> str:
    """Wait for the gate. At most one job of this task runs at a time."""
    return wait_briefly(gate)


@task(concurrency=1, concurrency_key=lambda gate: gate)
@traced
def one_by_key(gate: str) -> str:
    """Wait for the gate. At most one job for each gate runs at a time."""
    return wait_briefly(gate)


@task(rate="5/s", burst=2)
@traced
def five_a_second(value: int) -> int:
    """Return the argument. At most five jobs of this task start in a second, and at most two at once."""
    return value


@die_with_hook.on_dead
@fail.on_dead
def note_death(status: Any) -> None:
    """Write a note about the death of the job. Raise an error if the job's argument is "raise in the hook"."""
    note("dead", job=status.id, state=status.state.value, error=status.error and status.error.message)
    if status.args == ["raise in the hook"]:
        raise Refused("the hook raises")

"""The suite's tasks that make life hard for a worker: they do not stop, block the loop, look around. For W, X."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar

from queueport import around_job, current_job, task
from queueport.context import CurrentJob
from queueport.testing.trace import Trace, traced

__all__: list[str] = []

seen: ContextVar[str | None] = ContextVar("queueport_contract_seen", default=None)


def note(name: str, **values: object) -> None:
    """Leave a note of this job for the test that runs."""
    trace = Trace.here()
    if trace is not None:
        trace.note(name, job=current_job().id, attempt=current_job().attempt, **values)


@task
@traced
def spin_once(seconds: float) -> int:
    """At the first attempt be busy in Python code; the attempt's number."""
    end = time.monotonic() + seconds
    while current_job().attempt == 1 and time.monotonic() < end:
        time.sleep(0.01)
    return current_job().attempt


@task
@traced
def sleep_once(seconds: float) -> int:
    """At the first attempt one long call, which cannot be interrupted; the attempt's number."""
    if current_job().attempt == 1:
        time.sleep(seconds)
    return current_job().attempt


@task
@traced
async def asleep_once(seconds: float) -> int:
    """At the first attempt wait in the event loop; the attempt's number."""
    if current_job().attempt == 1:
        await asyncio.sleep(seconds)
    return current_job().attempt


@task
@traced
async def block_once(seconds: float) -> int:
    """At the first attempt hold up the event loop and all that runs on it; the attempt's number."""
    if current_job().attempt == 1:
        time.sleep(seconds)  # noqa: ASYNC251  # the mistake that is meant
    return current_job().attempt


@task
def overtaken() -> int:
    """Wait at the gate of this attempt; what happens to it is noted. Not traced: it may run beside its successor."""
    trace, attempt = Trace.here(), current_job().attempt
    if trace is not None:
        note("waits", pid=os.getpid())
        try:
            trace.wait_at(f"attempt-{attempt}")
        except BaseException:
            note("interrupted")
            raise
        note("completed")
    return attempt


@task
@traced
def remember(value: str) -> str | None:
    """What an earlier job has left in this thread's context; then leave something there."""
    earlier = seen.get()
    seen.set(value)
    return earlier


@task
@traced
async def remember_async(value: str) -> str | None:
    """The same in a coroutine."""
    earlier = seen.get()
    seen.set(value)
    await asyncio.sleep(0)
    return earlier


@task
@traced
def wrapped(fails: bool) -> None:
    """Has hooks around it."""
    note("inside", by=threading.get_ident())
    if fails:
        raise ValueError("from within")


@around_job
def outer(job: CurrentJob) -> Iterator[None]:
    """Note what happens around `wrapped`."""
    if job.task != wrapped.name:
        yield
        return
    note("outer", by=threading.get_ident())
    try:
        yield
    except ValueError as error:
        note("outer saw", error=str(error))
        raise
    finally:
        note("outer ends")


@around_job
def inner(job: CurrentJob) -> Iterator[None]:
    """The same, within the other."""
    if job.task == wrapped.name:
        note("inner", by=threading.get_ident())
    yield
    if job.task == wrapped.name:
        note("inner ends")

"""From what a caller wants to enqueue to the record that is inserted; what cannot be is refused before any I/O."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from queueport import lifecycle
from queueport.capability import Capability
from queueport.errors import InvalidJob, PayloadTooLarge, Unsupported
from queueport.job import Job
from queueport.message import Message
from queueport.operations import Operations, frozen_options
from queueport.record import Change, Record
from queueport.status import JobState
from queueport.tasks import Task
from queueport.tasks import task as declare

__all__ = ["admitted", "bare_record", "made"]


def made(what: Task[..., Any, Any] | Job[Any] | str, args: Sequence[Any], kwargs: dict[str, Any]) -> Job[Any]:
    """A job out of what enqueue takes. Raises InvalidJob."""
    if isinstance(what, Task):
        return what.job(*args, **kwargs)
    if isinstance(what, str):
        return declare.named(what).job(*args, **kwargs)
    if isinstance(what, Job):
        if args or kwargs:
            raise InvalidJob("a job has its arguments already: give none beside it")
        return what
    raise InvalidJob(f"enqueue takes a task, a job or a task's name, not {type(what).__name__}: decorate it with @task")


def admitted(job: Job[Any], operations: Operations) -> tuple[Record, Change]:
    """The job's record and its first change. Raises Unsupported, PayloadTooLarge."""
    options = job.options
    _need(operations, Capability.PRIORITY, options.priority, "priority")
    _need(operations, Capability.GROUPS, options.group, "group")
    record = bare_record(job)
    _fits(operations, record)
    at = None if options.run_at is None else options.run_at.timestamp()
    delay = options.delay if at is None else at - time.time()
    change = lifecycle.new(operations.rules, delay=delay, expires=job.expires)
    return record, change if at is None else _at(change, at)


def bare_record(job: Job[Any]) -> Record:
    """The job's record before its first change."""
    return Record(
        id=job.id,
        task=job.task,
        queue=job.queue,
        payload=job.payload,
        state=JobState.SCHEDULED,
        priority=job.options.priority or 0,
        group=job.options.group,
        key=job.options.key,
        headers=dict(job.headers),
        options=frozen_options(job.options),
    )


def _need(operations: Operations, capability: Capability, value: object, option: str) -> None:
    name = operations.driver.name
    if value not in (None, 0) and capability not in operations.driver.capabilities:
        raise Unsupported(f"{name} has no {option}: leave out {option}=, or use a backend with {capability.name}")


def _fits(operations: Operations, record: Record) -> None:
    name, limits = operations.driver.name, operations.limits
    size = len(record.payload)
    if limits.payload is not None and size > limits.payload:
        raise PayloadTooLarge(
            f"the arguments of {record.task} have {size} bytes; {name} takes {limits.payload}: "
            "keep large data elsewhere and pass its key"
        )
    size = 0 if limits.message is None else len(Message.of(record, time.time()).body)
    if limits.message is not None and size > limits.message:
        raise PayloadTooLarge(
            f"the message of {record.task} has {size} bytes with its headers; {name} takes {limits.message}: "
            "keep large data elsewhere and pass its key"
        )


def _at(change: Change, run_at: float) -> Change:
    """The producer named a time, not a delay: it stands in the record as it was named."""
    named = {"run_at": run_at, "wake_at": run_at} if change.set["state"] is JobState.SCHEDULED else {"run_at": run_at}
    stamp = {name: seconds for name, seconds in change.stamp.items() if name not in named}
    return replace(change, set={**change.set, **named}, stamp=stamp)

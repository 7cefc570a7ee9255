"""Checks the arguments of calls that find jobs: filters, limits, pages, queue names, ids. For the core.

All checks are made before any I/O, so wrong arguments raise the same error on every store.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from queueport.errors import ConfigurationError, JobNotFound, encodable, nearest
from queueport.job import BATCH_TAG, JOB_ID, QUEUE_NAME, JobFilters
from queueport.retry import LONGEST
from queueport.spi.store import Query
from queueport.status import JobState
from queueport.tasks import Task

__all__ = [
    "PAGE",
    "checked",
    "checked_batch",
    "filters",
    "missing",
    "missing_batch",
    "queue_name",
    "seconds",
    "unfinished",
]

PAGE = 500
"""The maximum number of records to read and change in one step when a query matches many."""

LARGEST_PAGE = 2**31 - 1
"""The largest limit that a store gets. No store has as many jobs, and larger numbers do not fit into SQL."""


def filters(
    *,
    state: object = None,
    queue: object = None,
    task: object = None,
    error: object = None,
    older_than: object = None,
    limit: object = PAGE,
    after: object = None,
    more: JobFilters | None = None,
    now: Callable[[], float] | None = None,
) -> Query:
    """Make a query. Raises ConfigurationError for a wrong argument, and JobNotFound if `after` or `batch` is not an id.

    `now` reads the store's clock. It must be given with `more` and with `older_than`, and is called only for a time
    that is a number of seconds, after all checks.
    """
    given = {} if more is None else {name: value for name, value in more.items() if value is not None}
    for name in given:
        if name not in FILTERS:
            raise ConfigurationError(f"there is no filter {name!r:.80} here{nearest(name, FILTERS)}")
    states = [each.value for each in JobState]
    if state is not None and state not in states:
        raise ConfigurationError(f"there is no state {state!r:.80}: use one of {', '.join(states)}")
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ConfigurationError(f"limit={limit!r:.80} is not a number of jobs: pass an integer of 1 or more")
    if "batch" in given:
        if "tag" in given:
            raise ConfigurationError("batch and tag cannot be combined: give one of them")
        given["tag"] = f"{BATCH_TAG}{checked_batch(given['batch'])}"
    since, until = (_time(name, given[name]) if name in given else None for name in ("since", "until"))
    before: float | timedelta | None = _age(older_than)
    if older_than is not None and before is None:
        raise ConfigurationError(
            f"older_than={older_than!r:.80} is not a time: pass 0 to 100 years in seconds, or None for all"
        )
    query = Query(
        None if state is None else JobState(state),
        None if queue is None else queue_name(queue),
        _name("task", task.name if isinstance(task, Task) else task),
        _name("error", error),
        None,
        None if after is None else checked(after),
        min(limit, LARGEST_PAGE),
        key=_name("key", given.get("key")),
        tag=_name("tag", given.get("tag")),
        text=_name("text", given.get("text")),
    )
    times = (since, until, before)
    present = 0.0 if now is None or not any(isinstance(time, timedelta) for time in times) else now()
    moments = [_moment(time, present) for time in times]
    if moments == [None] * 3:
        return query
    return replace(query, since=moments[0], until=moments[1], finished_before=moments[2])


ALIVE = (JobState.SCHEDULED, JobState.RETRYING, JobState.QUEUED, JobState.RUNNING)
"""The states of jobs that have not ended, in an order that meets a job which moves on while it is searched for."""


def unfinished(state: JobState | None, *, filtered: bool) -> Sequence[JobState]:
    """The states of the jobs that `cancel_all` changes. `filtered` is True if a filter, or a state, is given.

    Raises ConfigurationError if this would be all jobs, or only jobs that have ended.
    """
    if not filtered:
        raise ConfigurationError("no filter is given, which would cancel all jobs: give at least one, such as a queue")
    if state is None:
        return ALIVE
    if state.final:
        raise ConfigurationError(f"{state} jobs have ended: choose one of {', '.join(ALIVE)}, or no state")
    return [state]


FILTERS = JobFilters.__optional_keys__


def _time(name: str, value: object) -> float | timedelta:
    """A time as seconds since the epoch, or an age as a timedelta. Raises ConfigurationError."""
    if isinstance(value, datetime) and value.utcoffset() is not None:
        return value.timestamp() - 5e-7  # a status shows times rounded to microseconds; compare as if stores did
    if (age := _age(value)) is not None:
        return age
    raise ConfigurationError(
        f"{name}={value!r:.80} is not a time: pass an aware datetime, or a number of seconds ago from 0 to 100 years"
    )


def _age(value: object) -> timedelta | None:
    """A number of seconds as a timedelta; None if it is not one from 0 to 100 years."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds <= LONGEST:
        return timedelta(seconds=seconds)
    return None


def _moment(given: float | timedelta | None, now: float) -> float | None:
    return now - given.total_seconds() if isinstance(given, timedelta) else given


def _name(what: str, value: object) -> str | None:
    if value is None or (isinstance(value, str) and value and encodable(value) == value):
        return value
    raise ConfigurationError(
        f"{what}={value!r:.80} cannot be searched for: pass text, or None for jobs with any {what}"
    )


def queue_name(name: object) -> str:
    """Return the name if it is a valid queue name. Raises ConfigurationError otherwise."""
    if isinstance(name, str) and QUEUE_NAME.fullmatch(name):
        return name
    raise ConfigurationError(
        f"{name!r:.80} is not a queue name: use 1 to 64 letters, digits, '_', '-' and '.', and do not begin with '.'"
    )


def seconds(name: str, value: object, lowest: float = 0.0) -> None:
    """Raises ConfigurationError if the value is not a number of seconds, or is less than `lowest`."""
    right = isinstance(value, int | float) and (lowest <= value <= LONGEST or value == math.inf)
    if right and not isinstance(value, bool):
        return
    least = "" if lowest < 0 else f", {lowest:g} or more"
    raise ConfigurationError(f"{name} must be a number of seconds{least}, not {value!r:.80}")


def checked(job_id: object) -> str:
    """Return the id if it is a valid job id. Raises JobNotFound otherwise. Does no I/O."""
    if isinstance(job_id, str) and JOB_ID.fullmatch(job_id):
        return job_id
    raise JobNotFound(f"{job_id!r:.80} is not a job id: an id has 1 to 64 letters, digits, '_' and '-'")


def missing(job_id: object) -> JobNotFound:
    """The error for an id without a record."""
    return JobNotFound(
        f"there is no job {job_id!r:.80} in this namespace: it never existed, or its record was removed, for "
        "example when its retention was over"
    )


def checked_batch(batch_id: object) -> str:
    """Return the id if it is a valid id of a batch. Raises JobNotFound otherwise. Does no I/O."""
    if isinstance(batch_id, str) and JOB_ID.fullmatch(batch_id):
        return batch_id
    raise missing_batch(batch_id)


def missing_batch(batch_id: object) -> JobNotFound:
    """The error for the id of a batch of which no job has a record."""
    return JobNotFound(
        f"no batch {batch_id!r:.80} exists in this namespace: check the id; the records of its jobs may be deleted"
    )

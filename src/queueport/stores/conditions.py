"""What the verbs of a store ask of a record, in Python. For stores whose server cannot be asked.

The memory store is written in these words; others say the same in theirs, and the suite compares them.
"""

from __future__ import annotations

import dataclasses

from queueport.record import RECORD_VERSION, Change, Record
from queueport.status import JobState
from queueport.store import Query

__all__ = ["begun", "matches", "readable", "startable"]


def matches(query: Query, record: Record) -> bool:
    """Whether a record is what the query asks for, `after` and `limit` aside."""
    error = record.errors[-1].type if record.errors else None
    finished = record.finished_at
    return (
        (query.state is None or record.state is query.state)
        and (query.queue is None or record.queue == query.queue)
        and (query.task is None or record.task == query.task)
        and (query.error is None or (error is not None and query.error in (error, error.rpartition(".")[2])))
        and (query.finished_before is None or (finished is not None and finished < query.finished_before))
    )


def readable(record: Record) -> bool:
    """False for the record of a newer queueport, which is left to those who know what it means."""
    return record.v <= RECORD_VERSION


def startable(record: Record, now: float) -> bool:
    """The condition of begin."""
    expired = record.expires_at is not None and record.expires_at <= now
    return record.state is JobState.QUEUED and not expired and readable(record)


def begun(record: Record, change: Change, rev: str, now: float) -> Record:
    """The record as begin leaves it."""
    return dataclasses.replace(change.applied(record, rev, now), attempts=record.attempts + 1)

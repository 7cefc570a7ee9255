"""The items of the DynamoDB store: their keys, their index entries, their numbers, and what fits in. For its readers.

A table holds, for each namespace:

    NS#job#ID              a job: the record's fields that are not at their default, and the attributes below
    NS#key#HASH            who holds the key of a task: `holder`
    NS#count#SHARD#QUEUE   part of the counts of a queue: `PRIORITY#STATE`, `processed`, `failed`
    NS#counters            the names of those that exist
    NS#worker#NAME         a worker, until its `until`
    NS#aside#ID#TIME       a job that could not be read, as it was found

    index    partition                          order       holds
    due      NS#due#SHARD                       at          what has a wake_at
             NS#sent#SHARD#PRIORITY#QUEUE       at          queued jobs whose message was sent, by sent_at
    listed   NS#state#SHARD#STATE               seq         all jobs, by the order of their insertion
             NS#workers                         seq         the workers, by name
    waiting  NS#queued#SHARD#QUEUE              queued_at   queued jobs

Numbers are text for DynamoDB, which keeps 38 digits; `repr` needs 17 of a float, so that it comes back equal.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from queueport.capability import Limits
from queueport.errors import PayloadTooLarge
from queueport.record import CorruptRecord, Flat, Record, flat
from queueport.status import JobError, JobState, Progress

__all__ = [
    "LIMITS",
    "Found",
    "Item",
    "Names",
    "attributes",
    "check_size",
    "fitted",
    "outlives",
    "read",
    "shortened",
    "size",
    "updated",
    "value",
    "values",
]

Item = dict[str, dict[str, Any]]
"""Attribute values by name, as DynamoDB's own protocol has them."""

KIB = 1024
ITEM_LIMIT = 400 * KIB
"""https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html: names and values together."""
ERRORS_LIMIT, REST_LIMIT = 48 * KIB, 32 * KIB
"""What of an item is for the history of errors, and what for everything but payload, result and errors."""
LIMITS = Limits(payload=256 * KIB, result=64 * KIB)
"""What is left of it for these two; together with the others they are an item of the largest size."""
PROGRESS_LIMIT = 1000
"""Characters kept of a progress message."""
TTL_GRACE = 7 * 86_400.0
"""Seconds after the end of retention when DynamoDB may delete a job that no dispatcher has removed and uncounted."""

ALWAYS = frozenset({"id", "task", "queue", "payload", "state", "rev", "v"})
DEFAULTS = Record("", "", "", b"", JobState.QUEUED).flat()


@dataclass(frozen=True, slots=True)
class Names:
    """How the items and the partitions of one namespace are called."""

    namespace: str
    shards: int

    def job(self, job_id: str) -> str:
        return f"{self.namespace}#job#{job_id}"

    def key(self, record: Record) -> str | None:
        """The item of the key that this record holds, if it lives and has one."""
        if record.key is None or record.state.final:
            return None
        return self.key_of(record.task, record.key)

    def key_of(self, task: str, key: str) -> str:
        """Hashed, for it may be long and have any character."""
        return f"{self.namespace}#key#{hashlib.sha256(json.dumps([task, key]).encode()).hexdigest()}"

    def counter(self, queue: str, shard: int) -> str:
        return f"{self.namespace}#count#{shard}#{queue}"

    @property
    def counters(self) -> str:
        return f"{self.namespace}#counters"

    def worker(self, name: str) -> str:
        return f"{self.namespace}#worker#{name}"

    def aside(self, job_id: str, now: float) -> str:
        return f"{self.namespace}#aside#{job_id}#{now!r}"

    def shard(self, job_id: str) -> int:
        return zlib.crc32(job_id.encode()) % self.shards

    def due(self, shard: int) -> str:
        return f"{self.namespace}#due#{shard}"

    def sent(self, queue: str, priority: int, shard: int) -> str:
        return f"{self.namespace}#sent#{shard}#{priority}#{queue}"

    def state(self, state: JobState, shard: int) -> str:
        return f"{self.namespace}#state#{shard}#{state.value}"

    def waiting(self, queue: str, shard: int) -> str:
        return f"{self.namespace}#queued#{shard}#{queue}"

    @property
    def workers(self) -> str:
        return f"{self.namespace}#workers"


@dataclass(frozen=True, slots=True)
class Found:
    """A record as it was read, and its place in the order of insertion."""

    record: Record
    seq: str


def value(plain: Flat) -> dict[str, Any]:
    """A flat value as DynamoDB takes it."""
    if isinstance(plain, str):
        return {"S": plain}
    return {"B": plain} if isinstance(plain, bytes) else {"N": repr(plain)}


def values(fields: Mapping[str, Any]) -> Item:
    """Fields of a record, those left out that are at their default."""
    return {
        name: value(plain)
        for name, plain in flat(fields).items()
        if plain is not None and (name in ALWAYS or plain != DEFAULTS[name])
    }


def attributes(names: Names, record: Record) -> Item:
    """The attributes of a job's item that follow from its record: all but its key and its place."""
    shard = names.shard(record.id)
    item = {**values(record.values()), "listed": value(names.state(record.state, shard))}
    if record.wake_at is not None:
        item |= {"due": value(names.due(shard)), "at": value(record.wake_at)}
    elif record.state is JobState.QUEUED and record.sent and record.sent_at is not None:
        item |= {"due": value(names.sent(record.queue, record.priority, shard)), "at": value(record.sent_at)}
    if record.state is JobState.QUEUED and record.queued_at is not None:
        item["waiting"] = value(names.waiting(record.queue, shard))
    if record.errors:
        item["error"] = value(record.errors[-1].type)
    end = outlives(record)
    return item if end is None else {**item, "ttl": value(end)}


def outlives(record: Record) -> int | None:
    """The time from which DynamoDB may delete the job at any moment."""
    if not record.state.final or record.wake_at is None:
        return None
    return math.ceil(record.wake_at + TTL_GRACE)


def read(item: Item) -> Found:
    """The record in an item. Raises CorruptRecord."""
    plain = {name: next(iter(kept.values()), None) for name, kept in item.items()}
    seq = plain.get("seq")
    if not isinstance(seq, str):
        raise CorruptRecord("the record's place in the order of insertion is missing")
    return Found(Record.from_flat(plain), seq)


def updated(old: Item, new: Item, **fixed: dict[str, Any]) -> dict[str, Any]:
    """The parameters of an update that makes the one out of the other; `fixed` are values of its condition."""
    assigned = {name: kept for name, kept in new.items() if old.get(name) != kept}
    removed = [name for name in old if name not in new]
    phrases = []
    if assigned:
        phrases.append("SET " + ", ".join(f"#{name} = :{name}" for name in assigned))
    if removed:
        phrases.append("REMOVE " + ", ".join(f"#{name}" for name in removed))
    return {
        "UpdateExpression": " ".join(phrases),
        "ExpressionAttributeNames": {f"#{name}": name for name in (*assigned, *removed)},
        "ExpressionAttributeValues": {
            **{f":{name}": kept for name, kept in assigned.items()},
            **{f":{name}": kept for name, kept in fixed.items()},
        },
    }


def size(item: Item) -> int:
    """Its size in bytes, as AWS counts it: names and values, a number by its digits."""
    return sum(len(name.encode()) + _size(kept) for name, kept in item.items())


def _size(kept: Mapping[str, Any]) -> int:
    ((kind, plain),) = kept.items()
    if kind == "N":
        return sum(map(str.isdigit, plain)) // 2 + 2
    return len(plain) if kind == "B" else len(plain.encode())


def check_size(record: Record) -> None:
    """Raise PayloadTooLarge for a new record that leaves no room in its item for what it may still be given."""
    payload = len(record.payload)
    if LIMITS.payload is not None and payload > LIMITS.payload:
        raise PayloadTooLarge(
            f"the arguments of job {record.id} have {payload} bytes; DynamoDB can keep {LIMITS.payload}"
        )
    rest = size(values(replace(record, payload=b"", result=None, errors=()).values()))
    if rest > REST_LIMIT - KIB:  # the names of index entries, a worker's name and a progress message are to come
        raise PayloadTooLarge(
            f"headers, key and options of job {record.id} have {rest} bytes; DynamoDB can keep {REST_LIMIT - KIB}"
        )


def fitted(record: Record) -> Record:
    """The record with its history and its progress cut to what its item has room for."""
    if record.progress is not None:
        record = replace(record, progress=shortened(record.progress))
    if _bytes(record.errors) <= ERRORS_LIMIT:
        return record
    errors = record.errors
    for keep in (4000, 2000, 1000):
        errors = (*(_cut(error, keep) for error in errors[:-1]), errors[-1])
        if _bytes(errors) <= ERRORS_LIMIT:
            return replace(record, errors=errors)
    while len(errors) > 1 and _bytes(errors) > ERRORS_LIMIT:
        errors = errors[1:]
    keep = 8000
    while _bytes(errors) > ERRORS_LIMIT and keep:
        errors = (_cut(errors[-1], keep),)
        keep //= 2
    return replace(record, errors=errors)


def shortened(progress: Progress) -> Progress:
    """The progress with no more of its message than is kept."""
    message = progress.message
    return progress if message is None else replace(progress, message=message[:PROGRESS_LIMIT])


def _cut(error: JobError, keep: int) -> JobError:
    """The error with no more than so many characters of its message and of its traceback, whose middle goes."""
    trace, half = error.traceback, keep // 2
    if len(trace) > keep:
        trace = f"{trace[:half]}\n[... {len(trace) - 2 * half} characters left out ...]\n{trace[-half:]}"
    return replace(error, message=error.message[:keep], traceback=trace)


def _bytes(errors: tuple[JobError, ...]) -> int:
    text = flat({"errors": errors})["errors"]
    return len(str(text))  # JSON in ASCII: a character is a byte

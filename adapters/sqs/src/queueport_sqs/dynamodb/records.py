"""How the DynamoDB store keeps records as items: their keys, index entries and sizes. For readers of the store.

For each namespace NS the table holds these items, by key:

    NS#job#ID              a job: the fields of its record that differ from their defaults, index keys, `error`, `ttl`
    NS#label#ID#key#KEY    the entry in the index `listed` for the job ID by its key
    NS#label#ID#tag#TAG    the entry in the index `listed` for the job ID by one of its tags
    NS#key#HASH            `holder`: the id of the job that is alive and holds the key of a task; or of a job that has
                           ended and keeps the key, with the time `until` and a `ttl`
    NS#count#SHARD#QUEUE   a part of the counts of a queue: `PRIORITY#STATE`, `processed`, `failed`
    NS#counters            `parts`: the keys of all NS#count items
    NS#document#KIND#NAME  `rev` and `value` of a document
    NS#documents#KIND      `names`: the names of all documents of a kind
    NS#history#STEP#AT#SHARD#QUEUE#TASK
                           a part of the numbers of the history for a minute (STEP 60) or an hour (3600): `n#NAME`
    NS#limit#NAME          `running`, `held`, `passed` and `full_at` of a limit
    NS#held#ID             the entry in the index `listed` for a job that waits for a limit
    NS#worker#NAME         a worker, which counts as alive before `until`
    NS#aside#ID#TIME       a job, or a document with the ID KIND#NAME, whose item could not be read

The table has these indexes:

    index    partition key                      sort key    entries
    due      NS#due#SHARD                       at          jobs with a wake_at, by wake_at
             NS#sent#SHARD#PRIORITY#QUEUE       at          queued jobs with a sent message and no wake_at, by sent_at
    listed   NS#state#SHARD#STATE               seq         all jobs, in the order of insertion
             NS#label#SHARD#key#KEY             seq         jobs with a key, ended ones too, in the order of insertion
             NS#label#SHARD#tag#TAG             seq         jobs with a tag, in the order of insertion
             NS#history#STEP                    seq         minutes or hours of the history, by their start
             NS#workers                         seq         workers, by name
             NS#held                            seq         jobs that wait for limits, by limit, priority and queued_at
    waiting  NS#queued#SHARD#QUEUE              queued_at   queued jobs

The items NS#label of a job have the `ttl` of its item. DynamoDB may delete them a little earlier or later than the job.

DynamoDB keeps numbers with 38 digits. `repr` writes a float with at most 17 digits, so a float is read back unchanged.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from queueport.capability import Limits
from queueport.errors import PayloadTooLarge
from queueport.spi.record import CorruptRecord, Flat, Record, flat
from queueport.spi.storage import given_fields, newest_error
from queueport.status import JobError, JobState

__all__ = [
    "LIMITS",
    "Found",
    "Item",
    "Names",
    "attributes",
    "check_size",
    "expiry",
    "fitted",
    "label_item",
    "label_of",
    "labels",
    "place_of",
    "read",
    "size",
    "value",
]

Item = dict[str, dict[str, Any]]
"""An item, or some of its attributes: values in the form of DynamoDB's protocol, by the attribute's name."""

KIB = 1024
ITEM_LIMIT = 400 * KIB
"""Maximum bytes of an item, including its attributes' names: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html"""
ERRORS_LIMIT, REST_LIMIT = 48 * KIB, 32 * KIB
"""Maximum bytes of a job's errors, and of all its fields except payload, result and errors."""
LIMITS = Limits(payload=256 * KIB, result=64 * KIB)
"""The limits of the store. Together with ERRORS_LIMIT and REST_LIMIT they add up to ITEM_LIMIT."""
PROGRESS_LIMIT = 1000
"""Maximum characters of a job's progress message. The rest is cut off."""
TTL_GRACE = 7 * 86_400.0
"""DynamoDB may delete a job this number of seconds after the end of its retention, if no dispatcher has deleted it."""


@dataclass(frozen=True, slots=True)
class Names:
    """The keys of one namespace's items, and the partition keys of its indexes."""

    namespace: str
    shards: int

    def job(self, job_id: str) -> str:
        return f"{self.namespace}#job#{job_id}"

    def key(self, record: Record) -> str | None:
        """The primary key of the item for the key that this job holds; None if the job holds no key."""
        if record.key is None or record.state.final:
            return None
        return self.key_of(record.task, record.key)

    def key_of(self, task: str, key: str) -> str:
        """The primary key of the item for a task's key. It ends with a hash, because a key may be long."""
        return f"{self.namespace}#key#{hashlib.sha256(json.dumps([task, key]).encode()).hexdigest()}"

    def counter(self, queue: str, shard: int) -> str:
        return f"{self.namespace}#count#{shard}#{queue}"

    @property
    def counters(self) -> str:
        return f"{self.namespace}#counters"

    def history(self, step: int, at: int, pair: tuple[str, str], shard: int) -> str:
        return f"{self.intervals(step)}#{at}#{shard}#{'#'.join(pair)}"

    def intervals(self, step: int) -> str:
        return f"{self.namespace}#history#{step}"

    def worker(self, name: str) -> str:
        return f"{self.namespace}#worker#{name}"

    def document(self, kind: str, name: str) -> str:
        return f"{self.namespace}#document#{kind}#{name}"

    def documents(self, kind: str) -> str:
        return f"{self.namespace}#documents#{kind}"

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

    def label(self, job_id: str, label: str) -> str:
        return f"{self.namespace}#label#{job_id}#{label}"

    def labelled(self, label: str, shard: int) -> str:
        return f"{self.namespace}#label#{shard}#{label}"

    def limit(self, name: str) -> str:
        return f"{self.namespace}#limit#{name}"

    def held_job(self, job_id: str) -> str:
        return f"{self.namespace}#held#{job_id}"

    @property
    def held(self) -> str:
        return f"{self.namespace}#held"

    @property
    def workers(self) -> str:
        return f"{self.namespace}#workers"


class Found(NamedTuple):
    """A record as it was read, and its place in the order of insertion."""

    record: Record
    seq: str


def value(plain: Flat) -> dict[str, Any]:
    """A value in the form of DynamoDB's protocol."""
    if isinstance(plain, str):
        return {"S": plain}
    return {"B": plain} if isinstance(plain, bytes) else {"N": repr(plain)}


def attributes(names: Names, record: Record) -> Item:
    """The attributes of a job's item that depend on its record: all but `pk` and `seq`."""
    shard = names.shard(record.id)
    item = {**_fields(record), "listed": value(names.state(record.state, shard))}
    if record.wake_at is not None:
        item |= {"due": value(names.due(shard)), "at": value(record.wake_at)}
    elif record.state is JobState.QUEUED and record.sent and record.sent_at is not None:
        item |= {"due": value(names.sent(record.queue, record.priority, shard)), "at": value(record.sent_at)}
    if record.state is JobState.QUEUED and record.queued_at is not None:
        item["waiting"] = value(names.waiting(record.queue, shard))
    error, end = newest_error(record.errors), expiry(record)
    if error is not None:
        item["error"] = value(f" {error} ")  # the blanks let a search match whole class names only
    return item if end is None else {**item, "ttl": value(end)}


def labels(record: Record) -> list[str]:
    """The labels by which the job is found, each in an item of its own.

    They change only if a running job gives up its key.
    """
    tags = [label_of("tag", tag) for tag in record.tags]
    return tags if record.key is None else [label_of("key", record.key), *tags]


def label_of(kind: str, text: str) -> str:
    """The label for a key or a tag. `kind` is "key" or "tag"."""
    return f"{kind}#{text}"


def label_item(names: Names, job_id: str, label: str, seq: str) -> Item:
    """The item that puts a job with this label into the index."""
    listed = names.labelled(label, names.shard(job_id))
    return {"pk": value(names.label(job_id, label)), "listed": value(listed), "seq": value(seq)}


def place_of(time: float) -> str:
    """The place in the order of insertion that a job has at least if it was inserted at this time or later."""
    return f"{max(0, int(time * 1e9)):016x}"


def _fields(record: Record) -> Item:
    """The fields of the record that differ from their defaults, as attributes."""
    return {name: value(plain) for name, plain in flat(given_fields(record)).items() if plain is not None}


def expiry(record: Record) -> int | None:
    """The time from which DynamoDB may delete the job, in seconds since the epoch; None if the job must stay."""
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


def size(item: Item) -> int:
    """The size of an item in bytes, as AWS counts it: names and values. The size of a number depends on its digits."""
    return sum(len(name.encode()) + _size(kept) for name, kept in item.items())


def _size(kept: Mapping[str, Any]) -> int:
    ((kind, plain),) = kept.items()
    if kind == "N":
        return sum(map(str.isdigit, plain)) // 2 + 2
    return len(plain) if kind == "B" else len(plain.encode())


def check_size(record: Record) -> None:
    """Raise PayloadTooLarge for a new record if its item could later become too large."""
    payload = len(record.payload)
    if LIMITS.payload is not None and payload > LIMITS.payload:
        raise PayloadTooLarge(
            f"the arguments of job {record.id} have {payload} bytes; DynamoDB can keep {LIMITS.payload}: "
            "store large data elsewhere and pass its key"
        )
    rest = size(_fields(replace(record, payload=b"", result=None, errors=())))
    if rest > REST_LIMIT - KIB:  # reserve 1 KiB for index keys, the worker's name and the progress
        raise PayloadTooLarge(
            f"headers, key and options of job {record.id} have {rest} bytes; DynamoDB can keep {REST_LIMIT - KIB}: "
            "shorten them"
        )


def fitted(record: Record) -> Record:
    """The record, with its errors and its progress message cut so that its item is not too large.

    If shorter texts of the errors are not enough, the oldest errors are left out.
    """
    progress = record.progress
    if progress is not None and len(progress.message or "") > PROGRESS_LIMIT:
        record = replace(record, progress=replace(progress, message=(progress.message or "")[:PROGRESS_LIMIT]))
    errors = record.errors
    for keep in (4000, 2000, 1000):
        if _bytes(errors) <= ERRORS_LIMIT:
            return record if errors is record.errors else replace(record, errors=errors)
        errors = (*(_cut(error, keep) for error in errors[:-1]), errors[-1])
    while len(errors) > 1 and _bytes(errors) > ERRORS_LIMIT:
        errors = errors[1:]
    keep = 8000
    while _bytes(errors) > ERRORS_LIMIT and keep:
        errors = (_cut(errors[-1], keep),)
        keep //= 2
    return replace(record, errors=errors)


def _cut(error: JobError, keep: int) -> JobError:
    """The error with `keep` characters of its message, and `keep` of its traceback, of which the middle is left out."""
    trace, half = error.traceback, keep // 2
    if len(trace) > keep:
        trace = f"{trace[:half]}\n[... {len(trace) - 2 * half} characters left out ...]\n{trace[-half:]}"
    return replace(error, message=error.message[:keep], traceback=trace)


def _bytes(errors: tuple[JobError, ...]) -> int:
    return len(str(flat({"errors": errors})["errors"]))  # the JSON is ASCII, so each character is one byte

"""Reads jobs from DynamoDB, and waits for jobs to end. For readers of the store.

`Reading` puts an item that cannot be read aside, unless a newer queueport wrote the item. `Waiting` and `checked`
change nothing. An item that DynamoDB may delete by its TTL is treated as deleted.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

from queueport.spi.record import RECORD_VERSION, CorruptRecord, Record
from queueport.spi.storage import reading
from queueport_sqs.dynamodb.commit import Action, Commit, Failed, Write
from queueport_sqs.dynamodb.connection import Table
from queueport_sqs.dynamodb.records import Found, Item, Names, expiry, label_of, read, value
from queueport_sqs.dynamodb.stats import Delta, name_of

__all__ = ["Known", "Reading", "Waiting", "checked", "jobs"]

log: logging.Logger = logging.getLogger(__name__)

INDEXED = frozenset({"due", "at", "listed", "waiting", "queued_at", "ttl"})
"""Attributes that an item that was put aside must not have. With them, the item would be in an index or deleted by
TTL."""
KNOWN = 1000
"""Maximum number of records that a process remembers."""
SMALL = 16 * 1024
"""Maximum bytes of payload and result together. A process remembers no larger records."""
FIRST, LONGEST = 0.05, 0.8
"""Seconds between two reads of a job by `Waiting`: the first pause, and the longest."""
FORGOTTEN = 10.0
"""`Waiting` forgets a job whose next read is overdue by this number of seconds, because no thread waits for the job."""


class Known:
    """A cache of the records that this process wrote last. A write need not read such a record first.

    This is safe because each write makes a new rev, and a write is applied only if the job still has the known rev.
    """

    def __init__(self) -> None:
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, job_id: str, **fields: Any) -> Record | None:
        """The remembered record of the job, if there is one and its fields have the values in `fields`; else None."""
        record = self._records.get(job_id)
        if record is None or any(getattr(record, name) != wanted for name, wanted in fields.items()):
            return None
        return record

    def remember(self, record: Record) -> None:
        """Remember a record that was just written, unless it is larger than SMALL."""
        if len(record.payload) + len(record.result or b"") > SMALL:
            return
        with self._lock:
            self._records[record.id] = record
            self._records.move_to_end(record.id)
            while len(self._records) > KNOWN:
                self._records.popitem(last=False)


class Reading:
    """Consistent reads for one call of the store. `now` is the time of the call on the store's clock."""

    def __init__(self, commit: Commit, now: float) -> None:
        self.commit, self.table, self.names = commit, commit.table, commit.names
        self.now = now
        self.closed: set[str] = set()
        """Ids of jobs that a newer queueport wrote. This version cannot read these jobs and does not change them."""

    def known(self, record: Record | None) -> Record | None:
        """Return `record`, which this process remembers; None if DynamoDB may have deleted the job meanwhile by TTL."""
        end = None if record is None else expiry(record)
        return None if end is not None and end <= self.now else record

    def found(self, ids: Collection[str]) -> dict[str, Found]:
        """The jobs with these ids that exist and can be read, by id."""
        items = jobs(self.table, self.names, ids)
        return {job_id: found for job_id in ids if (found := self.job_in(job_id, items.get(job_id))) is not None}

    def job_in(self, job_id: str, item: Item | None) -> Found | None:
        """The job in an item; None if no job can be read. Removes an item that is damaged or expired.

        An item that a newer queueport wrote stays; its id is added to `closed`. If another process has changed the item
        meanwhile, this reads the new item.
        """
        while item is not None:
            try:
                found = read(item)
            except CorruptRecord as error:
                if _newer(item):
                    self.closed.add(job_id)
                    return None
                item = self._removed(job_id, item, str(error))
                continue
            if not _expired(item, self.now):
                return found
            item = self._removed(job_id, item, None)
        return None

    def _removed(self, job_id: str, item: Item, reason: str | None) -> Item | None:
        """Remove the item of a job, release the job's key, and lower the counts. With a reason, put the item aside.

        If another process has changed the item meanwhile, change nothing and return the new item; otherwise None.
        """
        actions = [self.commit.delete(self.names.job(job_id), "rev", item.get("rev")), *self._released(job_id, item)]
        actions += [self.commit.action("Delete", self.names.label(job_id, label)) for label in _labels(item)]
        place = self.names.aside(job_id, self.now)
        if reason is not None:
            kept = {name: plain for name, plain in item.items() if name not in INDEXED}
            notes = {"pk": value(place), "reason_aside": value(reason), "at_aside": value(self.now)}
            actions.append(self.commit.action("Put", Item={**kept, **notes}))
        done = self.commit([Write(job_id, actions, _uncounted(item))])[job_id]
        if isinstance(done, Failed):
            return jobs(self.table, self.names, [job_id]).get(job_id)
        if reason is not None:
            log.warning("job %s was put aside as the item %s of %s: %s", job_id, place, self.table.what, reason)
        return None

    def _released(self, job_id: str, item: Item) -> Sequence[Action]:
        task, key = (item.get(name, {}).get("S") for name in ("task", "key"))
        if task is None or key is None:
            return ()
        place = self.names.key_of(task, key)
        item = self.table.get([place]).get(place, {})
        if item.get("holder") != value(job_id) or "until" in item:  # with `until`, the key outlives its job
            return ()
        return [self.commit.delete(place, "holder", item["holder"])]


class Waiting:
    """Waits for jobs to end. Reads each job, and then again after pauses that grow up to LONGEST.

    Calls of `wait` for the same job share one schedule of reads, which is kept for some seconds after the last call. So
    only the first of these calls, and each call with the timeout 0, reads the job at once. DynamoDB bills every read,
    and notifies clients of changes only through streams.
    """

    def __init__(self, table: Table, names: Names, now: Callable[[], float]) -> None:
        self._table = table
        self._names = names
        self._now = now
        self._next: dict[str, tuple[float, float]] = {}
        """By job id: the time of the next read, and the pause after that read."""
        self._swept = time.monotonic()
        self._lock = threading.Lock()

    def wait(self, ids: Collection[str], timeout: float) -> list[Record]:
        """Wait until one of these jobs is final, at most `timeout` seconds. Return the records of the final ones."""
        if timeout <= 0:
            return self._final(ids, True)
        deadline = time.monotonic() + timeout
        while True:
            new, again = self._due(ids)
            # Only the first read of a job must be up to date. Later reads may be eventually consistent, which costs
            # half as much.
            found = [*self._final(new, True), *self._final(again, False)]
            left = deadline - time.monotonic()
            if found or left <= 0:
                with self._lock:
                    for record in found:
                        self._next.pop(record.id, None)
                return found
            with self._lock:
                due = min((self._next[job_id][0] for job_id in ids if job_id in self._next), default=deadline)
            time.sleep(max(0.0, min(left, due - time.monotonic())))

    def _final(self, ids: Collection[str], consistent: bool) -> list[Record]:
        """The record of each of these jobs that is in a final state. Unlike `Reading`, this method changes no items."""
        items = jobs(self._table, self._names, ids, consistent=consistent)
        now = self._now() if items else 0.0
        final = []
        for item in items.values():
            with suppress(CorruptRecord):
                record = read(item).record
                if record.state.final and not _expired(item, now):
                    final.append(record)
        return final

    def _due(self, ids: Collection[str]) -> tuple[list[str], list[str]]:
        """The jobs to read now for the first time, and those to read now again. Schedules the next read of each."""
        now = time.monotonic()
        new: list[str] = []
        again: list[str] = []
        with self._lock:
            if now - self._swept > FORGOTTEN:
                self._next = {job_id: read for job_id, read in self._next.items() if now - read[0] < FORGOTTEN}
                self._swept = now
            for job_id in ids:
                at, pause = self._next.get(job_id, (None, FIRST))
                if at is None or at <= now:
                    (new if at is None else again).append(job_id)
                    self._next[job_id] = (now + pause, min(2 * pause, LONGEST))
        return new, again


def jobs(table: Table, names: Names, ids: Collection[str], *, consistent: bool = True) -> dict[str, Item]:
    """The existing items of these jobs, by job id."""
    by_key = {names.job(job_id): job_id for job_id in ids}
    return {by_key[key]: item for key, item in table.get(list(by_key), consistent=consistent).items()}


def checked(job_id: str, item: Item | None, now: float) -> Record | None:
    """The record in an item, for `JobStore.get`; None if the item is missing or has expired. Raises CorruptRecord.

    Unlike `Reading`, this function changes no items.
    """
    if item is None or _expired(item, now):
        return None
    with reading(job_id):
        return read(item).record


def _expired(item: Item, now: float) -> bool:
    """Whether the item's TTL has passed, so that DynamoDB may delete the item at any moment."""
    return "N" in item.get("ttl", {}) and float(item["ttl"]["N"]) <= now


def _labels(item: Item) -> list[str]:
    """The labels of the job in an item that perhaps cannot be read."""
    found = [label_of("key", item["key"]["S"])] if "S" in item.get("key", {}) else []
    with suppress(KeyError, ValueError, TypeError):
        found += [label_of("tag", str(tag)) for tag in json.loads(item["tags"]["S"])]
    return found


def _newer(item: Item) -> bool:
    version = item.get("v", {}).get("N", "")
    return version.isdigit() and int(version) > RECORD_VERSION


def _uncounted(item: Item) -> Delta:
    """The change of the counts for an item that is removed. Its attribute `listed` says in which state it counts.

    The change is empty if the item does not say this, or names no queue.
    """
    try:
        queue, priority = item["queue"]["S"], int(item.get("priority", {"N": "0"})["N"])
        state = item["listed"]["S"].rpartition("#")[2]
    except (KeyError, ValueError):
        return Delta()
    return Delta({(queue, name_of(priority, state)): -1})

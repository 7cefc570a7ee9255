"""How the DynamoDB store reads jobs, and what becomes of those that are in the way. For its readers.

An item that cannot be read is put aside, and one that DynamoDB should have deleted is gone for every reader.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Collection, Sequence
from typing import Any

from queueport.record import RECORD_VERSION, CorruptRecord, Record
from queueport_sqs.dynamodb_commit import Action, Commit, Failed, Write
from queueport_sqs.dynamodb_counts import Delta, name_of
from queueport_sqs.dynamodb_items import Found, Item, Names, outlives, read
from queueport_sqs.dynamodb_table import Table

__all__ = ["Known", "Reading", "checked", "ended"]

log: logging.Logger = logging.getLogger(__name__)

INDEXED = frozenset({"due", "at", "listed", "waiting", "queued_at", "ttl"})
"""Attributes that an item put aside must not have: it is in no index, and never deleted."""
KNOWN = 1000
"""Records that a process remembers."""
SMALL = 16 * 1024
"""Bytes of payload and result up to which it does."""


class Known:
    """Records as this process last wrote or read them: a write that expects one of these revs need not read first.

    That is safe, for each write makes a new rev: an item that bears the rev is the record that is known by it.
    """

    def __init__(self) -> None:
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, job_id: str, rev: str | None) -> Record | None:
        """The record of that job with that rev."""
        record = self._records.get(job_id)
        return record if record is not None and record.rev == rev else None

    def remember(self, record: Record) -> None:
        """It was written or read just now."""
        if len(record.payload) + len(record.result or b"") > SMALL:
            return
        with self._lock:
            self._records[record.id] = record
            self._records.move_to_end(record.id)
            while len(self._records) > KNOWN:
                self._records.popitem(last=False)


class Reading:
    """Reads jobs at one time of the store's clock, consistently."""

    def __init__(self, table: Table, names: Names, commit: Commit, now: float) -> None:
        self._table = table
        self._names = names
        self._commit = commit
        self._now = now
        self.closed: set[str] = set()
        """Jobs of a newer queueport that this one cannot read: they are left alone."""

    def known(self, record: Record | None) -> Record | None:
        """A record that was known before this time, if it may still be there."""
        end = None if record is None else outlives(record)
        return None if end is not None and end <= self._now else record

    def found(self, ids: Collection[str]) -> dict[str, Found]:
        """The jobs of these ids that are there."""
        items = self._table.get([self._names.job(job_id) for job_id in ids])
        met = {job_id: self.meet(job_id, items.get(self._names.job(job_id))) for job_id in ids}
        return {job_id: found for job_id, found in met.items() if found is not None}

    def meet(self, job_id: str, item: Item | None) -> Found | None:
        """The job in an item; None where there is none, or no more."""
        while item is not None:
            try:
                found = read(item)
            except CorruptRecord as error:
                if _newer(item):
                    self.closed.add(job_id)
                    return None
                item = self._removed(job_id, item, str(error))
                continue
            if not _outlived(item, self._now):
                return found
            item = self._removed(job_id, item, None)
        return None

    def _removed(self, job_id: str, item: Item, reason: str | None) -> Item | None:
        """Take an item away, with its counts and its key; with a reason, put it aside. What is there in the end."""
        known, values = (
            ("#rev = :rev", {":rev": item["rev"]}) if "rev" in item else ("attribute_not_exists(#rev)", None)
        )
        delete: dict[str, Any] = {"ConditionExpression": known, "ExpressionAttributeNames": {"#rev": "rev"}}
        if values is not None:
            delete["ExpressionAttributeValues"] = values
        actions: list[Action] = [self._commit.action("Delete", self._names.job(job_id), **delete)]
        actions += self._released(job_id, item)
        place = self._names.aside(job_id, self._now)
        if reason is not None:
            kept = {name: value for name, value in item.items() if name not in INDEXED}
            told = {"pk": {"S": place}, "reason_aside": {"S": reason}, "at_aside": {"N": repr(self._now)}}
            actions.append(self._commit.action("Put", Item={**kept, **told}))
        done = self._commit([Write(job_id, actions, _uncounted(item))])[job_id]
        if not isinstance(done, Failed):
            if reason is not None:
                log.warning("job %s was put aside as the item %s of %s: %s", job_id, place, self._table.what, reason)
            return None
        return self._table.get([self._names.job(job_id)]).get(self._names.job(job_id))

    def _released(self, job_id: str, item: Item) -> Sequence[Action]:
        task, key = (item.get(name, {}).get("S") for name in ("task", "key"))
        if task is None or key is None:
            return ()
        place = self._names.key_of(task, key)
        holder = self._table.get([place]).get(place, {}).get("holder")
        return [self._commit.release(place, job_id)] if holder == {"S": job_id} else ()


def checked(job_id: str, item: Item | None, now: float) -> Record | None:
    """The record in an item, which is left as it is. Raises CorruptRecord, with the job's id."""
    if item is None or _outlived(item, now):
        return None
    try:
        return read(item).record
    except CorruptRecord as error:
        raise CorruptRecord(f"job {job_id!r} is damaged: {error}") from None


def ended(item: Item, now: float) -> Record | None:
    """The record in an item, which is left as it is, if the job has ended."""
    try:
        record = read(item).record
    except CorruptRecord:
        return None
    return record if record.state.final and not _outlived(item, now) else None


def _outlived(item: Item, now: float) -> bool:
    """Whether DynamoDB may delete the item at any moment."""
    return "N" in item.get("ttl", {}) and float(item["ttl"]["N"]) <= now


def _newer(item: Item) -> bool:
    version = item.get("v", {}).get("N", "")
    return version.isdigit() and int(version) > RECORD_VERSION


def _uncounted(item: Item) -> Delta:
    """What its going takes from the counts; the place in the index tells the state under which it is counted."""
    try:
        queue, priority = item["queue"]["S"], int(item.get("priority", {"N": "0"})["N"])
        state = item["listed"]["S"].rpartition("#")[2]
    except (KeyError, ValueError):
        return {}
    return {queue: Counter({name_of(priority, state): -1})}

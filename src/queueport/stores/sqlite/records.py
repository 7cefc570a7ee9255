"""Reads and writes records as rows of the SQLite store, and puts damaged rows aside. For the SQLite store."""

# ruff: noqa: S608  # statements are built only from text in this file and names of fields; every value is a parameter

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any

from queueport.spi import storage
from queueport.spi.history import MINUTE, Before, events, nothing, start_of
from queueport.spi.record import RECORD_VERSION, Change, CorruptRecord, Record, writers
from queueport.spi.storage import (
    document,
    given_names_and_values,
    newest_error,
    releasing,
    renewal,
    replacing,
    unreadable_holder,
)
from queueport.spi.store import Begin, Document, Insert, LeaseRenewal, Swap, WriteOutcome, WriteResult
from queueport.status import JobState
from queueport.stores.sqlite import history
from queueport.stores.sqlite.limits import limit_state
from queueport.stores.sqlite.schema import FIELDS, Tables

__all__ = [
    "REV_OF",
    "NotAll",
    "Writing",
    "columns",
    "documents",
    "put_aside",
    "put_document_aside",
    "record",
    "records",
    "row_of",
]

REV_OF = "SELECT rev FROM @documents WHERE kind = ? AND name = ?"
"""Reads the rev of a document."""

IS_EXPECTED = "id = ? AND rev = ?"
"""The condition of a swap."""

HOLDER = "SELECT @COLUMNS FROM @jobs WHERE task = ? AND key = ? AND @ALIVE AND id <> ?"
"""Reads the job that holds a key, unless it is the job with this id."""
KEEPER = "SELECT id FROM @kept WHERE task = ? AND key = ? AND until > ?"
"""Reads the id of the ended job that keeps a key."""

QUEUED = Before(JobState.QUEUED)

Where = tuple[str, tuple[Any, ...]]
"""An SQL condition that at most one row meets, and the parameters of this condition."""

log: logging.Logger = logging.getLogger(__name__)


Columns = tuple[tuple[str, ...], list[Any]]
"""The names of columns, and their values."""


def columns(names: tuple[str, ...], values: list[Any]) -> Columns:
    """Convert values of fields to values of columns. May change the list `values`.

    If `errors` is among the fields, also set two columns: `error`, the class of the newest error, and `error_name`, the
    names of this class and its ancestors. Both are None without errors.
    """
    errors = values[names.index("errors")] if "errors" in names else None
    for position, write in writers(names):
        if values[position] is not None:
            values[position] = write(values[position])
    if errors is None:
        return names, values
    return (*names, "error", "error_name"), [*values, errors[-1].type if errors else None, newest_error(errors)]


def record(row: Sequence[Any]) -> Record:
    """The record in a row, whose columns are FIELDS. Raises CorruptRecord."""
    return Record.from_flat_values(row[1:])


def records(rows: Sequence[Sequence[Any]]) -> tuple[list[Record], list[int]]:
    """The records in these rows, and the seq of each row that cannot be read."""
    found: list[Record] = []
    damaged: list[int] = []
    for row in rows:
        try:
            found.append(record(row))
        except CorruptRecord:
            damaged.append(row[0])
    return found, damaged


def row_of(tables: Tables, job_id: str) -> Any:
    """The row of a job, or None."""
    return next(iter(tables.rows("SELECT @COLUMNS FROM @jobs WHERE id = ?", (job_id,))), None)


def put_aside(tables: Tables, seq: int, now: float) -> bool:
    """Move a damaged row to the table `aside`, in the caller's transaction. Returns whether the row was moved.

    A row is not moved if it can be read, or if a newer release of queueport wrote it. Each move is logged as a warning.
    """
    statement = "SELECT * FROM @jobs WHERE seq = ?"
    names = [column[0] for column in tables.cursor_of(statement, (seq,)).description]
    for values in tables.rows(statement, (seq,)):
        row = dict(zip(names, values, strict=True))
        try:
            Record.from_flat(row)
        except CorruptRecord as error:
            if isinstance(row["v"], int) and row["v"] > RECORD_VERSION:
                return False
            aside = (row["id"], str(error), now, json.dumps(row, default=bytes.hex))
            tables.rows("INSERT INTO @aside (id, reason, at, record) VALUES (?, ?, ?, ?)", aside)
            tables.rows("DELETE FROM @jobs WHERE seq = ?", (seq,))
            log.warning("job %s was put aside into the table %s: %s", row["id"], tables.name_of("aside"), error)
            return True
    return False


def documents(tables: Tables, kind: str) -> tuple[list[Document], list[tuple[str, str]]]:
    """The documents of a kind, sorted by name, and the name of each one that cannot be read, with the reason."""
    found: list[Document] = []
    damaged: list[tuple[str, str]] = []
    for name, rev, text in tables.rows("SELECT name, rev, value FROM @documents WHERE kind = ? ORDER BY name", (kind,)):
        try:
            found.append(document(kind, name, rev, text))
        except CorruptRecord as error:
            damaged.append((name, str(error)))
    return found, damaged


def put_document_aside(tables: Tables, kind: str, name: str, reason: str, now: float) -> None:
    """Move a damaged document to the table `aside`, in the caller's transaction, unless it can be read by now."""
    for rev, text in tables.rows("SELECT rev, value FROM @documents WHERE kind = ? AND name = ?", (kind, name)):
        try:
            document(kind, name, rev, text)
        except CorruptRecord:
            kept = json.dumps({"kind": kind, "name": name, "rev": rev, "value": text}, default=bytes.hex)
            aside = f"{kind}:{name}", reason, now, kept
            tables.rows("INSERT INTO @aside (id, reason, at, record) VALUES (?, ?, ?, ?)", aside)
            tables.rows("DELETE FROM @documents WHERE kind = ? AND name = ?", (kind, name))
            log.warning("a document was put aside into the table %s: %s", tables.name_of("aside"), reason)


class NotAll(Exception):
    """Several writes cannot be made together. The caller must roll back, and then make them one by one."""


class Writing:
    """Writes rows for the verbs of the store, in the caller's transaction. `now` is the time of the transaction.

    If a write finds a damaged row, this row is put aside, unless a newer release wrote it. In both cases, the result of
    the write is REFUSED without a record. If the damaged row held the key that the write needs, the write is repeated
    after the row was put aside; if the row stays, the result is KEY_HELD. The caller must call `close` at the end of
    the transaction.
    """

    def __init__(self, tables: Tables, now: float) -> None:
        self.tables = tables
        self.now = now
        self._processed = 0
        self._failed = 0
        self._counted = nothing()
        """The numbers to add to the history."""

    def insert(self, insert: Insert) -> WriteResult:
        new, names, values = self._new(insert)
        if new.key is not None and (kept := self._keeper(new)) is not None:
            existing = row_of(self.tables, new.id)
            return kept if existing is None else WriteResult(WriteOutcome.REFUSED, self._found(new.id))
        try:
            self.tables.cursor_of(_insert(names), values)
        except sqlite3.IntegrityError:
            if row_of(self.tables, new.id) is not None:
                return WriteResult(WriteOutcome.REFUSED, self._found(new.id))
            held = self._held(new)
            return self.insert(insert) if held is None else self._replaced(insert, held)
        return self._applied(insert.change, new)

    def _replaced(self, insert: Insert, held: WriteResult) -> WriteResult:
        """The result of an insert whose key is held, as `held` says, after a change of `Insert.replace`."""
        holder = held.record
        change = None if holder is None else replacing(insert, holder)
        if holder is None or change is None:
            return held
        changed = self.swap(Swap(holder.id, holder.rev, change, insert.rev, holder))
        if holder.state is JobState.RUNNING:
            return self.insert(insert)
        return WriteResult(WriteOutcome.REPLACED, changed.record)

    def insert_all(self, inserts: Sequence[Insert]) -> list[WriteResult]:
        """`insert` for several records, with one statement for consecutive records that have the same columns.

        Raises NotAll if one of the records cannot be inserted.
        """
        rows = [self._new(insert) for insert in inserts]
        for new, _, _ in rows:
            if new.key is not None and self._keeper(new) is not None:
                raise NotAll
        try:
            for names, group in groupby(rows, itemgetter(1)):
                self.tables.count_of(_insert(names), [values for _, _, values in group])
        except sqlite3.IntegrityError:
            raise NotAll from None
        return [self._applied(insert.change, new) for insert, (new, _, _) in zip(inserts, rows, strict=True)]

    def _new(self, insert: Insert) -> tuple[Record, tuple[str, ...], list[Any]]:
        """The record to insert, and the names and values of its columns."""
        new = insert.change.applied(insert.record, insert.rev, self.now)
        return new, *columns(*given_names_and_values(new))

    def swap(self, swap: Swap) -> WriteResult:
        result = self._swap(swap)
        for release in swap.change.releases if result.applied else ():
            waiting = self._found(release.id)
            change = releasing(release, waiting)
            if waiting is not None and change is not None:
                self._swap(Swap(waiting.id, waiting.rev, change, swap.id, waiting))
        return result

    def _swap(self, swap: Swap) -> WriteResult:
        where = IS_EXPECTED, (swap.id, swap.expected)
        if not swap.change.delete:
            return self._change(swap.id, swap.change, swap.rev, where, swap.record, known=swap.record)
        old = swap.record or self._found(swap.id)
        if not self.tables.cursor_of(f"DELETE FROM @jobs WHERE {IS_EXPECTED}", where[1]).rowcount:
            return WriteResult(WriteOutcome.REFUSED, self._found(swap.id))
        return self._applied(swap.change, None, old)

    def swap_all(self, swaps: Sequence[Swap]) -> list[WriteResult]:
        """`swap` for several records, with one statement for consecutive changes that set the same columns.

        Raises NotAll if one of the swaps is refused, if another job holds the key of one, if a swap has no `record`, or
        if it releases other jobs.
        """
        rows = [self._changed(swap) for swap in swaps]
        try:
            for statement, group in groupby(rows, itemgetter(0)):
                parameters = [values for _, values in group]
                if self.tables.count_of(statement, parameters) < len(parameters):
                    raise NotAll
        except sqlite3.IntegrityError:
            raise NotAll from None
        return [
            self._applied(
                s.change,
                None if s.record is None or s.change.delete else s.change.applied(s.record, s.rev, self.now),
                s.record,
            )
            for s in swaps
        ]

    def _changed(self, swap: Swap) -> tuple[str, list[Any]]:
        """The statement that makes the change of a swap, and its parameters. Raises NotAll as `swap_all` does."""
        if swap.record is None or swap.change.releases:
            raise NotAll
        if swap.change.delete:
            return f"DELETE FROM @jobs WHERE {IS_EXPECTED}", [swap.id, swap.expected]
        names, values = self._columns(swap.change, swap.rev)
        return _update(names, IS_EXPECTED), [*values, swap.id, swap.expected]

    def begin(self, begin: Begin) -> WriteResult:
        if begin.limits:
            return self._begin_limited(begin)
        startable = "id = ? AND task = ? AND state = 'queued' AND (expires_at IS NULL OR expires_at > ?) AND @READABLE"
        where = startable, (begin.id, begin.task, self.now)
        return self._change(begin.id, begin.change, begin.rev, where, QUEUED, starts=True)

    def _begin_limited(self, begin: Begin) -> WriteResult:
        found = self._found(begin.id)
        made = storage.begin(begin, self.now, found, lambda name: limit_state(self.tables, name, most=1))
        if made is None or found is None:
            return WriteResult(WriteOutcome.REFUSED, found)
        for name, full_at in made.full_at.items():
            self.tables.rows("INSERT OR REPLACE INTO @rates (name, full_at) VALUES (?, ?)", (name, full_at))
        if made.full_at:
            self.tables.rows("DELETE FROM @rates WHERE full_at <= ?", (self.now,))
        where, starts = (IS_EXPECTED, (found.id, found.rev)), not made.limited
        written = self._change(found.id, made.change, begin.rev, where, QUEUED, starts=starts)
        return WriteResult(WriteOutcome.LIMITED, written.record) if made.limited else written

    def heartbeat(self, beat: LeaseRenewal) -> WriteResult:
        mine = "id = ? AND state = 'running' AND token = ?", (beat.id, beat.token)
        return self._change(beat.id, renewal(beat), beat.rev, mine, Before(JobState.RUNNING))

    def change_rows(self, found: Sequence[int], change: Change, rev: str, *, starts: bool = False) -> dict[int, Record]:
        """Change the rows with these seq, which a search of this transaction has found.

        With `starts`, the rows are of queued jobs that begin: also add 1 to the attempts of each. Without `starts`, the
        change must not set the state. Returns the changed records by seq. Damaged rows are changed too, but then put
        aside and not returned.
        """
        marks = ", ".join("?" * len(found))
        names, values = self._columns(change, rev)
        self.tables.rows(_update(names, f"seq IN ({marks})", starts=starts), [*values, *found])
        rows = self.tables.rows(f"SELECT @COLUMNS FROM @jobs WHERE seq IN ({marks})", found)
        changed = {row[0]: new for row in rows if (new := self._readable(row)) is not None}
        self._processed += len(changed) * change.processed
        self._failed += len(changed) * change.failed
        for new in changed.values() if starts else ():
            self._track(QUEUED, new, change)
        return changed

    def close(self) -> None:
        """Add the `processed` and `failed` of all changes of this transaction to the counters with these names, and
        their events to the history.
        """
        for name, more in (("processed", self._processed), ("failed", self._failed)):
            if more:
                self.tables.rows("UPDATE @meta SET value = value + ? WHERE name = ?", (more, name))
        if self._counted:
            history.add(self.tables, MINUTE, start_of(MINUTE, self.now), self._counted)

    def _change(
        self,
        job_id: str,
        change: Change,
        rev: str,
        where: Where,
        old: Record | Before | None,
        *,
        starts: bool = False,
        known: Record | None = None,
    ) -> WriteResult:
        """Change the row that meets the condition `where`, and add 1 to its attempts if `starts` is True.

        If no row meets the condition, the result is REFUSED, with the present record of the job `job_id` if there is a
        record and it can be read. `old` is what is known of the record before the change. If it is None and the history
        depends on it, the record is read first. `known` is the record before the change, if the caller has read this
        record; `starts` must then be False.
        """
        names, values = self._columns(change, rev)
        condition, parameters = where
        if old is None and ("state" in change.set or change.failed):
            old = self._found(job_id)
        try:
            if known is not None:
                if self.tables.cursor_of(_update(names, condition), [*values, *parameters]).rowcount:
                    return self._applied(change, change.applied(known, rev, self.now), known)
                return WriteResult(WriteOutcome.REFUSED, self._found(job_id))
            statement = _update(names, condition, starts=starts, returns=True)
            rows = self.tables.rows_with_bytes(statement, [*values, *parameters])
        except sqlite3.IntegrityError:
            found = self._found(job_id)
            if found is None:
                raise
            held = self._held(change.applied(found, rev, self.now))
            return held or self._change(job_id, change, rev, where, old, starts=starts, known=known)
        if not rows:
            return WriteResult(WriteOutcome.REFUSED, self._found(job_id))
        new = self._readable(rows[0])
        if new is None:
            return WriteResult(WriteOutcome.REFUSED, None)
        return self._applied(change, new, old or Before(new.state))

    def _columns(self, change: Change, rev: str) -> Columns:
        """The columns that a change sets, and their new values. The column `rev` is one of them."""
        stamps = [self.now + seconds for seconds in change.stamp.values()]
        return columns((*change.set, *change.stamp, "rev"), [*change.set.values(), *stamps, rev])

    def _applied(self, change: Change, new: Record | None, old: Record | Before | None = None) -> WriteResult:
        """The result of an applied change. `old` is None if the change has inserted the record."""
        self._processed += change.processed
        self._failed += change.failed
        self._track(old, new, change)
        if new is not None and new.key is not None:
            self._keep_key(old, new, change)
        return WriteResult(WriteOutcome.APPLIED, new)

    def _keep_key(self, old: Record | Before | None, new: Record, change: Change) -> None:
        """Let a job that has ended keep its key, if the change says so; or forget who keeps it, if the job was retried.

        Also forgets keys whose time is over.
        """
        if not new.state.final:
            if old is not None and old.state.final:
                self.tables.rows("DELETE FROM @kept WHERE task = ? AND key = ?", (new.task, new.key))
        elif new.key_until is not None and ("key_until" in change.stamp or "key_until" in change.set):
            keep = "INSERT OR REPLACE INTO @kept (task, key, id, until) VALUES (?, ?, ?, ?)"
            self.tables.rows(keep, (new.task, new.key, new.id, new.key_until))
            self.tables.rows("DELETE FROM @kept WHERE until <= ?", (self.now,))

    def _keeper(self, new: Record) -> WriteResult | None:
        """The result KEY_HELD, if an ended job keeps the key of a new record, and no other job holds it."""
        kept = () if new.state.final else self.tables.rows(KEEPER, (new.task, new.key, self.now))
        if not kept or self.tables.rows(HOLDER, (new.task, new.key, new.id)):
            return None
        ((job_id,),) = kept
        return WriteResult(WriteOutcome.KEY_HELD, self._found(job_id) or unreadable_holder(job_id))

    def _track(self, old: Record | Before | None, new: Record | None, change: Change) -> None:
        """Count the change for the history, and put the job's new state into the table of tags."""
        name = events(old, new, change, self.now)
        where: Any = new or old
        if name:
            self._counted[where.queue, where.task][name] += 1
        if new is not None and new.tags:
            self._tag(new, None if old is None else old.state)

    def _tag(self, new: Record, was: JobState | None) -> None:
        """Write the state of a job with tags, whose state was `was` (None: it is new), into the table of tags."""
        if was is None:
            add = "INSERT OR IGNORE INTO @tags (tag, state, seq) SELECT ?, state, seq FROM @jobs WHERE id = ?"
            self.tables.count_of(add, [(tag, new.id) for tag in new.tags])
        elif was is not new.state:
            move = """
                UPDATE OR REPLACE @tags SET state = ? WHERE tag = ? AND state = ?
                AND seq = (SELECT seq FROM @jobs WHERE id = ?)"""
            self.tables.count_of(move, [(new.state.value, tag, was.value, new.id) for tag in new.tags])

    def _held(self, wanting: Record) -> WriteResult | None:
        """The result KEY_HELD, with the record of the holder of the key. Call this while an IntegrityError is handled.

        If the holder's record is damaged, puts this record aside and returns None: the caller must write again. If a
        newer release wrote the damaged record, the record stays, and the result has `unreadable_holder`. If no other
        job holds the key, raises again the IntegrityError that the caller handles.
        """
        holders = self.tables.rows(HOLDER, (wanting.task, wanting.key, wanting.id))
        if not holders:
            raise  # noqa: PLE0704  # the IntegrityError that the caller handles has another cause
        try:
            return WriteResult(WriteOutcome.KEY_HELD, record(holders[0]))
        except CorruptRecord:
            if put_aside(self.tables, holders[0][0], self.now):
                return None
            return WriteResult(WriteOutcome.KEY_HELD, unreadable_holder(holders[0][FIELDS.index("id")]))

    def _found(self, job_id: str) -> Record | None:
        row = row_of(self.tables, job_id)
        return None if row is None else self._readable(row)

    def _readable(self, row: Sequence[Any]) -> Record | None:
        try:
            return record(row)
        except CorruptRecord:
            put_aside(self.tables, row[0], self.now)
            return None


@lru_cache
def _insert(names: tuple[str, ...]) -> str:
    listed = ", ".join(f'"{name}"' for name in names)
    return f"INSERT INTO @jobs ({listed}) VALUES ({', '.join('?' * len(names))})"


@lru_cache(512)
def _update(names: tuple[str, ...], condition: str, *, starts: bool = False, returns: bool = False) -> str:
    settings = [*(f'"{name}" = ?' for name in names), *(["attempts = attempts + 1"] if starts else [])]
    return f"UPDATE @jobs SET {', '.join(settings)} WHERE {condition}{' RETURNING @COLUMNS' if returns else ''}"

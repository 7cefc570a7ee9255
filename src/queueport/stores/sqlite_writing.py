"""A transaction of the SQLite store that writes: each change to one row, where the condition of its verb holds.

For readers of the store. A row that cannot be read is put aside on the way, and is as good as absent.
"""

# ruff: noqa: S608  # statements are put together from words of this file and names of fields; every value is a parameter

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from queueport.record import Change, CorruptRecord, Record
from queueport.store import Beat, Begin, Insert, Outcome, Swap, Written
from queueport.stores.sqlite_connection import Tables
from queueport.stores.sqlite_rows import aside, columns, new_columns, record, row_of

__all__ = ["Writing"]

Where = tuple[str, tuple[Any, ...]]
"""A condition that one row meets, or none, and its parameters."""


class Writing:
    """The changes of one transaction. `now` is the time of them all; `close` adds up what they counted."""

    def __init__(self, tables: Tables, now: float) -> None:
        self.tables = tables
        self.now = now
        self._processed = 0
        self._failed = 0

    def insert(self, insert: Insert) -> Written:
        """Add a record whose id is absent and whose key is free."""
        new = insert.change.applied(insert.record, insert.rev, self.now)
        values = new_columns(new)
        try:
            self.tables.rows(_insert(tuple(values)), tuple(values.values()))
        except sqlite3.IntegrityError:
            if row_of(self.tables, new.id) is not None:
                return Written(Outcome.REFUSED, self._found(new.id))
            return self._held(new) or self.insert(insert)
        return self._applied(insert.change, new)

    def swap(self, swap: Swap) -> Written:
        """Change or delete a record whose rev is the expected one."""
        where = "id = ? AND rev = ?", (swap.id, swap.expected)
        if not swap.change.delete:
            return self._change(swap.id, swap.change, swap.rev, where)
        if not self.tables.rows(f"DELETE FROM @jobs WHERE {where[0]} RETURNING seq", where[1]):
            return Written(Outcome.REFUSED, self._found(swap.id))
        return self._applied(swap.change, None)

    def begin(self, begin: Begin) -> Written:
        """Start an attempt of a job that is queued and has not expired."""
        startable = "id = ? AND state = 'queued' AND (expires_at IS NULL OR expires_at > ?) AND @READABLE"
        return self._change(begin.id, begin.change, begin.rev, (startable, (begin.id, self.now)), starts=True)

    def beat(self, beat: Beat) -> Written:
        """Prolong the lease of a running job whose token is the given one."""
        change = Change(beat.values, {"wake_at": beat.lease})
        mine = "id = ? AND state = 'running' AND token = ?", (beat.id, beat.token)
        return self._change(beat.id, change, beat.rev, mine)

    def take(self, seq: int, change: Change, rev: str) -> Record | None:
        """Start an attempt of the job in this row, of which it is known that it may; None where it cannot be read."""
        return self._change(None, change, rev, ("seq = ?", (seq,)), starts=True).record

    def claim(self, seq: int, seconds: float, rev: str) -> Record | None:
        """Push on the record in this row; None where it cannot be read."""
        return self._change(None, Change(stamp={"wake_at": seconds}), rev, ("seq = ?", (seq,))).record

    def close(self) -> None:
        """Add up the counters: the last thing in the transaction."""
        for name, more in (("processed", self._processed), ("failed", self._failed)):
            if more:
                self.tables.rows("UPDATE @meta SET value = value + ? WHERE name = ?", (more, name))

    def _change(self, job_id: str | None, change: Change, rev: str, where: Where, *, starts: bool = False) -> Written:
        """Change the row. The id is there to look at it where the condition does not hold."""
        stamps = {name: self.now + seconds for name, seconds in change.stamp.items()}
        values = columns({**change.set, **stamps, "rev": rev})
        condition, parameters = where
        try:
            rows = self.tables.rows(_update(tuple(values), condition, starts), (*values.values(), *parameters))
        except sqlite3.IntegrityError:
            found = None if job_id is None else self._found(job_id)
            if found is None:
                raise
            held = self._held(change.applied(found, rev, self.now))
            return held or self._change(job_id, change, rev, where, starts=starts)
        if not rows:
            return Written(Outcome.REFUSED, None if job_id is None else self._found(job_id))
        new = self._readable(rows[0])
        return Written(Outcome.REFUSED, None) if new is None else self._applied(change, new)

    def _applied(self, change: Change, new: Record | None) -> Written:
        self._processed += change.processed
        self._failed += change.failed
        return Written(Outcome.APPLIED, new)

    def _held(self, wanting: Record) -> Written | None:
        """The answer where another living job holds the key; None where that one was damaged and is out of the way."""
        statement = "SELECT @COLUMNS FROM @jobs WHERE task = ? AND key = ? AND @LIVING AND id <> ?"
        holders = self.tables.rows(statement, (wanting.task, wanting.key, wanting.id))
        if not holders:
            raise  # noqa: PLE0704  # the caller's IntegrityError is about something else
        if aside(self.tables, holders[0][0], self.now):
            return None
        return Written(Outcome.KEY_HELD, record(holders[0]))

    def _found(self, job_id: str) -> Record | None:
        row = row_of(self.tables, job_id)
        return None if row is None else self._readable(row)

    def _readable(self, row: Sequence[Any]) -> Record | None:
        try:
            return record(row)
        except CorruptRecord:
            aside(self.tables, row[0], self.now)
            return None


@lru_cache
def _insert(names: tuple[str, ...]) -> str:
    listed = ", ".join(f'"{name}"' for name in names)
    return f"INSERT INTO @jobs ({listed}) VALUES ({', '.join('?' * len(names))})"


@lru_cache(512)
def _update(names: tuple[str, ...], condition: str, starts: bool) -> str:
    settings = [*(f'"{name}" = ?' for name in names), *(["attempts = attempts + 1"] if starts else [])]
    return f"UPDATE @jobs SET {', '.join(settings)} WHERE {condition} RETURNING @COLUMNS"

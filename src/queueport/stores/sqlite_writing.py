"""One transaction of the SQLite store that writes: each change to one row, under the condition of its verb. For its readers."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from queueport.record import RECORD_VERSION, Change, CorruptRecord, Record
from queueport.status import JobState
from queueport.store import Beat, Begin, Insert, Outcome, Swap, Written
from queueport.stores.sqlite_connection import Tables
from queueport.stores.sqlite_rows import aside, columns, record, row_of

__all__ = ["Writing"]


class Writing:
    """The changes of one transaction. `now` is the time of all of them; `close` adds up what they counted."""

    def __init__(self, tables: Tables, now: float) -> None:
        self.tables = tables
        self.now = now
        self._processed = 0
        self._failed = 0

    def insert(self, insert: Insert) -> Written:
        """Add a record."""
        new = insert.change.applied(insert.record, insert.rev, self.now)
        values = columns({name: getattr(new, name) for name in Record.__dataclass_fields__})
        try:
            self.tables.rows(_insert_statement(tuple(values)), tuple(values.values()))
        except sqlite3.IntegrityError:
            if row_of(self.tables, new.id) is not None:
                return self._refused(new.id)
            return self._held(new) or self.insert(insert)
        self._count(insert.change)
        return Written(Outcome.APPLIED, new)

    def swap(self, swap: Swap) -> Written:
        """Change or delete a record whose rev is the expected one."""
        where, parameters = "id = ? AND rev = ?", (swap.id, swap.expected)
        if not swap.change.delete:
            return self._change(swap.id, swap.change, swap.rev, where, parameters)
        if not self.tables.rows(f"DELETE FROM @jobs WHERE {where} RETURNING seq", parameters):
            return self._refused(swap.id)
        self._count(swap.change)
        return Written(Outcome.APPLIED, None)

    def begin(self, begin: Begin) -> Written:
        """Start an attempt of a job that is queued and has not expired."""
        where = f"id = ? AND state = 'queued' AND (expires_at IS NULL OR expires_at > ?) AND @READABLE"
        return self._change(begin.id, begin.change, begin.rev, where, (begin.id, self.now), starts=True)

    def take(self, seq: int, change: Change, rev: str) -> Record | None:
        """Start an attempt of the job in this row, which may begin; None where the row cannot be read."""
        return self._change(None, change, rev, "seq = ?", (seq,), starts=True).record

    def claim(self, seq: int, seconds: float, rev: str) -> Record | None:
        """Push on the record in this row; None where the row cannot be read."""
        return self._change(None, Change(stamp={"wake_at": seconds}), rev, "seq = ?", (seq,)).record

    def beat(self, beat: Beat) -> Written:
        """Prolong a lease."""
        change = Change(beat.values, {"wake_at": beat.lease})
        return self._change(
            beat.id, change, beat.rev, "id = ? AND state = 'running' AND token = ?", (beat.id, beat.token)
        )

    def close(self) -> None:
        """Add up the counters: the last thing in the transaction."""
        for name, more in (("processed", self._processed), ("failed", self._failed)):
            if more:
                self.tables.rows("UPDATE @meta SET value = value + ? WHERE name = ?", (more, name))

    def _change(
        self, job_id: str | None, change: Change, rev: str, where: str, parameters: Sequence[Any], starts: bool = False
    ) -> Written:
        """Change the one row where that holds. Without an id it is known to hold."""
        stamps = {name: self.now + seconds for name, seconds in change.stamp.items()}
        values = columns({**change.set, **stamps, "rev": rev})
        statement = _update_statement(tuple(values), where, starts)
        try:
            rows = self.tables.rows(statement, (*values.values(), *parameters))
        except sqlite3.IntegrityError:
            found = None if job_id is None else self._readable(row_of(self.tables, job_id))
            if found is None:
                raise
            held = self._held(change.applied(found, rev, self.now))
            return held or self._change(job_id, change, rev, where, parameters, starts)
        if not rows:
            return self._refused(job_id)
        new = self._readable(rows[0])
        if new is None:
            return Written(Outcome.REFUSED, None)
        self._count(change)
        return Written(Outcome.APPLIED, new)

    def _count(self, change: Change) -> None:
        self._processed += change.processed
        self._failed += change.failed

    def _refused(self, job_id: str | None) -> Written:
        return Written(Outcome.REFUSED, None if job_id is None else self._readable(row_of(self.tables, job_id)))

    def _held(self, wanting: Record) -> Written | None:
        """The answer where another living job holds the key; None where that one was damaged and is out of the way."""
        holders = self.tables.rows(
            f"SELECT @COLUMNS FROM @jobs WHERE task = ? AND key = ? AND @LIVING AND id <> ?",
            (wanting.task, wanting.key, wanting.id),
        )
        if not holders:
            raise  # noqa: PLE0704  # the caller's IntegrityError was about something else
        if aside(self.tables, holders[0][0], self.now):
            return None
        return Written(Outcome.KEY_HELD, record(holders[0]))

    def _readable(self, row: Sequence[Any] | None) -> Record | None:
        """The record in a row; None where there is none, or none that can be read, and then it is put aside."""
        try:
            return None if row is None else record(row)
        except CorruptRecord:
            aside(self.tables, row[0], self.now)
            return None


@lru_cache
def _insert_statement(names: tuple[str, ...]) -> str:
    listed = ", ".join(f'"{name}"' for name in names)
    return f"INSERT INTO @jobs ({listed}) VALUES ({', '.join('?' * len(names))})"


@lru_cache(512)
def _update_statement(names: tuple[str, ...], where: str, starts: bool) -> str:
    settings = [*(f'"{name}" = ?' for name in names), *(["attempts = attempts + 1"] if starts else [])]
    return f"UPDATE @jobs SET {', '.join(settings)} WHERE {where} RETURNING @COLUMNS"

"""How the SQLite store finds rows without scanning: by the kept counts and the order of its indexes. For its readers.

The counts know which (state, queue, task, priority) there are, and within one of those an index has the rows in the
order asked for. What spans several of them is merged, so that nothing is sorted and nothing is read in vain.
"""

# ruff: noqa: S608  # statements are put together from words of this file; every value is a parameter

from __future__ import annotations

import heapq
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

from queueport.status import JobState
from queueport.store import Query, QueueCounts, StoreStats
from queueport.stores.sqlite_connection import Tables

__all__ = ["count", "due", "ended", "find", "overflow", "queued", "ready", "stats", "unnoticed", "unreceived"]

STATES = {state.value: state for state in JobState}

IDS = 500
"""Ids in one statement; SQLite takes 999 in any build."""

LAST = 2**63 - 1
"""No row has a higher number."""

Line = tuple[str, str, int]
"""Queue, task and priority of jobs that are queued."""


def find(tables: Tables, query: Query) -> list[Any]:
    """The rows that a query asks for."""
    before = LAST
    if query.after is not None:
        before = next((seq for (seq,) in tables.rows("SELECT seq FROM @jobs WHERE id = ?", (query.after,))), 0)
    if (query.state, query.queue, query.task, query.error, query.finished_before) == (None,) * 5:
        statement = "SELECT @COLUMNS FROM @jobs WHERE seq < ? ORDER BY seq DESC LIMIT ?"
        return tables.rows(statement, (before, query.limit))
    condition, parameters = _condition(query)
    statement = f"SELECT seq FROM @jobs WHERE {condition} AND seq < ? ORDER BY seq DESC"
    found = heapq.merge(*_each_kind(tables, query, statement, (*parameters, before)), reverse=True)
    return _rows(tables, islice(found, query.limit))


def count(tables: Tables, query: Query) -> int:
    """How many rows match; kept, unless it is asked for errors or times."""
    if query.error is None and query.finished_before is None:
        return sum(n for *_, n in _kinds(tables, query))
    condition, parameters = _condition(query)
    counts = _each_kind(tables, query, f"SELECT count(*) FROM @jobs WHERE {condition}", parameters)
    return sum(n for cursor in counts for (n,) in cursor)


def overflow(tables: Tables, state: JobState, keep: int, limit: int) -> list[Any]:
    """Rows of that state beyond the newest `keep`, oldest first."""
    query = Query(state)
    condition, parameters = _condition(query)
    statement = f"SELECT seq FROM @jobs WHERE {condition} ORDER BY seq"
    beyond = max(0, min(limit, count(tables, query) - keep))
    return _rows(tables, islice(heapq.merge(*_each_kind(tables, query, statement, parameters)), beyond))


def _rows(tables: Tables, numbers: Iterable[tuple[int]]) -> list[Any]:
    """These rows, in this order."""
    return [row for number in numbers for row in tables.rows("SELECT @COLUMNS FROM @jobs WHERE seq = ?", number)]


def _each_kind(tables: Tables, query: Query, statement: str, parameters: Sequence[Any]) -> list[sqlite3.Cursor]:
    """The rows of a statement for each state, queue and task that may match; read from as they are needed."""
    return [tables.cursor_of(statement, (*kind, *parameters)) for *kind, _ in _kinds(tables, query)]


def _kinds(tables: Tables, query: Query) -> list[tuple[str, str, str, int]]:
    """The states, queues and tasks of what may match, and how many jobs there are of each."""
    given = {"state": query.state and query.state.value, "queue": query.queue, "task": query.task}
    wanted = {name: value for name, value in given.items() if value is not None}
    condition = " AND ".join(["n > 0", *(f"{name} = ?" for name in wanted)])
    statement = f"SELECT state, queue, task, sum(n) FROM @counts WHERE {condition} GROUP BY state, queue, task"
    return tables.rows(statement, tuple(wanted.values()))


def _condition(query: Query) -> tuple[str, list[Any]]:
    """What holds for a matching row of one kind. The parameters are those after the kind's."""
    conditions = ["state = ? AND queue = ? AND task = ?"]
    parameters: list[Any] = []
    if query.error is not None:
        name = query.error.rpartition(".")[2]
        conditions += ["error_name = ?", "? IN (error_name, error)"]
        parameters += [name, query.error]
    if query.finished_before is not None:
        conditions += ["finished_at < ?"]
        parameters += [query.finished_before]
    return " AND ".join(conditions), parameters


def ended(tables: Tables, ids: Sequence[str]) -> list[Any]:
    """Rows of those jobs that have ended."""
    found: list[Any] = []
    for start in range(0, len(ids), IDS):
        some = ids[start : start + IDS]
        marks = ", ".join("?" * len(some))
        found += tables.rows(f"SELECT @COLUMNS FROM @jobs WHERE id IN ({marks}) AND NOT (@LIVING)", some)
    return found


def due(tables: Tables, now: float, limit: int, *, leases: bool) -> list[int]:
    """Numbers of the rows whose time has come, most overdue first."""
    others = "" if leases else "AND state <> 'running'"
    statement = f"SELECT seq FROM @jobs WHERE wake_at <= ? AND @READABLE {others} ORDER BY wake_at, seq LIMIT ?"
    return [seq for (seq,) in tables.rows(statement, (now, limit))]


def queued(tables: Tables, queues: Iterable[str], tasks: Collection[str] | None = None) -> list[Line]:
    """The queue, task and priority of all that is queued in these queues, by the kept counts."""
    statement = "SELECT queue, task, priority FROM @counts WHERE state = 'queued' AND queue = ? AND n > 0"
    lines = [line for queue in set(queues) for line in tables.rows(statement, (queue,))]
    return lines if tasks is None else [line for line in lines if line[1] in tasks]


def ready(tables: Tables, lines: Collection[Line], now: float, limit: int) -> list[tuple[int, str]]:
    """Number and task of the next jobs to begin: higher priority first, then whoever was queued longer."""
    statement = """
        SELECT coalesce(CAST(queued_at AS REAL), 0.0), seq, task FROM @jobs
        WHERE state = 'queued' AND queue = ? AND task = ? AND priority = ?
        AND (expires_at IS NULL OR expires_at > ?) AND @READABLE ORDER BY queued_at, seq LIMIT ?"""
    found: list[tuple[int, str]] = []
    for _, level in _by_priority(lines):
        rows = [row for line in level for row in tables.rows(statement, (*line, now, limit - len(found)))]
        found += [(seq, task) for _, seq, task in sorted(rows)[: limit - len(found)]]
        if len(found) == limit:
            break
    return found


def unnoticed(tables: Tables, queues: Iterable[str], tasks: Collection[str], limit: int) -> list[Any]:
    """Rows of queued jobs of other tasks than these, of which nobody has taken notice yet."""
    lines = [line for line in queued(tables, queues) if line[1] not in tasks]
    statement = """
        SELECT @COLUMNS FROM @jobs WHERE state = 'queued' AND queue = ? AND task = ? AND priority = ?
        AND unknown_since IS NULL AND @READABLE ORDER BY queued_at, seq LIMIT ?"""
    rows = (row for _, level in _by_priority(lines) for line in level for row in tables.rows(statement, (*line, limit)))
    return list(islice(rows, limit))


def _by_priority(lines: Collection[Line]) -> Iterator[tuple[int, Iterator[Line]]]:
    return groupby(sorted(lines, key=itemgetter(2), reverse=True), key=itemgetter(2))


def unreceived(tables: Tables, queue: str, priority: int, sent_before: float, limit: int) -> list[Any]:
    """Rows of queued jobs sent before that, longest ago first."""
    statement = """
        SELECT @COLUMNS FROM @jobs WHERE state = 'queued' AND sent = 1 AND queue = ? AND priority = ?
        AND sent_at < ? AND @READABLE ORDER BY sent_at, seq LIMIT ?"""
    return tables.rows(statement, (queue, priority, sent_before, limit))


def stats(tables: Tables, now: float) -> StoreStats:
    """The kept counts, and the head of each queue."""
    states: dict[str, dict[JobState, int]] = defaultdict(lambda: dict.fromkeys(JobState, 0))
    priorities: dict[str, dict[int, int]] = defaultdict(dict)
    rows = tables.rows("SELECT queue, priority, state, sum(n) FROM @counts GROUP BY queue, priority, state")
    for queue, priority, name, n in rows:
        state = STATES.get(name)
        if state is not None:
            states[queue][state] += n
        if state is JobState.QUEUED and n > 0:
            priorities[queue][priority] = n
    counts = {queue: QueueCounts(kept, priorities[queue], _head(tables, queue)) for queue, kept in states.items()}
    kept = dict(tables.rows("SELECT name, value FROM @meta"))
    return StoreStats(now, counts, kept["processed"], kept["failed"])


def _head(tables: Tables, queue: str) -> float | None:
    statement = "SELECT min(queued_at) FROM @jobs WHERE state = 'queued' AND queue = ? AND task = ? AND priority = ?"
    heads = (tables.rows(statement, line)[0][0] for line in queued(tables, [queue]))
    return min((head for head in heads if isinstance(head, float)), default=None)

"""The searches of the SQLite store, which use counts and indexes in order not to read or sort all jobs. For the store.

The table of counts has a row for each combination of state, queue, task and priority that exists or has existed.
Indexes contain the jobs of each combination in the order that a search needs. Most searches read the jobs of each
combination that matches, and merge them. `due`, `ready`, `unnoticed` and `unreceived` leave out rows that a newer
release of queueport wrote.
"""

# ruff: noqa: S608  # statements are built only from text in this file; every value is passed as a parameter

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

from queueport.spi.storage import CLOCK_STEP, Tally, names_error
from queueport.spi.store import Query, StoreStats
from queueport.status import JobState
from queueport.stores.sqlite.schema import Tables

__all__ = [
    "Candidate",
    "containing",
    "count",
    "due",
    "ended",
    "find",
    "ids",
    "numbers",
    "overflow",
    "place",
    "queued",
    "ready",
    "rows_of",
    "stats",
    "unnoticed",
    "unreceived",
]

IDS = 500
"""The maximum number of ids in one statement. By default, SQLite accepts at least 999 parameters."""

AFTER = "\x7f"
"""A character that comes after every character of an id."""
LAST = 2**63 - 1
"""The highest possible seq."""

HELD_OR_NOT = ("NOT @HELD", "@HELD")
"""The conditions of the two indexes of queued jobs."""
Candidate = tuple[int, str, str, str]
"""A queued job that may begin: its seq, id, task and queue."""
Bucket = tuple[str, str, int]
"""A queue, a task and a priority that have queued jobs."""


def find(tables: Tables, query: Query) -> list[Any]:
    """At most `query.limit` rows that match the query, the latest inserted first. Ignores the query's text.

    With `query.after`, only rows that were inserted before the row of that job; none if that job has no row.
    """
    end = place(tables, query)
    if query == Query(after=query.after, limit=query.limit):
        statement = "SELECT @COLUMNS FROM @jobs WHERE seq < ? ORDER BY seq DESC LIMIT ?"
        return tables.rows(statement, (end, query.limit))
    return rows_of(tables, numbers(tables, query, end, query.limit))


def place(tables: Tables, query: Query) -> int:
    """The seq of the job `query.after`, before which the page ends; 0 if it has no row, and LAST without `after`."""
    if query.after is None:
        return LAST
    return next((seq for (seq,) in tables.rows("SELECT seq FROM @jobs WHERE id = ?", (query.after,))), 0)


def numbers(tables: Tables, query: Query, end: int, limit: int) -> list[int]:
    """The seq of at most `limit` rows before `end` that match the query, newest first. Ignores the query's text."""
    first, last = _span(tables, query)
    found = heapq.merge(*_searches(tables, query, "seq", (first, min(end, last)), "ORDER BY seq DESC"), reverse=True)
    return [seq for (seq,) in islice(found, limit)]


def containing(tables: Tables, found: Sequence[int], text: str) -> list[int]:
    """Those of these rows, which are given by their seq, whose payload contains the text."""
    kept: set[int] = set()
    for start in range(0, len(found), IDS):
        some = found[start : start + IDS]
        statement = f"SELECT seq FROM @jobs WHERE seq IN ({', '.join('?' * len(some))}) AND instr(payload, ?)"
        kept.update(seq for (seq,) in tables.rows(statement, (*some, text.encode())))
    return [seq for seq in found if seq in kept]


def ids(tables: Tables, prefix: str, limit: int) -> list[str]:
    """At most `limit` ids that begin with the prefix, sorted."""
    statement = "SELECT id FROM @jobs WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
    return [job_id for (job_id,) in tables.rows(statement, (prefix, f"{prefix}{AFTER}", limit))]


def count(tables: Tables, query: Query) -> int:
    """The number of rows that match the query. Ignores its text.

    The table of counts is enough if the query has only a state, a queue and a task.
    """
    query = replace(query, after=None, limit=0, text=None)
    if query == Query(query.state, query.queue, query.task, limit=0):
        return sum(n for *_, n in _kinds(tables, query))
    start, end = _span(tables, query)
    # The times of rows in the middle need not be read, which an index does not contain.
    untimed = replace(query, since=None, until=None)
    first = start if query.since is None else _first(tables, query.since + CLOCK_STEP)
    last = end if query.until is None else _first(tables, query.until - CLOCK_STEP)
    if first >= last:
        return _number(tables, query, (start, end))
    ends = _number(tables, query, (start, first)) + _number(tables, query, (last, end))
    return ends + _number(tables, untimed, (first, last))


def _number(tables: Tables, query: Query, span: tuple[int, int]) -> int:
    """The number of rows in the span that match the query."""
    if span[0] >= span[1]:
        return 0
    return sum(n for cursor in _searches(tables, query, "count(*)", span) for (n,) in cursor)


def _searches(tables: Tables, query: Query, what: str, span: tuple[int, int], order: str = "") -> list[sqlite3.Cursor]:
    """Select `what` from the rows that match the query and have a seq in `span`. Returns a cursor for each statement.

    A cursor finds each row only when the row is read.
    """
    if query.key is None and query.tag is not None:
        return _tagged(tables, query, what, span, order)
    within, bounds = _within(query, span)
    kind = (query.state, query.queue, query.task, query.error, query.finished_before)
    if query.key is None and kind != (None,) * len(kind):
        condition, parameters = _condition(query)
        statement = f"SELECT {what} FROM @jobs WHERE {condition} AND {within} {order}"
        return _each_kind(tables, query, statement, (*parameters, *bounds))
    if query.key is None:
        return [tables.cursor_of(f"SELECT {what} FROM @jobs WHERE {within} {order}", bounds)]
    others, values = _others(query)
    tag = "TRUE" if query.tag is None else HAS_TAG
    statement = f"SELECT {what} FROM @jobs INDEXED BY @keyed WHERE key = ? AND {others} AND {tag} AND {within} {order}"
    tags = () if query.tag is None else (query.tag,)
    return [tables.cursor_of(statement, (query.key, *values, *tags, *bounds))]


def _tagged(tables: Tables, query: Query, what: str, span: tuple[int, int], order: str) -> list[sqlite3.Cursor]:
    """`_searches` for a query with a tag and without a key: a statement for each state."""
    (within, bounds), (others, values) = _within(query, span, "place"), _others(query)
    order = order.replace("seq", "place")
    statement = f"SELECT {what} FROM {TAGGED} WHERE {others} AND {within} {order}"
    states = JobState if query.state is None else [query.state]
    return [tables.cursor_of(statement, (query.tag, state.value, *values, *bounds)) for state in states]


def _within(query: Query, span: tuple[int, int], place: str = "seq") -> tuple[str, list[Any]]:
    """The SQL condition that the column `place` is in the span, and the row was enqueued at the right time. Also
    returns the parameters.
    """
    conditions, parameters = [f"{place} >= ? AND {place} < ?"], list[Any](span)
    if query.since is not None:
        conditions, parameters = [*conditions, "enqueued_at >= ?"], [*parameters, query.since]
    if query.until is not None:
        conditions, parameters = [*conditions, "enqueued_at < ?"], [*parameters, query.until]
    return " AND ".join(conditions), parameters


def _others(query: Query) -> tuple[str, list[Any]]:
    """The SQL condition for state, queue, task, error and finished_before, and its parameters."""
    conditions, parameters = ["TRUE"], list[Any]()
    for name in ("state", "queue", "task"):
        if (wanted := getattr(query, name)) is not None:
            conditions, parameters = [*conditions, f"{name} = ?"], [*parameters, str(wanted)]
    if query.error is not None:
        conditions, parameters = [*conditions, NAMES_ERROR], [*parameters, *_names(query.error)]
    if query.finished_before is not None:
        conditions, parameters = [*conditions, "finished_at < ?"], [*parameters, query.finished_before]
    return " AND ".join(conditions), parameters


HAS_TAG = "EXISTS (SELECT 1 FROM @tags AS t WHERE t.tag = ? AND t.state = @jobs.state AND t.seq = @jobs.seq)"
TAGGED = "(SELECT seq AS place FROM @tags WHERE tag = ? AND state = ?) CROSS JOIN @jobs ON @jobs.seq = place"
"""The rows with a tag and a state. CROSS JOIN makes SQLite read the tags first, in the order of seq."""
NAMES_ERROR = """
    (instr(' ' || error_name || ' ', ?) OR instr(' ' || error_name || ' ', ?) OR (error_name = ? AND error = ?))"""
"""The condition that `names_error` checks, and, for rows of older releases, the one of `_errors`."""


def _names(error: str) -> tuple[str, str, str, str]:
    """The parameters of NAMES_ERROR."""
    return f" {error} ", f".{error} ", error.rpartition(".")[2], error


def _span(tables: Tables, query: Query) -> tuple[int, int]:
    """The first seq, and the seq before which to end, of the rows that were enqueued between `since` and `until`.

    Contains all these rows, and perhaps some of the seconds before and after that.
    """
    if query.since is None and query.until is None:
        return 0, LAST
    since = 0 if query.since is None else _first(tables, query.since - CLOCK_STEP)
    return since, LAST if query.until is None else _first(tables, query.until + CLOCK_STEP)


def _first(tables: Tables, time: float) -> int:
    """The first seq whose row was enqueued at this time or later; LAST if there is none. Searches by bisection.

    If the clock was set back, the order of seq is not that of the time. All rows before the result were then enqueued
    before the time plus the step of the clock, and all others after the time minus the step.
    """
    # Two statements, because SQLite reads all rows for a statement with both min and max.
    (first,), (last,) = (tables.rows(f"SELECT {end}(seq) FROM @jobs")[0] for end in ("min", "max"))
    low, high = (0, 0) if first is None else (first, last + 1)
    statement = "SELECT seq, CAST(enqueued_at AS REAL) FROM @jobs WHERE seq >= ? ORDER BY seq LIMIT 1"
    while low < high:
        middle = (low + high) // 2
        ((seq, at),) = tables.rows(statement, (middle,))
        if at < time:
            low = seq + 1
        else:
            high = middle
    return LAST if first is None or low > last else low


def overflow(tables: Tables, query: Query, keep: int, limit: int) -> list[Any]:
    """At most `limit` of the rows that match the query, oldest first. Never includes the newest `keep` matches."""
    condition, parameters = _condition(query)
    statement = f"SELECT seq FROM @jobs WHERE {condition} ORDER BY seq"
    beyond = max(0, min(limit, count(tables, query) - keep))
    found = heapq.merge(*_each_kind(tables, query, statement, parameters))
    return rows_of(tables, (seq for (seq,) in islice(found, beyond)))


def rows_of(tables: Tables, found: Iterable[int]) -> list[Any]:
    """The rows with these seqs, in the given order."""
    return [row for seq in found for row in tables.rows("SELECT @COLUMNS FROM @jobs WHERE seq = ?", (seq,))]


def _each_kind(tables: Tables, query: Query, statement: str, parameters: Sequence[Any]) -> list[sqlite3.Cursor]:
    """Run the statement for each combination of state, queue, task and error that may match. Returns the cursors.

    A cursor finds each row only when the row is read. If the query has no error, combinations contain no error.
    """
    kinds: Iterable[Sequence[str]] = [kind for *kind, _ in _kinds(tables, query)]
    if query.error is not None:
        kinds = [(*kind, *names) for kind in kinds for names in _errors(tables, kind, query.error)]
    return [tables.cursor_of(statement, (*kind, *parameters)) for kind in kinds]


def _errors(tables: Tables, kind: Sequence[str], wanted: str) -> Iterator[tuple[str, str]]:
    """Find each value of `error_name` in the rows of this state, queue and task that may match the wanted error.

    For each value, yields the parameters of the two conditions on errors that the result of `_condition` contains.
    """
    statement = "SELECT min(error_name) FROM @jobs WHERE state = ? AND queue = ? AND task = ? AND error_name > ?"
    name = ""
    while (name := tables.rows(statement, (*kind, name))[0][0]) is not None:
        if names_error(str(name), wanted):
            yield name, name
        elif name == wanted.rpartition(".")[2]:  # in rows of older releases, `error_name` is a name without module
            yield name, wanted


def _kinds(tables: Tables, query: Query) -> list[tuple[str, str, str, int]]:
    """Each combination of state, queue and task that may match, with its number of rows."""
    given = {"state": query.state and query.state.value, "queue": query.queue, "task": query.task}
    wanted = {name: value for name, value in given.items() if value is not None}
    condition = " AND ".join(["n > 0", *(f"{name} = ?" for name in wanted)])
    statement = f"SELECT state, queue, task, sum(n) FROM @counts WHERE {condition} GROUP BY state, queue, task"
    return tables.rows(statement, tuple(wanted.values()))


def _condition(query: Query) -> tuple[str, list[Any]]:
    """The SQL condition for rows of one state, queue and task, and of one error if the query has one.

    Also returns the last parameters of the condition: `finished_before`, or none if the query has no such time. Before
    these, the caller must pass the state, the queue, the task and, if the query has an error, the two parameters that
    `_errors` yields.
    """
    conditions = ["state = ? AND queue = ? AND task = ?"]
    parameters: list[Any] = []
    if query.error is not None:
        conditions += ["error_name = ?", "? IN (error_name, error)"]
    if query.finished_before is not None:
        conditions += ["finished_at < ?"]
        parameters += [query.finished_before]
    return " AND ".join(conditions), parameters


def ended(tables: Tables, ids: Sequence[str]) -> list[Any]:
    """The rows of the given jobs that are in a final state."""
    found: list[Any] = []
    for start in range(0, len(ids), IDS):
        some = ids[start : start + IDS]
        marks = ", ".join("?" * len(some))
        found += tables.rows(f"SELECT @COLUMNS FROM @jobs WHERE id IN ({marks}) AND NOT (@ALIVE)", some)
    return found


def due(tables: Tables, now: float, limit: int, *, leases: bool) -> list[int]:
    """The seq of at most `limit` due jobs, most overdue first. Running jobs are included only if `leases` is True."""
    others = "" if leases else "AND state <> 'running'"
    statement = f"SELECT seq FROM @jobs WHERE wake_at <= ? AND @READABLE {others} ORDER BY wake_at, seq LIMIT ?"
    return [seq for (seq,) in tables.rows(statement, (now, limit))]


def queued(tables: Tables, queues: Iterable[str], tasks: Collection[str] | None = None) -> list[Bucket]:
    """Each combination of these queues, these tasks (None: all) and a priority that has queued jobs."""
    statement = "SELECT queue, task, priority FROM @counts WHERE state = 'queued' AND queue = ? AND n > 0"
    buckets = [bucket for queue in set(queues) for bucket in tables.rows(statement, (queue,))]
    return buckets if tasks is None else [bucket for bucket in buckets if bucket[1] in tasks]


def ready(tables: Tables, buckets: Collection[Bucket], now: float, limit: int) -> list[Candidate]:
    """At most `limit` jobs of these buckets to begin next. Leaves out expired jobs and those that are held.

    The order is: highest priority first, then longest queued first.
    """
    statement = """
        SELECT coalesce(CAST(queued_at AS REAL), 0.0), seq, id, task, queue FROM @jobs
        WHERE state = 'queued' AND NOT @HELD AND queue = ? AND task = ? AND priority = ?
        AND (expires_at IS NULL OR expires_at > ?) AND @READABLE ORDER BY queued_at, seq LIMIT ?"""
    found: list[Candidate] = []
    for _, level in _by_priority(buckets):
        rows = [row for bucket in level for row in tables.rows(statement, (*bucket, now, limit - len(found)))]
        found += [row[1:] for row in sorted(rows)[: limit - len(found)]]
        if len(found) == limit:
            break
    return found


def unnoticed(tables: Tables, queues: Iterable[str], tasks: Collection[str], limit: int) -> list[Any]:
    """At most `limit` rows of queued jobs of these queues that have a task not in `tasks` and no `unknown_since`."""
    buckets = [bucket for bucket in queued(tables, queues) if bucket[1] not in tasks]
    statement = """
        SELECT @COLUMNS FROM @jobs WHERE state = 'queued' AND NOT @HELD AND queue = ? AND task = ? AND priority = ?
        AND unknown_since IS NULL AND @READABLE ORDER BY queued_at, seq LIMIT ?"""
    rows = (
        row
        for _, level in _by_priority(buckets)
        for bucket in level
        for row in tables.rows(statement, (*bucket, limit))
    )
    return list(islice(rows, limit))


def _by_priority(buckets: Collection[Bucket]) -> Iterator[tuple[int, Iterator[Bucket]]]:
    return groupby(sorted(buckets, key=itemgetter(2), reverse=True), key=itemgetter(2))


def unreceived(tables: Tables, queue: str, priority: int, sent_before: float, limit: int) -> list[Any]:
    """At most `limit` rows of queued jobs whose message was sent before `sent_before`, in the order of sent_at."""
    statement = """
        SELECT @COLUMNS FROM @jobs WHERE state = 'queued' AND sent = 1 AND queue = ? AND priority = ?
        AND sent_at < ? AND @READABLE ORDER BY sent_at, seq LIMIT ?"""
    return tables.rows(statement, (queue, priority, sent_before, limit))


def stats(tables: Tables, now: float) -> StoreStats:
    """The counts, the counters, and the queued_at of the oldest queued job of each queue."""
    tally = Tally()
    statement = """
        SELECT queue, priority, state, sum(n) FROM @counts
        WHERE typeof(queue) = 'text' AND typeof(priority) = 'integer' GROUP BY queue, priority, state"""
    for row in tables.rows(statement):  # leaves out damaged rows, which are put aside when a call reads them
        tally.add(*row)
    oldest = {queue: head for queue in tally.states if (head := _head(tables, queue)) is not None}
    kept = dict(tables.rows("SELECT name, value FROM @meta"))
    return StoreStats(now, tally.counts(oldest), kept["processed"], kept["failed"])


def _head(tables: Tables, queue: str) -> float | None:
    bucket, buckets = "queue = ? AND task = ? AND priority = ?", queued(tables, [queue])
    kinds = [f"SELECT min(queued_at) FROM @jobs WHERE state = 'queued' AND {kind} AND {bucket}" for kind in HELD_OR_NOT]
    heads = (tables.rows(statement, each)[0][0] for each in buckets for statement in kinds)
    return min((head for head in heads if isinstance(head, float)), default=None)

"""The history of the SQLite store: a row for each interval, queue, task and name of a number. For the SQLite store."""

from __future__ import annotations

from collections.abc import Iterator

from queueport.spi.history import (
    FOLDED,
    HOUR,
    KEEP_HOURS,
    KEEP_MINUTES,
    MINUTE,
    OTHER,
    PAIRS,
    Counted,
    HistoryCounts,
    HistoryQuery,
    Pair,
    gathered,
    nothing,
    start_of,
)
from queueport.stores.sqlite.schema import Tables

__all__ = ["add", "ended", "find", "fold"]

_ADD = """INSERT INTO @history (step, at, queue, task, name, n) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET n = n + excluded.n"""
SOUND = (
    "typeof(queue) = 'text' AND typeof(task) = 'text' AND typeof(name) = 'text' AND instr(name, ' ') = 0 "
    "AND typeof(n) = 'integer'"
)
"""The condition for rows that queueport may have written."""


def add(tables: Tables, step: int, at: int, counted: Counted) -> None:
    """Add these numbers to an interval, in the caller's transaction."""
    for pair, counts in counted.items():
        known = tables.interval == (step, at) and pair in tables.pairs
        place = pair if known or (pair != OTHER and _has_place(tables, step, at, pair)) else OTHER
        tables.count_of(_ADD, [(step, at, *place, name, n) for name, n in counts.items()])


def _has_place(tables: Tables, step: int, at: int, pair: Pair) -> bool:
    """True if this pair is counted separately in the interval: it already is, or there are fewer than PAIRS such pairs.

    The connection remembers the pairs of one interval, so that most calls read nothing.
    """
    if tables.interval != (step, at):
        tables.interval, tables.pairs = (step, at), set()
    if pair not in tables.pairs and len(tables.pairs) < PAIRS:
        listed = "SELECT DISTINCT queue, task FROM @history WHERE step = ? AND at = ? AND queue <> ''"
        tables.pairs.update(tables.rows(listed, (step, at)))
        if len(tables.pairs) < PAIRS:
            tables.pairs.add(pair)
    return pair in tables.pairs


def find(tables: Tables, query: HistoryQuery) -> list[HistoryCounts]:
    """The numbers that match the query, by step and queue."""
    return gathered(_rows(tables, query))


def _rows(tables: Tables, query: HistoryQuery) -> Iterator[tuple[tuple[int, Pair], Iterator[tuple[str, int]]]]:
    """The place, and the names and numbers, for each interval and queue, or pair, that matches the query.

    SQLite joins the rows of an interval and a queue, or a pair, to one row, in the order of the primary key. This is
    several times faster than reading the rows one by one, and than letting SQLite add up the numbers, for which it
    would sort the rows. Leaves out damaged rows, and damaged bytes of texts.
    """
    given = {"queue": query.queue, "task": query.task}
    wanted = {name: value for name, value in given.items() if value is not None}
    conditions = "".join(f" AND {name} = ?" for name in wanted)
    group = "task" if query.by_task else "''"
    statement = f"""
        SELECT at, queue, {group}, group_concat(name, ' '), group_concat(n, ' ') FROM @history
        WHERE step = ? AND at >= ? AND at < ? AND {SOUND}{conditions} GROUP BY at, queue, {group}"""  # noqa: S608  # only names of columns
    for step in (MINUTE, HOUR):
        values = (step, query.since, query.until, *wanted.values())
        for at, queue, task, names, numbers in tables.rows(statement, values):
            parts = zip(_text(names).split(" "), map(int, numbers.split(" ")), strict=True)
            yield query.place(at, (_text(queue), _text(task))), parts


def _text(value: str | bytes) -> str:
    """A text as `Tables.rows` returns it, which is bytes if it or another text of the answer is not UTF-8."""
    return value if isinstance(value, str) else value.decode(errors="ignore")


def ended(tables: Tables, now: float) -> tuple[list[int], list[int]]:
    """The starts of the minutes to fold and of the hours to delete."""
    statement = "SELECT DISTINCT at FROM @history WHERE step = ? AND at <= ? ORDER BY at LIMIT ?"
    minutes, hours = (
        [at for (at,) in tables.rows(statement, (step, now - keep - step, FOLDED))]
        for step, keep in ((MINUTE, KEEP_MINUTES), (HOUR, KEEP_HOURS))
    )
    return minutes, hours


def fold(tables: Tables, now: float) -> None:
    """See `JobStore.fold_history`. Runs in the caller's transaction."""
    for minute in ended(tables, now)[0]:
        counted = nothing()
        statement = "SELECT queue, task, name, n FROM @history WHERE step = ? AND at = ? ORDER BY queue, task"
        for queue, task, name, n in tables.rows(statement, (MINUTE, minute)):
            counted[queue, task][name] = n
        add(tables, HOUR, start_of(HOUR, minute), counted)
        tables.rows("DELETE FROM @history WHERE step = ? AND at = ?", (MINUTE, minute))
    for hour in ended(tables, now)[1]:
        tables.rows("DELETE FROM @history WHERE step = ? AND at = ?", (HOUR, hour))

"""Reads the states of limits, and the jobs that wait for them, from the SQLite store. For the store.

All but the times of rates follows from the rows of jobs. The indexes that are used contain only such jobs.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from queueport.spi.store import MOST_LIMITS, LimitState
from queueport.stores.sqlite.schema import Tables

__all__ = ["held", "limit_state", "names_of"]


HELD = """
    SELECT count(*) FROM (SELECT 1 FROM @jobs WHERE state = 'queued' AND @HELD AND held_by = ? LIMIT ?)"""


def limit_state(tables: Tables, name: str, most: int = -1) -> LimitState:
    """The state of a limit. Counts at most `most` held jobs; -1: all."""
    running = 0
    statement = "SELECT slots, count(*) FROM @jobs WHERE state = 'running' AND slots IS NOT NULL GROUP BY slots"
    for slots, n in tables.rows(statement):
        with suppress(ValueError, TypeError):  # the record is damaged
            running += n if name in json.loads(slots) else 0
    rows = tables.rows(HELD, (name, most))
    passed = tables.rows("SELECT count(*) FROM @jobs WHERE state = 'queued' AND @PASSED AND held_by = ?", (name,))
    full_at = tables.rows("SELECT full_at FROM @rates WHERE name = ?", (name,))
    return LimitState(running, rows[0][0], passed[0][0], full_at[0][0] if full_at else 0.0)


def names_of(tables: Tables, names: Collection[str] | None, after: str) -> list[str]:
    """The names, after `after`, of at most MOST_LIMITS limits for which jobs are held, sorted. With `names`, only of
    these.
    """
    statement = "SELECT min(held_by) FROM @jobs WHERE state = 'queued' AND @HELD AND held_by"
    if names is not None:
        wanted = sorted(name for name in set(names) if name > after)
        return [name for name in wanted if tables.rows(f"{statement} = ?", (name,))[0][0] is not None][:MOST_LIMITS]
    found, last = list[str](), after
    while len(found) < MOST_LIMITS and (last := tables.rows(f"{statement} > ?", (last,))[0][0]) is not None:
        found.append(last)
    return found


def held(tables: Tables, name: str, limit: int) -> list[Any]:
    """At most `limit` rows of the jobs that wait for a limit, in the order in which they are let on."""
    statement = """
        SELECT @COLUMNS FROM @jobs WHERE state = 'queued' AND @HELD AND held_by = ?
        ORDER BY priority DESC, queued_at, seq LIMIT ?"""
    return tables.rows(statement, (name, limit))

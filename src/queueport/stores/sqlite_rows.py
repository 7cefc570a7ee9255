"""Records as rows of the SQLite store, and what becomes of a row that cannot be read. For readers of the store."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from queueport.record import RECORD_VERSION, CorruptRecord, Flat, Record, flat
from queueport.stores.sqlite_connection import Tables
from queueport.stores.sqlite_schema import FIELDS

__all__ = ["aside", "columns", "new_columns", "record", "records", "row_of"]

_DEFAULTS: dict[str, Any] = {
    field.name: {} if field.default_factory is dict else field.default for field in dataclasses.fields(Record)
}
_DEFAULTS["v"] = None  # always written
_values = attrgetter(*_DEFAULTS)

log: logging.Logger = logging.getLogger(__name__)


def new_columns(new: Record) -> dict[str, Flat]:
    """A new record's values by column, without those that the table itself would put there."""
    values = zip(_DEFAULTS.items(), _values(new), strict=True)
    return columns({name: value for (name, default), value in values if value != default})


def columns(values: Mapping[str, Any]) -> dict[str, Flat]:
    """Field values by column. The type of the newest error has columns of its own, to be found by."""
    found = flat(values)
    if "errors" in values:
        errors = values["errors"]
        found["error"] = errors[-1].type if errors else None
        found["error_name"] = errors[-1].type.rpartition(".")[2] if errors else None
    return found


def record(row: Sequence[Any]) -> Record:
    """The record in a row of COLUMNS. Raises CorruptRecord."""
    return Record.from_flat(dict(zip(FIELDS, row, strict=True)))


def records(rows: Sequence[Sequence[Any]]) -> tuple[list[Record], list[int]]:
    """The records in these rows, and the numbers of the rows that cannot be read."""
    found: list[Record] = []
    damaged: list[int] = []
    for row in rows:
        try:
            found.append(record(row))
        except CorruptRecord:
            damaged.append(row[0])
    return found, damaged


def row_of(tables: Tables, job_id: str) -> Any:
    """The row of a job; None where there is none."""
    return next(iter(tables.rows("SELECT @COLUMNS FROM @jobs WHERE id = ?", (job_id,))), None)


def aside(tables: Tables, seq: int, now: float) -> bool:
    """Move a row that cannot be read out of everybody's way, in the caller's transaction; False where it stays.

    It stays where it can be read after all, and where it is of a newer queueport.
    """
    cursor = tables.cursor_of("SELECT * FROM @jobs WHERE seq = ?", (seq,))
    rows = [dict(zip([column[0] for column in cursor.description], row, strict=True)) for row in cursor.fetchall()]
    for row in rows:
        try:
            Record.from_flat(row)
        except CorruptRecord as error:
            if isinstance(row["v"], int) and row["v"] > RECORD_VERSION:
                return False
            values = (row["id"], str(error), now, json.dumps(row, default=bytes.hex))
            tables.rows("INSERT INTO @aside (id, reason, at, record) VALUES (?, ?, ?, ?)", values)
            tables.rows("DELETE FROM @jobs WHERE seq = ?", (seq,))
            log.warning("job %s was put aside into the table %s_aside: %s", row["id"], tables.namespace, error)
            return True
    return False

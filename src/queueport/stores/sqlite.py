"""The SQLite store: one file, many threads and processes, nothing to install. For those who run it or change it.

Every verb that writes is one transaction that has the database for itself; the clock is read inside it, so that times
are in the order of the transactions. Idle callers only read: they look whether there is something to do before they
ask for the lock. A job whose row cannot be read is moved into a table of its own when a verb meets it, with a warning.
"""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from queueport.errors import ConfigurationError
from queueport.record import RECORD_VERSION, Change, CorruptRecord, Record
from queueport.stats import WorkerStats
from queueport.status import FINAL, JobState
from queueport.store import Beat, Begin, ClaimingStore, Insert, Outcome, Query, StoreStats, Swap, Written
from queueport.stores import LIMITS, sqlite_listing
from queueport.stores.sqlite_connection import Database, Tables
from queueport.stores.sqlite_rows import aside, columns, record, records, row_of
from queueport.stores.sqlite_schema import COLUMNS
from queueport.url import BackendURL

__all__ = ["SqliteOptions", "SqliteStore"]

log = logging.getLogger(__name__)

GLANCE = 0.015
"""Seconds between two looks whether another process has changed something; a look costs microseconds."""
ENDED = tuple(state.value for state in FINAL)


class SqliteOptions(BaseModel):
    """The options of `sqlite:///` URLs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    synchronous: Literal["normal", "full"] = Field(
        "normal", description="full: what was accepted outlives a power cut too, at a quarter of the speed"
    )

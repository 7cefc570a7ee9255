"""Connections to one SQLite file: made on first use, one for writing and one for reading. For readers of the store.

A connection must not be carried over a fork, and a child cannot even open a fresh one beside it: SQLite keeps the locks
of a file per process, the child inherits that memory without the locks, and when the parent closes, it removes the log
under the child's feet. So all connections are closed before a fork, and made anew on either side.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Database"]

LOG_LIMIT = 64 * 2**20
"""The write-ahead log is cut to this size, in bytes, once it has been copied into the database."""
CACHE = 16 * 2**10
"""Page cache of a connection, in KiB."""
PASSING = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL}
"""Errors that leave the connection as good as it was."""


class Connection:
    """One connection, shared by the threads of this process under a lock."""

    def __init__(self, database: Database, begin: str) -> None:
        self.lock = threading.Lock()
        self._database = database
        self._begin = begin
        self._raw: sqlite3.Connection | None = None
        self._pid = 0
        self._patience = 0.0

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction: committed at the end, rolled back on any error. Waits `call_timeout` in all for its turn."""
        deadline = time.monotonic() + self._database.call_timeout
        if not self.lock.acquire(timeout=self._database.call_timeout):
            raise self._database.unavailable(sqlite3.OperationalError("another thread of this process is still at it"))
        try:
            raw = self._connected(deadline)
            self._wait_until(raw, deadline)
            raw.execute(self._begin)
            yield raw
            raw.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._database.unavailable(error) from error
        finally:
            self._settle()
            self.lock.release()

    def _settle(self) -> None:
        """Roll back what was not committed; a connection that cannot even do that is made anew next time."""
        try:
            if self._raw is not None and self._raw.in_transaction:
                self._raw.execute("ROLLBACK")
        except sqlite3.Error:
            self.drop()

    def _connected(self, deadline: float) -> sqlite3.Connection:
        if self._raw is not None and self._pid != os.getpid():  # forked where Python could not know
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._raw))  # never to be closed in this process
            self._raw = None
        if self._raw is None:
            self._pid = os.getpid()
            self._raw = self._database.connect(deadline)
            self._patience = self._database.call_timeout
        return self._raw

    def _wait_until(self, raw: sqlite3.Connection, deadline: float) -> None:
        """Let SQLite wait for other processes until then."""
        patience = max(0.0, deadline - time.monotonic())
        if abs(patience - self._patience) > 0.1:
            raw.execute(f"PRAGMA busy_timeout = {int(patience * 1000)}")
            self._patience = patience

    def drop(self) -> None:
        """Close it; the lock is held. Safe to call twice."""
        raw, self._raw = self._raw, None
        if raw is not None and self._pid == os.getpid():
            raw.close()


class Database:
    """One SQLite file with the tables of one namespace."""

    def __init__(self, path: str, *, namespace: str, call_timeout: float, synchronous: str) -> None:
        self.path = path
        self.namespace = namespace
        self.call_timeout = call_timeout
        self._synchronous = synchronous
        self._writer = Connection(self, "BEGIN IMMEDIATE")
        self._reader = Connection(self, "BEGIN")
        _all.add(self)

    @property
    def connections(self) -> tuple[Connection, Connection]:
        """The one for reading and the one for writing."""
        return self._reader, self._writer

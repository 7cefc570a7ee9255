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
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from queueport.errors import BackendUnavailable
from queueport.stores.sqlite_schema import named, prepare

__all__ = ["Database", "Tables"]

CHECKPOINT = 4_000
"""Pages in the write-ahead log before it is copied into the database: that costs two waits for the disk."""
LOG_LIMIT = 64 * 2**20
"""The write-ahead log is cut to this size, in bytes, once it has been copied into the database."""
CACHE = 16 * 2**10
"""Page cache of a connection, in KiB."""
PASSING = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL}
"""Errors that leave the connection as good as it was."""


class Tables(sqlite3.Connection):
    """A connection whose statements name the tables of a namespace as `@jobs`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.text_factory = _text
        self.namespace = ""
        self._named: dict[str, str] = {}

    def rows(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run a statement; all its rows."""
        return self.cursor_of(statement, parameters).fetchall()

    def cursor_of(self, statement: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run a statement; its rows as they are asked for."""
        text = self._named.get(statement)
        if text is None:
            text = self._named[statement] = named(statement, self.namespace)
        return self.execute(text, parameters)


class Connection:
    """One connection, shared by the threads of this process under a lock."""

    def __init__(self, database: Database, begin: str) -> None:
        self.lock: threading.RLock = threading.RLock()
        self._database = database
        self._begin = begin
        self._tables: Tables | None = None
        self._pid = 0
        self._patience = 0.0

    @contextmanager
    def transaction(self) -> Iterator[Tables]:
        """A transaction: committed at the end, rolled back on any error. Waits `call_timeout` in all for its turn."""
        deadline = time.monotonic() + self._database.call_timeout
        try:
            if not self.lock.acquire(timeout=self._database.call_timeout):
                raise self._database.unavailable(None)
            tables = self._connected(max(0.0, deadline - time.monotonic()))
            tables.execute(self._begin)
            yield tables
            tables.execute("COMMIT")
        except sqlite3.Error as error:
            if code_of(error) not in PASSING:
                self.drop()
            raise self._database.unavailable(error) from error
        finally:
            # Asked, not remembered: a task may be interrupted between getting the lock and remembering that.
            if self.lock._is_owned():  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
                if self._tables is not None and self._tables.in_transaction:
                    self._roll_back(self._tables)
                self.lock.release()

    def _connected(self, patience: float) -> Tables:
        """The connection, set to wait so many seconds for other processes."""
        if self._tables is not None and self._pid != os.getpid():  # a fork of which Python was not told
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._tables))  # never to be closed in this process
            self._tables = None
        if self._tables is None:
            self._tables = self._database.connect(patience)
            self._pid, self._patience = os.getpid(), patience
        elif abs(patience - self._patience) > 0.1:
            self._tables.execute(f"PRAGMA busy_timeout = {int(patience * 1000)}")
            self._patience = patience
        return self._tables

    def _roll_back(self, tables: Tables) -> None:
        try:
            tables.execute("ROLLBACK")
        except sqlite3.Error:
            self.drop()

    def drop(self) -> None:
        """Close it, to be made anew on the next use. Whoever calls holds the lock."""
        tables, self._tables = self._tables, None
        if tables is not None and self._pid == os.getpid():
            with suppress(sqlite3.Error):
                tables.close()


class Database:
    """One SQLite file, with the tables of one namespace in it."""

    def __init__(self, path: str, *, namespace: str, call_timeout: float, synchronous: str) -> None:
        self.path = path
        self.call_timeout = call_timeout
        self._namespace = namespace
        self._synchronous = synchronous
        self._reader = Connection(self, "BEGIN")
        self._writer = Connection(self, "BEGIN IMMEDIATE")
        self.connections: tuple[Connection, Connection] = (self._reader, self._writer)
        self.read: Callable[[], AbstractContextManager[Tables]] = self._reader.transaction
        """A transaction that sees one state of the tables. It must not be opened inside `write`."""
        self.write: Callable[[], AbstractContextManager[Tables]] = self._writer.transaction
        """A transaction that has the tables for itself."""
        _all.add(self)

    def connect(self, patience: float) -> Tables:
        """A new connection to tables that exist and are up to date."""
        tables = sqlite3.connect(
            self.path, patience, isolation_level=None, check_same_thread=False, factory=Tables, cached_statements=256
        )
        try:
            tables.namespace = self._namespace
            _use_log(tables, time.monotonic() + patience)
            tables.execute(f"PRAGMA synchronous = {self._synchronous}")
            tables.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")
            tables.execute(f"PRAGMA journal_size_limit = {LOG_LIMIT}")
            tables.execute(f"PRAGMA cache_size = -{CACHE}")
            prepare(tables, self._namespace, self.path)
        except BaseException:
            tables.close()
            raise
        return tables

    def close(self) -> None:
        """Close what is open; used again, it opens again."""
        for connection in self.connections:
            with connection.lock:
                connection.drop()

    def unavailable(self, error: sqlite3.Error | None) -> BackendUnavailable:
        """The error for callers: what failed, on which file, what to do."""
        return BackendUnavailable(f"the SQLite database {self.path} {self._explained(error)}")

    def _explained(self, error: sqlite3.Error | None) -> str:
        waited = f"for {self.call_timeout:g} s: "
        if error is None:
            return f"was kept busy by other threads of this process {waited}try again, or raise call_timeout"
        code = code_of(error)
        if code == sqlite3.SQLITE_CANTOPEN:
            return self._not_opened()
        return {
            sqlite3.SQLITE_BUSY: f"was locked by another process {waited}end that process, or raise call_timeout",
            sqlite3.SQLITE_READONLY: "cannot be written: give this user the right to write it, what lies beside it as "
            f"{Path(self.path).name}-wal and -shm, and the folder",
            sqlite3.SQLITE_FULL: "cannot grow, for the disk is full: free some space, then try again",
            sqlite3.SQLITE_NOTADB: "is not a database: name another file",
            sqlite3.SQLITE_CORRUPT: f"is damaged ({error}): put a copy in its place, or save what is left with "
            f"`sqlite3 {self.path} .recover`",
        }.get(code, f"failed ({error}): look at the file, its folder and its disk")

    def _not_opened(self) -> str:
        path = Path(self.path)
        if path.is_dir():
            return "is a folder: name a file in it"
        if not path.parent.is_dir():
            return f"cannot be made: make the folder {path.parent} first"
        return "cannot be opened: give this user the right to read and write the file and its folder"


def code_of(error: sqlite3.Error) -> int:
    """SQLite's primary error code; -1 for an error of the Python module."""
    code = getattr(error, "sqlite_errorcode", None)
    return -1 if code is None else code & 0xFF


def _text(raw: bytes) -> str | bytes:
    """Text, or bytes where a damaged row has no text: then reading the record fails, and not the statement."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _use_log(tables: Tables, deadline: float) -> None:
    """Switch the file to its write-ahead log. Several processes may be at it, and then SQLite does not wait by itself.

    Where the file system cannot do it the file works as it is; `check` warns.
    """
    while tables.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            tables.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if code_of(error) not in PASSING or time.monotonic() >= deadline:
                raise
            time.sleep(0.01)


_all: weakref.WeakSet[Database] = weakref.WeakSet()
_held: list[Connection] = []


def _hold() -> None:
    """Before a fork."""
    for database in list(_all):
        for connection in database.connections:
            connection.lock.acquire()
            connection.drop()
            _held.append(connection)


def _release() -> None:
    while _held:
        _held.pop().lock.release()


os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_release)

"""Connections to one SQLite file: one to write and one to read, opened on first use. For the SQLite store.

A child process must not use an inherited connection, and must not open another one while the inherited one exists.
SQLite counts its file locks per process, and the child inherits the counts without the locks. The parent would then
delete the write-ahead log when it closes its connection, although the child uses the log. Every connection is therefore
closed before a fork by Python code, and parent and child open new ones. A fork by C code is noticed only afterwards, by
the child, which then does not use the inherited connection.

SQLite continues to use the open files of a database that was deleted or replaced. Each connection therefore compares
its open files with those at the path: before each write, and before a read if its latest check was at least CHECK
seconds ago or the other connection has opened another file. If the check finds no file at the path, calls fail until
there is a file. If the check finds another database, the connection is closed, and the other database is opened. Calls
also fail if only the log of the database, or the log's index, was deleted or replaced.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

from queueport.errors import BackendUnavailable
from queueport.spi.locks import ForkAware, owned
from queueport.stores.sqlite.files import Files, Identity, deleted, identity
from queueport.stores.sqlite.health import code_of, unavailable
from queueport.stores.sqlite.schema import Tables, prepare

__all__ = ["Database"]

log: logging.Logger = logging.getLogger(__name__)

CHECKPOINT = 4_000
"""SQLite copies the write-ahead log into the database after a commit that leaves at least this many pages in the log.
Each copy waits for the disk twice."""
LOG_LIMIT = 64 * 2**20
"""If the write-ahead log has more than this number of bytes after a copy, SQLite cuts the log to this number."""
CACHE = 16 * 2**10
"""The maximum size of a connection's page cache, in KiB."""
CHECK = 0.5
"""The connection for reads checks its files if its latest check was at least this number of seconds ago. A check takes
up to 7 microseconds."""
TURN = 0.002
"""Seconds after which a process tries again to get the write lock. The waits of SQLite itself grow to 0.1 s. A process
that writes all the time would release the lock and take it again during such a wait, and other processes might never
get the lock."""
HARMLESS = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL}
"""SQLite's codes of those errors after which the connection that raised them can still be used."""


class Connection:
    """One connection, which the threads of this process share. A lock lets only one thread use it at a time."""

    def __init__(self, database: Database, check_every: float, *, writes: bool) -> None:
        self.lock: threading.RLock = threading.RLock()
        self._database = database
        self._writes = writes
        self._begin = "BEGIN IMMEDIATE" if writes else "BEGIN"
        self._check_every = check_every
        self._checked_at = 0.0
        self._tables: Tables | None = None
        self._files: Files
        """The files that this connection has opened."""
        self._pid = 0
        self._busy_timeout = 0.0

    @contextmanager
    def transaction(self) -> Iterator[Tables]:
        """A context manager for one transaction. Commits at the end of the `with` block; after an error, rolls back.

        To begin, waits about `call_timeout` seconds at most for locks. If the file has no write-ahead log, statements
        of the transaction may wait too. Raises BackendUnavailable in place of each OSError and sqlite3.Error, also of
        those that the `with` block raises.
        """
        deadline = time.monotonic() + self._database.call_timeout
        try:
            if not self.lock.acquire(timeout=self._database.call_timeout):
                raise self._database.unavailable(None)
            tables = self._opened(max(0.0, deadline - time.monotonic()))
            _begin(tables, self._begin, deadline)
            yield tables
            tables.execute("COMMIT")
        except OSError as error:
            raise self._database.unavailable(error) from error
        except sqlite3.Error as error:
            if code_of(error) not in HARMLESS:
                self.drop()
            raise self._database.unavailable(error) from error
        finally:
            if owned(self.lock):
                if self._tables is not None and self._tables.in_transaction:
                    self._roll_back(self._tables)
                if self._database.closed:  # `close` may have run before this transaction opened the connection
                    self.drop()
                self.lock.release()

    def _opened(self, busy_timeout: float) -> Tables:
        """Return the open connection. If it is closed, or its file was replaced, open a new one first.

        A statement on this connection waits about `busy_timeout` seconds at most for locks of other connections, or
        TURN seconds if `_begin` repeats the statement. Raises OSError, sqlite3.Error, and BackendUnavailable if the
        file was deleted, its log was deleted or replaced, or the tables are too new.
        """
        if self._tables is not None and self._pid != os.getpid():
            # C code has forked this process, so `before_fork` was not called. The additional reference makes sure that
            # Python never closes the inherited connection.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._tables))
            self._tables = None
        if self._tables is not None and self._must_check():
            if self._files.replaced():
                self._files.delete_log()
                self.drop()
            self._checked_at = time.monotonic()
        if self._tables is None:
            self._tables, self._files = self._database.connect(busy_timeout)
            self._pid, self._busy_timeout, self._checked_at = os.getpid(), busy_timeout, time.monotonic()
            if self._waits_alone():
                self._tables.execute(f"PRAGMA busy_timeout = {int(TURN * 1000)}")
        elif not self._waits_alone() and abs(busy_timeout - self._busy_timeout) > 0.1:
            self._tables.execute(f"PRAGMA busy_timeout = {int(busy_timeout * 1000)}")
            self._busy_timeout = busy_timeout
        return self._tables

    def _waits_alone(self) -> bool:
        """True if only a transaction's first statement may wait for a lock. `_begin` then repeats the statement."""
        return self._tables is not None and self._tables.has_log and self._writes

    def _must_check(self) -> bool:
        """True if this connection's latest check is too long ago, or the other connection has opened another file."""
        late = time.monotonic() - self._checked_at >= self._check_every
        return late or self._files.database != self._database.known

    def _roll_back(self, tables: Tables) -> None:
        try:
            tables.execute("ROLLBACK")
        except sqlite3.Error:
            self.drop()

    def drop(self) -> None:
        """Close the connection, if this process has opened it. The next use opens a new one. The caller must hold the
        lock.
        """
        tables, self._tables = self._tables, None
        if tables is not None and self._pid == os.getpid():
            with suppress(sqlite3.Error):
                tables.close()


class Database(ForkAware):
    """The tables of one namespace in one SQLite file. Thread-safe; works in a child process after a fork."""

    def __init__(self, path: str, *, namespace: str, call_timeout: float, synchronous: str) -> None:
        super().__init__()
        self.path = path
        self.call_timeout = call_timeout
        self._namespace = namespace
        self._synchronous = synchronous
        self.known: Identity | None = None
        """The database file that was opened last; None before the first use and, until the next use, after
        `close`."""
        self.closed: bool = False
        """True after `close`. Each transaction then opens a connection of its own, and closes it."""
        self._reader = Connection(self, CHECK, writes=False)
        self._writer = Connection(self, 0.0, writes=True)
        self.connections: tuple[Connection, Connection] = (self._reader, self._writer)
        self.read: Callable[[], AbstractContextManager[Tables]] = self._reader.transaction
        """Opens a transaction that reads one consistent state of the tables. Must not be used inside `write`."""
        self.write: Callable[[], AbstractContextManager[Tables]] = self._writer.transaction
        """Opens a transaction that writes. Only one exists at a time, in all processes together."""

    def connect(self, busy_timeout: float) -> tuple[Tables, Files]:
        """Open a connection, and create or migrate the tables if necessary.

        Raises OSError, sqlite3.Error, and BackendUnavailable if the file was deleted after this process had opened it
        or the tables are too new. Logs a warning if another database was at the path before.
        """
        if self.known is not None and identity(self.path) is None:
            raise deleted(self.path)
        tables = sqlite3.connect(
            self.path,
            timeout=busy_timeout,
            isolation_level=None,
            check_same_thread=False,
            factory=Tables,
            cached_statements=256,
        )
        try:
            tables.namespace = self._namespace
            tables.has_log = _use_log(tables, time.monotonic() + busy_timeout)
            tables.execute(f"PRAGMA synchronous = {self._synchronous}")
            tables.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")
            tables.execute(f"PRAGMA journal_size_limit = {LOG_LIMIT}")
            tables.execute(f"PRAGMA cache_size = -{CACHE}")
            prepare(tables, self._namespace, self.path)
            files = Files(self.path)
        except BaseException:
            tables.close()
            raise
        if self.known not in (None, files.database):
            log.warning(
                "the SQLite database %s was replaced while this process used it: jobs of the old file are not in the "
                "new one, which this process uses from now on",
                self.path,
            )
        self.known = files.database
        return tables, files

    def close(self) -> None:
        """Close both connections, each as soon as no transaction uses it.

        Each later transaction opens a connection, and closes this connection at its end.
        """
        self.closed = True
        for connection in self.connections:
            with connection.lock:
                connection.drop()
        self.known = None

    def before_fork(self) -> None:
        for connection in self.connections:
            connection.lock.acquire()
            connection.drop()

    def after_fork(self, *, child: bool) -> None:
        for connection in self.connections:
            connection.lock.release()

    def unavailable(self, error: sqlite3.Error | OSError | None) -> BackendUnavailable:
        return unavailable(self.path, error, self.call_timeout)


def _begin(tables: Tables, statement: str, deadline: float) -> None:
    """Begin a transaction. If another connection has the lock, try again until the deadline."""
    while True:
        try:
            tables.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if code_of(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise


def _use_log(tables: Tables, deadline: float) -> bool:
    """Switch the file to a write-ahead log.

    If the file is locked, tries again until the deadline, because SQLite does not wait for locks in this statement. If
    the disk is full, also tries again. If the file system does not support such a log, the file keeps its journal mode,
    and `check` returns a warning. Returns whether the file has a log.
    """
    while tables.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            return bool(tables.execute("PRAGMA journal_mode = WAL").fetchone()[0] == "wal")
        except sqlite3.OperationalError as error:
            if code_of(error) not in HARMLESS or time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
    return True

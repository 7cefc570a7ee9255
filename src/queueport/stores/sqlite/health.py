"""Explains errors of SQLite, and finds problems of an SQLite file. For the SQLite store."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import stat
from pathlib import Path

from queueport.errors import BackendUnavailable
from queueport.spi.local_errors import local_error
from queueport.stores.sqlite.schema import Tables

__all__ = ["code_of", "try_to_insert", "unavailable", "warnings"]

NETWORK = {"9p", "afs", "ceph", "cifs", "fuse.sshfs", "glusterfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"}
LOW = 100 * 2**20
"""`check` warns if less than this number of bytes is free on the disk."""
NO_PERMISSION = "cannot be opened: give this user the right to read and write the file and its folder"
TRIED = 4096
"""The size in bytes of the arguments of the job that `check` inserts: large enough that the database needs a new
page."""
QUICK_CHECK = 64 * 2**20
"""`check` searches a file for damage only up to this size in bytes, because the search reads the whole file."""


def unavailable(path: str, error: sqlite3.Error | OSError | None, call_timeout: float) -> BackendUnavailable:
    """Make an error that says what to do. `error` is None if other threads did not release the connection in time."""
    return BackendUnavailable(f"the SQLite database {path} {_explained(Path(path), error, call_timeout)}")


def code_of(error: sqlite3.Error) -> int:
    """SQLite's primary error code; -1 if Python's module `sqlite3` raised the error itself, without a code."""
    code = getattr(error, "sqlite_errorcode", None)
    return -1 if code is None else code & 0xFF


def _explained(path: Path, error: sqlite3.Error | OSError | None, call_timeout: float) -> str:
    if isinstance(error, OSError):
        return _system_error(error)
    waited = f"for {call_timeout:g} s: "
    if error is None:
        return f"was used by other threads of this process {waited}try again, or raise call_timeout"
    code = code_of(error)
    if code == sqlite3.SQLITE_CANTOPEN:
        return _cannot_open(path)
    return {
        sqlite3.SQLITE_BUSY: f"was locked by another process {waited}end the long transaction of that process "
        f"(`lsof {path}` lists the processes that have the file open), or raise call_timeout",
        sqlite3.SQLITE_READONLY: "cannot be written: give this user the right to write to the file, to "
        f"{path.name}-wal and {path.name}-shm beside it, and to the folder",
        sqlite3.SQLITE_FULL: "cannot grow because the disk is full: free some space, then try again",
        sqlite3.SQLITE_IOERR: f"failed ({error}): check its disk; if the database was deleted or replaced, delete "
        f"{path.name}-wal and {path.name}-shm too while no process uses them",
        sqlite3.SQLITE_NOTADB: "is not a database: name another file",
        sqlite3.SQLITE_CORRUPT: f"is damaged ({error}): replace it with a backup, or save what is left with "
        f"`sqlite3 {path} .recover`",
    }.get(code, f"failed ({error}): check the file, its folder and its disk")


def _cannot_open(path: Path) -> str:
    """Find out why SQLite cannot open a file: SQLite's error does not say it. Returns the end of a sentence."""
    try:
        # Open the folder, not the file: when a process closes a file, the operating system releases all locks that
        # the process has on the file, also those of SQLite.
        os.close(os.open(path.parent, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)))
    except (FileNotFoundError, NotADirectoryError):
        return f"cannot be created: make the folder {path.parent} first"
    except OSError as error:
        return _system_error(error)
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            return "is a folder: name a file in it"
    except FileNotFoundError:
        pass
    except OSError as error:
        return _system_error(error)
    return NO_PERMISSION


def _system_error(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return NO_PERMISSION
    if error.errno == errno.ENAMETOOLONG:
        return "cannot be opened because its name is too long: choose a shorter one"
    if error.errno == errno.ELOOP:
        return "cannot be opened because its symbolic links are a loop: correct them"
    return local_error(error) or f"failed ({error.strerror}): check the file, its folder and its disk"


def try_to_insert(tables: Tables) -> None:
    """Insert a job and delete it in the caller's transaction. The commit of this transaction then writes changed pages
    to the disk, and fails if these cannot be written.
    """
    tables.rows(
        "INSERT INTO @jobs (id, task, queue, state, v, payload) VALUES ('', '', '', 'queued', 1, zeroblob(?))", (TRIED,)
    )
    tables.rows("DELETE FROM @jobs WHERE id = ''")
    tables.rows("DELETE FROM @counts WHERE queue = ''")


def warnings(tables: Tables, path: Path) -> list[str]:
    """Return one sentence for each problem that an operator should know about."""
    found = []
    if tables.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        found.append(
            f"{path} has no write-ahead log because its file system does not support one: readers and writers block "
            "each other; use a local disk"
        )
    kind = _file_system(path.resolve(), Path("/proc/mounts"))
    if kind in NETWORK:
        found.append(
            f"{path} is on a network file system ({kind}), whose locks SQLite cannot rely on: use a local disk"
        )
    free = shutil.disk_usage(path.parent).free
    if free < LOW:
        found.append(f"the disk of {path} has only {free / 2**20:.0f} MiB left: free some space")
    (unreadable,) = tables.rows("SELECT count(*) FROM @aside")[0]
    if unreadable:
        found.append(f"{unreadable} jobs in {path} could not be read and are in the table {tables.name_of('aside')}")
    pages, size = (tables.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    if pages * size <= QUICK_CHECK:
        (result,) = tables.execute("PRAGMA quick_check(1)").fetchone()
        if result != "ok":
            found.append(f"{path} is damaged ({result}): save what is left with `sqlite3 {path} .recover`")
    return found


def _file_system(path: Path, mounts: Path) -> str | None:
    """The type of the file system that contains a file; None if it cannot be found out."""
    if not mounts.exists():
        return None
    lines = mounts.read_text(errors="replace").splitlines()
    kinds = {fields[1]: fields[2] for line in lines if len(fields := line.split()) > 2}
    return next((kinds[str(place)] for place in path.parents if str(place) in kinds), None)

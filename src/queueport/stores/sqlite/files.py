"""Detects that the files of an open SQLite database were deleted or replaced. For the connections of the store.

SQLite continues to use an open file that was deleted or replaced, while new processes use the file now at the path.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from queueport.errors import BackendUnavailable

__all__ = ["Files", "identity"]

SETTLED = 3.0
"""If the latest change of a folder is more than this number of seconds ago, the next change certainly changes the
folder's time. After less time, the next change might leave this time as it is, because file systems round times."""

Identity = tuple[int, int]
"""The device and the inode of a file."""


def identity(path: str) -> Identity | None:
    """The identity of the file at this path; None if there is no file. Raises other OSErrors."""
    try:
        found = os.stat(path)  # noqa: PTH116  # a Path takes longer, and this runs before each write
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


class Files:
    """The identities that the database, its log and the log's index had when this object was made.

    Make this object just after a connection has opened the files. `__init__` raises OSError.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._is_link = self._path.is_symlink()
        target = self._path.resolve()  # SQLite derives the names of log and index from the target of a link
        self._beside = tuple(target.with_name(target.name + ending) for ending in ("-wal", "-shm"))
        self._names = [str(path) for path in (self._path, *self._beside)]
        self._ours = self._found()
        self._folder = str(self._path.parent)
        self._quiet: tuple[int, ...] | None = None
        """The folder's identity and time of change, if they will not be the same after a further change in it."""

    @property
    def database(self) -> Identity | None:
        return self._ours[0]

    def replaced(self) -> bool:
        """True if the path now names another database. False also if this cannot be found out.

        Does not compare the files if the folder's time shows that no file in it was created, deleted or renamed. Raises
        BackendUnavailable if the database was deleted, or if the log or the log's index, but not the database,
        was deleted or replaced.
        """
        try:
            folder = os.stat(self._folder)  # noqa: PTH116  # see `identity`
            state = folder.st_dev, folder.st_ino, folder.st_ctime_ns
            if state == self._quiet:
                return False
            found = self._found()
        except OSError:  # for example, this process may no longer read the folder; its open files still work
            return False
        if found == self._ours:
            settled = time.time() - folder.st_ctime > SETTLED and not self._is_link
            self._quiet = state if settled else None
            return False
        if found[0] is None:
            raise deleted(str(self._path))
        if found[0] != self._ours[0]:
            return True
        raise BackendUnavailable(
            f"the SQLite database {self._path} was damaged, because {' or '.join(path.name for path in self._beside)} "
            "was deleted or replaced while processes used it: stop all of them, then start them again"
        )

    def delete_log(self) -> None:
        """Delete the log of a replaced database, and the log's index, if they are still the files that this object has
        found. Otherwise, SQLite would apply the old log to the new database.

        Each process takes a lock for this. Without the lock, a process could delete the files that another process has
        just created. Raises OSError.
        """
        import fcntl  # imported here, because Windows lacks it; on Windows, open files cannot be replaced

        folder = os.open(self._beside[0].parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            for path, ours in zip(self._beside, self._ours[1:], strict=True):
                if ours is not None and identity(str(path)) == ours:
                    path.unlink()
        finally:
            os.close(folder)

    def _found(self) -> tuple[Identity | None, ...]:
        return tuple(map(identity, self._names))


def deleted(path: str) -> BackendUnavailable:
    """Make the error for a database that was deleted after this process had opened it."""
    return BackendUnavailable(
        f"the SQLite database {path} was deleted while this process used it: put it back, or create an empty one with "
        "`queueport setup URL`"
    )

"""What is worth a warning about an SQLite file in use. For readers of the SQLite store."""

from __future__ import annotations

import shutil
from pathlib import Path

from queueport.stores.sqlite_connection import Tables

__all__ = ["warnings"]

NETWORK = {"9p", "afs", "ceph", "cifs", "fuse.sshfs", "glusterfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"}
LOW = 100 * 2**20
"""Bytes left on the disk below which it is worth a word."""
QUICK = 64 * 2**20
"""Up to this size, in bytes, the whole file is read through."""


def warnings(tables: Tables, path: Path) -> list[str]:
    """One sentence for each thing that somebody should look at."""
    found = []
    if tables.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        found.append(
            f"{path} has no write-ahead log, for its file system cannot keep one: readers and writers wait in turn"
        )
    kind = _file_system(path.resolve(), Path("/proc/mounts"))
    if kind in NETWORK:
        found.append(
            f"{path} lies on a network file system ({kind}), whose locks SQLite cannot trust: use a local disk"
        )
    free = shutil.disk_usage(path.parent).free
    if free < LOW:
        found.append(f"the disk that holds {path} has {free / 2**20:.0f} MiB left")
    (unreadable,) = tables.rows("SELECT count(*) FROM @aside")[0]
    if unreadable:
        found.append(f"{unreadable} jobs in {path} could not be read and lie in the table {tables.namespace}_aside")
    pages, size = (tables.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    if pages * size <= QUICK:
        (result,) = tables.execute("PRAGMA quick_check(1)").fetchone()
        if result != "ok":
            found.append(f"{path} is damaged ({result}): save what is left with `sqlite3 {path} .recover`")
    return found


def _file_system(path: Path, mounts: Path) -> str | None:
    """The kind of file system that a file lies on; None where the system does not say."""
    if not mounts.exists():
        return None
    kinds = {fields[1]: fields[2] for line in mounts.read_text().splitlines() if len(fields := line.split()) > 2}
    return next((kinds[str(place)] for place in path.parents if str(place) in kinds), None)

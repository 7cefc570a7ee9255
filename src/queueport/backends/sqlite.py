"""The SQLite backend: a file is queue and store at once, for one machine and any number of its processes."""

from __future__ import annotations

from queueport.backends.stored import StoreDriver
from queueport.capability import Capability

__all__ = ["SqliteDriver"]


class SqliteDriver(StoreDriver):
    """Jobs survive the process, and any process on this machine may run them."""

    name = "sqlite"
    capabilities: frozenset[Capability] = StoreDriver.capabilities | {Capability.PERSISTENT}

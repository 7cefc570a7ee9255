"""The memory backend: everything in this process, for tests and for trying things out."""

from __future__ import annotations

from queueport.backends.stored import StoreDriver

__all__ = ["MemoryDriver"]


class MemoryDriver(StoreDriver):
    """Jobs end with the process; workers run beside the caller."""

    name = "memory"

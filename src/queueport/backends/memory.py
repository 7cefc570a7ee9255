"""The memory backend: everything in this process, for tests and for trying things out."""

from __future__ import annotations

from typing import ClassVar

from queueport.backends.stored import StoreDriver

__all__ = ["MemoryDriver"]


class MemoryDriver(StoreDriver):
    """Jobs end with the process; workers run beside the caller."""

    name: ClassVar[str] = "memory"

"""`Copy`, a process's copy of the documents of one kind, such as the pauses of queues. For the core."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeVar

from queueport.engine.runtime import Runtime
from queueport.errors import BackendUnavailable
from queueport.spi.failures import FailureLog
from queueport.spi.store import Document, JobStore

__all__ = ["READ_EVERY", "Copy"]

logger: logging.Logger = logging.getLogger("queueport")
T = TypeVar("T")

READ_EVERY = 1.0
"""The maximum age of the copy in seconds when a process uses it. Together with the time of a call to the store, a
change takes effect within two seconds."""


class Copy(ABC, Generic[T]):
    """The documents of one kind in one store, by the queue that they are about. Thread-safe.

    Only a process that runs jobs or dispatches calls `follow`, and then keeps a copy of all these documents. If the
    copy is too old when the process needs it, the process reads the documents again. So there is at most one call in
    READ_EVERY seconds, however many jobs there are. A forked child begins with the copy of its parent.
    """

    kind: ClassVar[str]
    what: ClassVar[str]
    """What the documents are, for the log."""

    def __init__(self, store: JobStore, runtime: Runtime) -> None:
        self._store = store
        self._runtime = runtime
        self._failures = FailureLog(logger, runtime.monotonic)
        self._follows = False
        self._copy: Mapping[str, T] = MappingProxyType({})
        self._read_at: float | None = None
        self._tried_at = 0.0
        self._stale = False

    def follow(self) -> None:
        """Keep a copy from now on. Does no I/O."""
        self._follows = True

    def expire(self) -> None:
        """Read the copy again at its next use, even if it is not old."""
        self._stale = True

    @property
    def read_at(self) -> float | None:
        """The time on the monotonic clock just before the copy was read; None if it was never read."""
        return self._read_at

    def current(self) -> Mapping[str, T]:
        """The copy, which is at most READ_EVERY seconds old, by queue. Empty if this process does not follow.

        If the store does not answer, the last copy stays. Raises BackendUnavailable if there is none.
        """
        if not self._follows:
            return self._copy
        now = self._runtime.monotonic()
        if self._read_at is None or self._stale or now - self._tried_at >= READ_EVERY:
            self._stale, self._tried_at = False, now  # other threads use the last copy meanwhile
            try:
                copy = self.read()
            except BackendUnavailable as error:
                if self._read_at is None:
                    raise
                self._failures.warning("%s could not be read; the last known ones hold: %s", self.what, error)
            else:
                if self._read_at is None or self._read_at <= now:
                    self._copy, self._read_at = copy, now
        return self._copy

    def known(self) -> Mapping[str, T]:
        """Like `current`, but without I/O as long as the copy is empty."""
        return self.current() if self._copy else self._copy

    def read(self) -> dict[str, T]:
        """Read the documents, by queue. Raises BackendUnavailable."""
        return {document.name: self.value_of(document) for document in self._store.documents(self.kind)}

    @abstractmethod
    def value_of(self, document: Document) -> T:
        """What a document says. Must not raise."""

    def _put(self, queue: str, value: Callable[[Document | None], Mapping[str, Any]]) -> None:
        """Write the document of a queue. `value` takes the present document. Raises BackendUnavailable."""
        while True:
            found = self._find(queue)
            new = Document(self.kind, queue, value(found), self._runtime.new_id())
            if self._store.put_document(new, None if found is None else found.rev):
                self.expire()
                return

    def _remove(self, queue: str) -> bool:
        """Delete the document of a queue. Returns whether there was one. Raises BackendUnavailable."""
        removed = False
        while (found := self._find(queue)) is not None:
            removed |= self._store.delete_document(self.kind, queue, found.rev)
        self.expire()
        return removed

    def _find(self, queue: str) -> Document | None:
        return next((one for one in self._store.documents(self.kind) if one.name == queue), None)

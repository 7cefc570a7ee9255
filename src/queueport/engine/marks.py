"""Marks published jobs behind the caller of `enqueue`, many in one call to the store. For `Operations`."""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence

from queueport.engine.runtime import Runtime
from queueport.errors import BackendUnavailable, log_error
from queueport.spi.failures import FailureLog
from queueport.spi.locks import ForkAware
from queueport.spi.record import Record

__all__ = ["Marks"]

logger: logging.Logger = logging.getLogger("queueport")

GATHER = 0.02
"""Seconds for which marks are gathered before they are written. Far less than a claim."""
BATCH = 500
"""The maximum number of marks in one call to the store."""
AT_EXIT = 1.0
"""Maximum seconds that the end of the process waits for a write that has begun, if the queue was not closed."""


class Marks(ForkAware):
    """Writes marks in a thread that ends as soon as no mark is left. Thread-safe.

    A mark that is lost, because the process is killed first or the store does not answer, costs a second message when
    the claim ends. A child process leaves its parent's marks to the parent.
    """

    def __init__(self, write: Callable[[Sequence[Record]], object], runtime: Runtime) -> None:
        """`write` marks the records as sent. Raises BackendUnavailable."""
        super().__init__()
        self._write = write
        self._runtime = runtime
        self._failures = FailureLog(logger, runtime.monotonic)
        self._reset()
        _open.add(self)

    def add(self, records: Sequence[Record]) -> None:
        """Mark these records soon. Returns at once."""
        self._pending.extend(records)
        if self._pending and not self._writing.locked():
            self._runtime.start(self._run)

    def close(self, timeout: float) -> None:
        """Write the marks that are left. Waits at most `timeout` seconds for a write that has begun."""
        self._closing.set()
        if self._writing.acquire(timeout=timeout):
            try:
                self._write_pending()
            finally:
                self._writing.release()

    def after_fork(self, *, child: bool) -> None:
        if child:
            self._reset()

    def _reset(self) -> None:
        self._pending: deque[Record] = deque()
        self._closing = threading.Event()
        self._writing = threading.Lock()
        """Held by the thread that gathers and writes marks."""

    def _run(self) -> None:
        # `add` starts no thread while this one holds the lock, so look again after its release.
        while self._pending and self._writing.acquire(blocking=False):
            try:
                self._runtime.wait(self._closing, GATHER)
                self._write_pending()
            finally:
                self._writing.release()

    def _write_pending(self) -> None:
        while self._pending:
            batch = [self._pending.popleft() for _ in range(min(len(self._pending), BATCH))]
            try:
                self._write(batch)
            except BackendUnavailable as error:
                message = "%d published jobs could not be marked as sent; they may be published again: %s"
                self._failures.warning(message, len(batch), error)
            except Exception as error:  # noqa: BLE001  # a lost mark costs only a second message
                log_error(logger, error, "%d published jobs could not be marked as sent", len(batch))


_open: weakref.WeakSet[Marks] = weakref.WeakSet()


def _close_all() -> None:
    for marks in list(_open):
        marks.close(AT_EXIT)


atexit.register(_close_all)

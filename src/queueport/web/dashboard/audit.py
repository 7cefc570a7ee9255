"""The audit log: who changed what, and when. For the actions and the page that shows it.

Each entry goes to the logger `queueport.audit`, twice: before the action and when it has ended. The latest entries are
also kept in this process, for the page.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.requests import Request

from queueport.web.dashboard.text import visible

__all__ = ["AuditEntry", "AuditLog", "client_of"]

logger: logging.Logger = logging.getLogger("queueport.audit")

KEPT = 500
"""The number of entries that the page can show."""


@dataclass(slots=True)
class AuditEntry:
    """One action. `what` says what it does, such as "retry job 42"."""

    number: int
    at: datetime
    user: str
    address: str
    backend: str
    what: str
    outcome: str | None = None
    """A sentence about the result. None while the action runs."""
    failed: bool = False
    change: str | None = None
    """The id of a bulk change, which has a page of its own."""


class AuditLog:
    """The latest actions of this process. Thread-safe."""

    def __init__(self) -> None:
        self._entries: deque[AuditEntry] = deque(maxlen=KEPT)
        self._lock = threading.Lock()
        self._number = 0

    def begin(self, user: str, address: str, backend: str, what: str, change: str | None = None) -> AuditEntry:
        """Record an action that begins now."""
        with self._lock:
            self._number += 1
            entry = AuditEntry(self._number, datetime.now(UTC), user, address, backend, what, change=change)
            self._entries.appendleft(entry)
        self._log(entry, "begins")
        return entry

    def end(self, entry: AuditEntry, outcome: str, *, failed: bool = False) -> None:
        """Record the outcome of an action."""
        entry.failed = failed
        entry.outcome = outcome
        self._log(entry, outcome)

    def entries(self) -> Sequence[AuditEntry]:
        """The latest entries, newest first."""
        with self._lock:
            return list(self._entries)

    def get(self, number: str) -> AuditEntry | None:
        """The entry with this number, if it is still kept."""
        return next((entry for entry in self.entries() if str(entry.number) == number), None)

    def _log(self, entry: AuditEntry, outcome: str) -> None:
        fields = {"user": entry.user, "address": entry.address, "backend": entry.backend, "action": entry.what}
        parts = [visible(text) for text in (entry.user, entry.address, entry.backend, entry.what, outcome)]
        logger.info("%s (%s) on %s: %s: %s", *parts, extra={**fields, "outcome": outcome})


def client_of(request: Request) -> tuple[str, str]:
    """The user who sends a request, and the address of the browser."""
    return request.state.dashboard_user, "unknown" if request.client is None else request.client.host

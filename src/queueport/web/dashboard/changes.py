"""The bulk changes, which run in the background of this process, and the page that follows one. For the app.

POST on the page aborts the change. If the process ends, its changes end after a page; what is changed stays changed.
"""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from queueport.engine.bulk import BulkChange
from queueport.engine.operations import Changed
from queueport.errors import QueueportError
from queueport.spi.url import hidden
from queueport.web.dashboard.access import FormTokens, read_form
from queueport.web.dashboard.audit import AuditEntry, AuditLog, client_of
from queueport.web.dashboard.pages import Pages
from queueport.web.dashboard.rendering import Rendering

__all__ = ["Changes", "Count", "Plan", "RunningChange", "failure"]

MOST_RUNNING = 4
"""The maximum number of changes that run at the same time."""
KEPT = 100
"""The number of changes that the page can show."""
MOST_WAIT = 0.5
"""Maximum seconds that the request which starts a change waits for its end, so that a small one ends at once."""
LAST_PAGE = 10.0
"""Maximum seconds that the process waits at its end for the present pages of its changes."""
UNKNOWN = (
    "This dashboard does not know this bulk change: another process has started it, or this process was "
    "started after it. A change ends with its process. The jobs that it had changed until then stay changed, and all "
    "others are as they were: open the jobs page to see what is left, and start the change again there. The logger "
    "queueport.audit has the beginning and the end of each change."
)


class Count(NamedTuple):
    """A number of jobs. If it is not `complete`, there are at least that many."""

    number: int
    complete: bool = True

    def __str__(self) -> str:
        return f"{self.number:,}" if self.complete else f"at least {self.number:,}"

    @property
    def jobs(self) -> str:
        """The number with its unit, such as "at least 1 job"."""
        return f"{self} {'job' if self.number == 1 else 'jobs'}"


class Plan(NamedTuple):
    """What somebody has asked for. `title` is that of the page, and `what` says what the change does, as a command."""

    change: BulkChange
    title: str
    what: str
    participle: str
    """What has happened to a changed job, such as "discarded"."""
    total: Count
    """The number of jobs that matched before the change."""
    rate: float | None
    """The maximum number of jobs to change in a second."""


@dataclass(slots=True)
class RunningChange:
    """One change. Its thread writes the numbers, and the page reads them."""

    plan: Plan
    entry: AuditEntry
    back: str
    """The address of the page that the change was started from."""
    started: float
    """The time on the monotonic clock, as `ended`, which is None while the change runs."""
    ended: float | None = None
    numbers: Changed = field(default_factory=Changed)
    stopped: str | None = None
    """Who or what has stopped the change, if somebody has."""
    stop: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)

    @property
    def seconds(self) -> float:
        """Seconds since the start, or from the start to the end."""
        return (time.monotonic() if self.ended is None else self.ended) - self.started

    @property
    def speed(self) -> float:
        """The number of jobs that were changed in a second, on average."""
        return self.numbers.changed / max(self.seconds, 0.001)

    def abort(self, by: str) -> None:
        """End the change after the present page."""
        if self.ended is None and not self.stop.is_set():
            self.stopped = by
            self.stop.set()

    def run(self, audit: AuditLog) -> None:
        """Change the jobs, and record in the audit log how it ended."""
        failed = None
        try:
            for numbers in self.plan.change.pages(self.plan.rate, self.stop):
                self.numbers = numbers
        except Exception as error:  # noqa: BLE001  # the audit log must show how a change ended
            failed = failure(error)
        self.ended = time.monotonic()
        aborted = None if self.stopped is None else f"It was aborted by {self.stopped}."
        audit.end(self.entry, " ".join(filter(None, [failed or aborted, self._sentence()])), failed=failed is not None)
        self.finished.set()

    def _sentence(self) -> str:
        changed, skipped = self.numbers.changed, self.numbers.skipped
        were = f"1 job was {self.plan.participle}" if changed == 1 else f"{changed:,} jobs were {self.plan.participle}"
        return f"{were}, and {skipped:,} skipped." if skipped else f"{were}."


def failure(error: Exception) -> str:
    """A sentence about an error, for the audit log."""
    name = "" if isinstance(error, QueueportError) else f"{type(error).__name__}: "
    return f"It failed: {name}{hidden(str(error))}"


class Changes:
    """The latest changes of this process, and the handlers of their page. Thread-safe."""

    def __init__(self, pages: Pages, rendering: Rendering, tokens: FormTokens, audit: AuditLog) -> None:
        self._pages = pages
        self._rendering = rendering
        self._tokens = tokens
        self._audit = audit
        self._lock = threading.Lock()
        self._known: dict[str, RunningChange] = {}

    def start(self, request: Request, plan: Plan, back: str) -> Response:
        """Start a change in a thread, and go to its page. Raises HTTPException if too many run."""
        source, change_id = self._pages.source(request), secrets.token_urlsafe(9)
        with self._lock:
            if sum(each.ended is None for each in self._known.values()) >= MOST_RUNNING:
                raise HTTPException(
                    429,
                    f"{MOST_RUNNING} bulk changes run already, so nothing was changed: wait for the end of "
                    "one, or abort one. The audit log lists them.",
                )
            entry = self._audit.begin(*client_of(request), source.name, plan.what, change=change_id)
            running = RunningChange(plan, entry, back, time.monotonic())
            threading.Thread(target=running.run, args=[self._audit], name="queueport-change", daemon=True).start()
            self._known[change_id] = running
            ended = [known for known, each in self._known.items() if each.ended is not None]
            for known in ended[: max(0, len(self._known) - KEPT)]:
                del self._known[known]
        running.finished.wait(MOST_WAIT)
        return RedirectResponse(self._rendering.url(request, "change", source=source.name, change=change_id), 303)

    def show(self, request: Request) -> Response:
        """The page of a change."""
        running = self._asked(request)
        token, cookie = self._tokens.issue(request)
        response = self._rendering.page(
            request, "change.html", source=self._pages.source(request), running=running, token=token
        )
        self._tokens.finish(request, response, cookie)
        return response

    async def abort(self, request: Request) -> Response:
        """End a change after its present page."""
        running = self._asked(request)
        refusal = self._tokens.refusal(request, await read_form(request))
        if refusal is not None:
            return self._pages.message(request, 403, refusal)
        running.abort(request.state.dashboard_user)
        await run_in_threadpool(running.finished.wait, MOST_WAIT)
        return RedirectResponse(request.url.path, 303)

    def close(self) -> None:
        """End all changes after their present pages, when the process ends."""
        end = time.monotonic() + LAST_PAGE
        known = list(self._known.values())
        for running in known:
            running.abort("the end of the dashboard's process")
        for running in known:
            running.finished.wait(max(0.0, end - time.monotonic()))

    def _asked(self, request: Request) -> RunningChange:
        """The change in the address. Raises HTTPException."""
        source, known = self._pages.source(request), self._known.get(request.path_params["change"])
        if known is None or known.entry.backend != source.name:
            raise HTTPException(404, UNKNOWN)
        return known

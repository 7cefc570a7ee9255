"""The pages that only show: overview, jobs, one job, audit log. For the app.

The methods of `Pages` block, so Starlette calls them in threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from queueport.engine.arguments import PAGE, filters
from queueport.engine.operations import Operations
from queueport.errors import BackendUnavailable, ConfigurationError, JobNotFound, QueueportError
from queueport.job import JobFilters
from queueport.spi.record import Record
from queueport.spi.settings import duration
from queueport.spi.store import Query
from queueport.spi.url import hidden
from queueport.status import JobState, JobStatus
from queueport.web.dashboard.audit import AuditLog
from queueport.web.dashboard.masking import Masking
from queueport.web.dashboard.rendering import Rendering
from queueport.web.dashboard.sources import Source, snapshots
from queueport.web.dashboard.text import shortened

__all__ = ["Filter", "Pages"]

PER_PAGE = 50
"""The number of jobs on a page."""
TEXT_SECONDS = 2.0
"""Maximum seconds of a search for a text, which reads each job that matches the other filters."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs a page shows or an action changes, as the texts in the address. An empty text: no condition."""

    state: str = ""
    queue: str = ""
    task: str = ""
    error: str = ""
    key: str = ""
    tag: str = ""
    since: str = ""
    until: str = ""
    text: str = ""

    @classmethod
    def of(cls, request: Request) -> Filter:
        """The filter in the address. A filter by error without a state means dead jobs, which have an index."""
        given = {field.name: request.query_params.get(field.name, "").strip() for field in fields(cls)}
        if given["error"] and not given["state"]:
            given["state"] = JobState.DEAD.value
        return cls(**given)

    def arguments(self) -> dict[str, Any]:
        """The conditions as arguments of `JobQueue.jobs`. Raises ConfigurationError for a wrong time."""
        given: dict[str, Any] = self.conditions()
        return given | {name: moment_of(name, given[name]) for name in ("since", "until") if name in given}

    def search(self, now: Callable[[], float], **page: Any) -> Query:
        """The query of this filter. `page` has `limit` and `after`. Raises ConfigurationError, and JobNotFound."""
        given = self.arguments()
        more = JobFilters(**{name: given.pop(name) for name in JobFilters.__optional_keys__ & given.keys()})  # type: ignore[typeddict-item]
        return filters(**given, **page, more=more, now=now)

    def query(self, **changed: str) -> str:
        """The filter as the query of an address, with some conditions changed."""
        pairs = {name: value for name, value in {**asdict(self), **changed}.items() if value}
        return f"?{urlencode(pairs)}" if pairs else ""

    def conditions(self) -> dict[str, str]:
        """The conditions that are not empty."""
        return {name: value for name, value in asdict(self).items() if value}


class Pages:
    """The handlers of the pages."""

    def __init__(self, sources: Mapping[str, Source], rendering: Rendering, masking: Masking, audit: AuditLog) -> None:
        self._sources = sources
        self._rendering = rendering
        self._masking = masking
        self._audit = audit

    def source(self, request: Request) -> Source:
        """The backend that the address names."""
        name = request.path_params["source"]
        if name not in self._sources:
            raise HTTPException(404, f"There is no backend {name!r} on this dashboard.")
        return self._sources[name]

    def overview(self, request: Request) -> Response:
        """All backends: queues, workers and charts."""
        return self._rendering.page(request, "overview.html", read=snapshots(self._sources.values()))

    def jobs(self, request: Request) -> Response:
        """The jobs that match the filter in the address, newest first."""
        source, chosen = self.source(request), Filter.of(request)
        after = request.query_params.get("after") or None
        operations = source.queue.operations
        found = search(operations, chosen.search(operations.store.now, limit=PER_PAGE, after=after))
        snapshot = source.snapshot()
        counts = None if snapshot.stats is None else snapshot.stats.totals
        if snapshot.stats is not None and chosen.queue:
            counts = snapshot.stats.queues[chosen.queue]
        return self._rendering.page(
            request,
            "jobs.html",
            source=source,
            filter=chosen,
            jobs=[(job, self.note(job)) for job in found.jobs],
            after=after,
            older=None if found.after is None else chosen.query(after=found.after),
            stopped=found.stopped,
            counts=counts,
            snapshot=snapshot,
            history=Filter(queue=chosen.queue, task=chosen.task).query(),
            text_seconds=TEXT_SECONDS,
        )

    def job(self, request: Request) -> Response:
        """One job with all that its record contains, without secrets."""
        source = self.source(request)
        job = source.queue.status(request.path_params["job_id"])
        done = self._audit.get(request.query_params.get("done", ""))
        headers = {name: self._masking.value(text, name) for name, text in job.headers.items()}
        errors = [(error, hidden(error.message), shortened(hidden(error.traceback))) for error in reversed(job.errors)]
        return self._rendering.page(
            request,
            "job.html",
            source=source,
            job=job,
            done=done,
            args=self._masking.args(job),
            kwargs=self._masking.value(job.kwargs),
            result=self._masking.value(job.result),
            headers=headers,
            errors=errors,
            timeline=timeline(job),
        )

    def find(self, request: Request) -> Response:
        """Go to the job with the id in the address, on whichever backend it is."""
        job_id = request.query_params.get("id", "").strip()
        problems = []
        for source in self._sources.values():
            try:
                source.queue.status(job_id)
            except JobNotFound:
                continue
            except QueueportError as error:
                problems.append(f"{source.name}: {error}")
                continue
            return RedirectResponse(self._rendering.url(request, "job", source=source.name, job_id=job_id), 303)
        text = " ".join([f"No job has the id {job_id!r}, or its record was deleted after its retention.", *problems])
        return self.message(request, 404, text)

    def audit(self, request: Request) -> Response:
        """The latest actions."""
        done = self._audit.get(request.query_params.get("done", ""))
        return self._rendering.page(request, "audit.html", entries=self._audit.entries(), done=done)

    def message(self, request: Request, status: int, text: str) -> HTMLResponse:
        """A page with one sentence, for errors."""
        return self._rendering.page(request, "message.html", status, code=status, text=hidden(text))

    def failed(self, request: Request, error: Exception) -> Response:
        """The page for an error that a handler raised."""
        if isinstance(error, HTTPException):
            text = "There is no page with this address." if error.detail == "Not Found" else error.detail
            response = self.message(request, error.status_code, text)
            response.headers.update(error.headers or {})  # such as Allow
            return response
        kinds: list[tuple[type[Exception], int]] = [
            (JobNotFound, 404),
            (BackendUnavailable, 503),
            (ConfigurationError, 400),
        ]
        status = next((status for kind, status in kinds if isinstance(error, kind)), 500)
        return self.message(request, status, str(error))

    def note(self, job: JobStatus) -> str:
        """Why the job was cancelled, or its latest error, or its progress, in one line."""
        if job.reason is not None:
            return hidden(job.reason)
        if job.error is not None:
            return shortened(hidden(f"{job.error.type}: {job.error.message}".partition("\n")[0]), 160)
        if job.progress is not None and not job.finished:
            return shortened(hidden(job.progress.message or ""), 160)
        return ""


class Found(NamedTuple):
    """The jobs of a page."""

    jobs: Sequence[JobStatus]
    after: str | None = None
    """The id of the job after which the next page begins; None on the last page."""
    stopped: bool = False
    """Whether the search for a text has taken too long, so that the page may have too few jobs."""


def search(operations: Operations, query: Query) -> Found:
    """One page of the jobs that match the query. A search for a text ends after TEXT_SECONDS."""
    if query.text is None:
        found = operations.find(replace(query, limit=query.limit + 1))
        jobs = found[: query.limit]
        return Found(jobs, jobs[-1].id if len(found) > query.limit else None)
    containing, after = list[JobStatus](), query.after
    for records in read_until(operations, query, time.monotonic() + TEXT_SECONDS):
        for record in records:
            if len(containing) == query.limit:
                return Found(containing, after)
            after = record.id
            if query.text.encode() in record.payload:
                containing.append(operations.status(record))
        if len(records) < PAGE:
            return Found(containing)
    return Found(containing, after, stopped=True)


def read_until(operations: Operations, query: Query, end: float) -> Iterator[Sequence[Record]]:
    """The records that match the query apart from its text, in pages of PAGE, until this time of the monotonic clock.

    The last page is shorter than PAGE, unless the time is over.
    """
    page = replace(query, text=None, limit=PAGE)
    records: Sequence[Record] = operations.store.find(page)
    if not records and query.after is not None:
        operations.read(query.after)  # raises JobNotFound
    yield records
    while len(records) == PAGE and time.monotonic() < end:
        records = operations.store.find(replace(page, after=records[-1].id))
        yield records


def moment_of(name: str, text: str) -> float | datetime | None:
    """A time of a filter: the number of seconds ago, such as "2h", or a time in ISO 8601, in UTC if it has no zone.

    Raises ConfigurationError.
    """
    if not text:
        return None
    try:
        if "-" not in text:
            return float(duration(text))
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{name}={text!r:.80} is not a time: write for example 2h or 2026-01-31T08:00Z"
        ) from None


def timeline(job: JobStatus) -> list[tuple[str, datetime, str]]:
    """What happened to the job and what will happen, by time. Each event has a name, a time and a state, its colour."""
    failed = [(f"Attempt {error.attempt}: {error.type}", error.at, "dead") for error in job.errors]
    events: list[tuple[str, datetime | None, str]] = [
        ("Enqueued", job.enqueued_at, "scheduled"),
        ("Earliest start", job.run_at, "scheduled"),
        (f"Attempt {job.attempts} started", job.started_at, "running"),
        *failed,
        (job.state.value.capitalize(), job.finished_at, job.state.value),
        ("Next attempt", job.next_attempt_at, "retrying"),
    ]
    known = [(name, at, state) for name, at, state in events if at is not None]
    return sorted(known, key=lambda event: event[1])

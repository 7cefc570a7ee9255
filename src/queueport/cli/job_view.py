"""Jobs as people look at them: a table of many, the details of one, one as it runs. For the commands."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from queueport.cli import output
from queueport.cli.logs import one_line
from queueport.errors import ResultTimeout
from queueport.queue import JobQueue
from queueport.status import JobError, JobStatus

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["details", "follow", "job_table"]

REFRESH = 0.25
"""Seconds between two looks at a job that is followed."""
NOTE = 100
"""Characters of an error in a table of jobs."""


def job_table(jobs: Iterable[JobStatus]) -> "Table":
    """One row a job."""
    rows = [
        (
            j.id,
            j.task,
            j.queue,
            j.state,
            f"{j.failures}/{j.max_attempts}",
            output.ago(j.enqueued_at),
            output.one_row(note(j)),
        )
        for j in jobs
    ]
    return output.table(("id", "task", "queue", "state", ">failed", ">age", "note"), rows)


def note(job: JobStatus) -> str:
    """What is worth knowing of a job beside its state, in one line."""
    if job.reason is not None:
        return job.reason
    if job.error is not None:
        return output.shortened(f"{job.error.type}: {job.error.message}".partition("\n")[0], NOTE)
    return "" if job.progress is None or job.finished else progress(job)


def progress(job: JobStatus) -> str:
    """How far it says it is."""
    if job.progress is None:
        return ""
    total = "" if job.progress.total is None else f"/{job.progress.total:g}"
    return f"{job.progress.current:g}{total} {job.progress.message or ''}".rstrip()


def details(job: JobStatus) -> "Sequence[RenderableType]":
    """All there is to know of a job, its latest traceback last."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    for name, value in _fields(job):
        if value not in (None, "", [], {}):
            grid.add_row(name, output.safe(output.shortened(_text(value))))
    for error in job.errors:
        grid.add_row("failed", output.safe(output.shortened(_failure(error))))
    last = job.errors[-1].traceback.rstrip() if job.errors else ""
    return (grid, output.safe(f"\n{last}")) if last else (grid,)


def _fields(job: JobStatus) -> Iterator[tuple[str, Any]]:
    yield "job", job.id
    yield "task", job.task
    yield "queue", job.queue
    yield "state", job.state.value
    yield "reason", job.reason
    yield "arguments", job.args
    yield "by name", job.kwargs
    yield "result", job.result
    yield "progress", progress(job)
    yield "key", job.key
    yield "headers", job.headers
    yield "attempts", job.attempts
    yield "failures", f"{job.failures} of {job.max_attempts}"
    yield "crashes", job.crashes or None
    yield "worker", job.worker
    yield "enqueued", job.enqueued_at
    yield "to run at", job.run_at
    yield "next attempt", job.next_attempt_at
    yield "started", job.started_at
    yield "finished", job.finished_at


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S} UTC"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _failure(error: JobError) -> str:
    return f"attempt {error.attempt}, {_text(error.at)}: {error.type}: {error.message}"


def follow(queue: JobQueue, job_id: str, *, as_json: bool) -> JobStatus:
    """Show a job until it ends, each change of it; its last status. Raises JobNotFound."""
    last = queue.status(job_id)
    if as_json or not output.terminal():
        for job in _changes(queue, last):
            last = job
            if as_json:
                output.document(job.as_dict())
            else:
                output.line(one_line(f"{job.id} {job.state} {note(job)}"))
        return last
    from rich.live import Live

    with Live(_moving(last), console=output.console()) as live:
        for job in _changes(queue, last):
            last = job
            live.update(_moving(job))
    return last


def _changes(queue: JobQueue, job: JobStatus) -> Iterator[JobStatus]:
    """The job now, and again after each change, until it has ended."""
    shown = None
    while True:
        seen = (job.state, job.attempts, job.progress)
        if seen != shown:
            shown = seen
            yield job
        if job.finished:
            return
        with suppress(ResultTimeout):
            queue.wait(job.id, REFRESH)
        job = queue.status(job.id)


def _moving(job: JobStatus) -> "RenderableType":
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    cells: list[RenderableType] = [output.safe(job.id), output.safe(job.task), job.state.value]
    if job.progress is not None and job.progress.total is not None and not job.finished:
        cells.append(ProgressBar(job.progress.total, job.progress.current, width=30))
    grid.add_row(*cells, output.safe(note(job)))
    return grid

"""Shows jobs as text: a table of jobs, the details of one job, or each change of one job. For the commands."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from queueport.cli import output
from queueport.errors import QueueportError
from queueport.queue import JobQueue
from queueport.status import JobStatus

if TYPE_CHECKING:
    from rich.console import RenderableType

    from queueport.cli.tables import Table

POLL = 0.25
"""Maximum seconds that `status --follow` waits between two reads of the job's status."""
NOTE = 100
"""The maximum number of characters of an error in a table of jobs, without the note that tells the full length."""


def job_table(jobs: Iterable[JobStatus]) -> "Table":
    """A table with one row for each job."""
    rows = [
        (
            j.id,
            j.task,
            j.queue,
            j.state,
            f"{j.failures}/{j.max_attempts}" if j.max_attempts is not None else str(j.failures),
            output.ago(j.enqueued_at),
            _note(j),
        )
        for j in jobs
    ]
    return output.table(("id", "task", "queue", "state", ">failed", ">age", "note"), rows, ids="id")


def _note(job: JobStatus) -> str:
    """A note about the job: why it was cancelled, else its latest error, else its progress if the job has not ended."""
    if job.reason is not None:
        return job.reason
    if job.error is not None:
        return output.shortened(f"{job.error.type}: {job.error.message}".partition("\n")[0], NOTE)
    return "" if job.finished else _progress(job)


def _progress(job: JobStatus) -> str:
    """The progress that the task has reported, as text; empty if there is none."""
    if job.progress is None:
        return ""
    total = "" if job.progress.total is None else f"/{job.progress.total:g}"
    return f"{job.progress.current:g}{total} {job.progress.message or ''}".rstrip()


def details(job: JobStatus) -> "Sequence[RenderableType]":
    """All fields of a job that have a value, then its errors, then the latest traceback.

    Long values and errors are shortened; the traceback is shown in full.
    """
    rows = [(name, output.shortened(_text(value))) for name, value in _fields(job) if value not in (None, "", [], {})]
    for error in job.errors:
        failure = f"attempt {error.attempt}, {_text(error.at)}: {error.type}: {error.message}"
        rows.append(("failed", output.shortened(failure)))
    made = output.table(("", ""), rows, multiline=True)
    traceback = job.errors[-1].traceback.rstrip() if job.errors else ""
    return (made, output.escaped(traceback)) if traceback else (made,)


def _fields(job: JobStatus) -> Iterator[tuple[str, Any]]:
    yield "job", job.id
    yield "task", job.task
    yield "queue", job.queue
    yield "state", job.state.value
    yield "reason", job.reason
    yield "replay of", job.replay_of
    yield "waits for", f"{job.waits_for} jobs" if job.waits_for else None
    yield "parents", job.parents
    yield "children", job.children
    yield "batch", job.batch
    yield "after batch", job.after_batch
    yield "arguments", job.args
    yield "keywords", job.kwargs
    yield "result", job.result
    yield "progress", _progress(job)
    yield "key", job.key
    yield "headers", job.headers
    yield "tags", job.tags
    yield "attempts", job.attempts
    yield "failures", job.failures if job.max_attempts is None else f"{job.failures} of {job.max_attempts}"
    yield "crashes", job.crashes or None
    yield "worker", job.worker
    yield "enqueued", job.enqueued_at
    yield "run at", job.run_at
    yield "next attempt", job.next_attempt_at
    yield "started", job.started_at
    yield "finished", job.finished_at


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S} UTC"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def follow(queue: JobQueue, job_id: str, *, as_json: bool) -> JobStatus:
    """Show the changes of a job until the job reaches a final state. Returns the last status.

    Changes between two reads are shown as one change. Raises JobNotFound, and BackendUnavailable.
    """
    latest = queue.status(job_id)
    if as_json or not sys.stdout.isatty():
        for job in _changes(queue, latest):
            latest = job
            if as_json:
                output.print_json(job.as_dict())
            else:
                output.print_line(output.one_line(f"{job.id} {job.state} {_note(job)}"))
        return latest
    from rich.live import Live

    with Live(_live_row(latest), console=output.console()) as live:
        for job in _changes(queue, latest):
            latest = job
            live.update(_live_row(job))
    return latest


def _changes(queue: JobQueue, job: JobStatus) -> Iterator[JobStatus]:
    """Yield `job`, then each status that differs from the status yielded before in state, attempts or progress.

    Ends after a status of an ended job.
    """
    shown = None
    while True:
        seen = (job.state, job.attempts, job.progress)
        if seen != shown:
            shown = seen
            yield job
        if job.finished:
            return
        with suppress(QueueportError):  # this call only waits; the next line reads the new status
            queue.result(job.id, POLL)
        job = queue.status(job.id)


def _live_row(job: JobStatus) -> "RenderableType":
    from rich.console import Group
    from rich.progress_bar import ProgressBar

    parts: list[RenderableType] = [output.escaped(f"{job.id}  {job.task}  {job.state}")]
    if job.progress is not None and job.progress.total is not None and not job.finished:
        parts.append(ProgressBar(job.progress.total, job.progress.current, width=30))
    if note := _note(job):
        parts.append(output.escaped(note))
    return Group(*parts)

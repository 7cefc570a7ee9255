"""`queueport status`, `jobs`, `retry`, `cancel`, `purge` and `dead`: inspect and change jobs. For operators."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from queueport.cli import output
from queueport.cli.exit_codes import FAILED, print_error
from queueport.cli.job_view import details, follow, job_table
from queueport.cli.options import After, ErrorFilter, JobId, Json, Limit, QueueFilter, TaskFilter, Watch
from queueport.cli.watching import show
from queueport.errors import ConfigurationError
from queueport.queue import JobQueue
from queueport.status import CancelOutcome, JobState, JobStatus

if TYPE_CHECKING:
    from rich.console import RenderableType


def status(
    queue: JobQueue,
    *,
    job_id: JobId,
    until_final: Annotated[bool, typer.Option("--follow", help="Show changes until the job ends.")] = False,
    watch: Watch = None,
    as_json: Json = False,
) -> None:
    """Show one job.

    With --follow the exit code is 1 if the job ends dead or cancelled.
    """
    if until_final and watch is not None:
        raise ConfigurationError("--follow and --watch exclude each other: give one of them")
    if not until_final:
        _print_job(lambda: queue.status(job_id), as_json, watch)
    elif follow(queue, job_id, as_json=as_json).state is not JobState.SUCCEEDED:
        raise typer.Exit(FAILED)


def list_jobs(
    queue: JobQueue,
    *,
    state: Annotated[JobState | None, typer.Option("--state", help="Only jobs in this state.")] = None,
    queue_name: QueueFilter = None,
    task: TaskFilter = None,
    limit: Limit = 100,
    after: After = None,
    watch: Watch = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    _print_jobs(lambda: queue.jobs(state, queue_name, task, limit, after), limit, as_json, watch)


def retry(queue: JobQueue, *, job_id: JobId, as_json: Json = False) -> None:
    """Queue a dead or cancelled job again, or a scheduled or retrying job now."""
    queue.retry(job_id)
    output.print_result({"id": job_id}, f"job {job_id} is queued", as_json)


def cancel(
    queue: JobQueue,
    *,
    job_id: JobId,
    interrupt: Annotated[
        bool, typer.Option("--interrupt/--no-interrupt", help="Interrupt the code of a running job.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Cancel a waiting job, or request that a running job stops.

    The exit code is 1 if the job has already ended.
    """
    outcome = queue.cancel(job_id, interrupt)
    if as_json:
        output.print_json({"id": job_id, "outcome": outcome.value})
    elif outcome in OUTCOMES:
        output.print_line(f"job {job_id} {OUTCOMES[outcome]}")
    if outcome is CancelOutcome.ALREADY_FINISHED:
        print_error(f"job {job_id} has already ended, so it cannot be cancelled")
        raise typer.Exit(FAILED)


OUTCOMES = {CancelOutcome.CANCELLED: "is cancelled", CancelOutcome.REQUESTED: "is running and was asked to stop"}


def purge(
    queue: JobQueue,
    *,
    queue_name: Annotated[str, typer.Argument(metavar="QUEUE", help="The queue to empty.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Cancel all waiting jobs of a queue."""
    _print_count(queue.purge(queue_name), "cancelled", as_json)


def list_dead(
    queue: JobQueue,
    *,
    queue_name: QueueFilter = None,
    task: TaskFilter = None,
    error: ErrorFilter = None,
    limit: Limit = 100,
    after: After = None,
    watch: Watch = None,
    as_json: Json = False,
) -> None:
    """List dead jobs with their errors, newest first."""
    _print_jobs(lambda: queue.dead_letters.list(queue_name, task, error, limit, after), limit, as_json, watch)


def show_dead(queue: JobQueue, *, job_id: JobId, as_json: Json = False) -> None:
    """Show one dead job: arguments, errors, traceback."""
    _print_job(lambda: queue.dead_letters.get(job_id), as_json)


def retry_dead(queue: JobQueue, *, job_id: JobId, as_json: Json = False) -> None:
    """Retry one dead job."""
    queue.dead_letters.retry(job_id)
    output.print_result({"id": job_id}, f"job {job_id} is queued", as_json)


def retry_all_dead(
    queue: JobQueue,
    queue_name: QueueFilter = None,
    task: TaskFilter = None,
    error: ErrorFilter = None,
    as_json: Json = False,
) -> None:
    """Retry every dead job that matches all given options."""
    _print_count(queue.dead_letters.retry_all(queue_name, task, error), "queued again", as_json)


def discard_dead(queue: JobQueue, *, job_id: JobId, as_json: Json = False) -> None:
    """Discard one dead job."""
    queue.dead_letters.discard(job_id)
    output.print_result({"id": job_id}, f"job {job_id} discarded", as_json)


def purge_dead(
    queue: JobQueue,
    *,
    queue_name: QueueFilter = None,
    older_than: Annotated[
        float | None, typer.Option("--older-than", min=0, help="Only jobs that died at least this many seconds ago.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Discard every dead job that matches all given options."""
    _print_count(queue.dead_letters.purge(queue_name, older_than), "discarded", as_json)


def _print_job(read: Callable[[], JobStatus], as_json: bool, watch: float | None = None) -> None:
    show(read, JobStatus.as_dict, details, as_json=as_json, watch=watch)


def _print_jobs(read: Callable[[], list[JobStatus]], limit: int, as_json: bool, watch: float | None) -> None:
    """Print one page of jobs, as JSON or as a table.

    If a table has `limit` jobs, also print the option for the next page, on standard error.
    """
    found: list[JobStatus] = []

    def table(jobs: list[JobStatus]) -> "Sequence[RenderableType]":
        found[:] = jobs
        return [job_table(jobs)]

    show(read, lambda jobs: [job.as_dict() for job in jobs], table, as_json=as_json, watch=watch)
    if len(found) == limit:
        typer.echo(f"for the next page, add --after {found[-1].id}", err=True)


def _print_count(count: int, change: str, as_json: bool) -> None:
    output.print_result({"count": count}, f"{count} {'job' if count == 1 else 'jobs'} {change}", as_json)

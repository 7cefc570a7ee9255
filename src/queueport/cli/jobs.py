"""`queueport status`, `jobs`, `retry`, `cancel` and `purge`: single jobs and lists of them. For operators."""

from typing import Annotated

import typer

from queueport.cli import output
from queueport.cli.connection import After, JobId, Json, Limit, OfQueue, OfTask
from queueport.cli.endings import FAILED, say
from queueport.cli.job_view import details, follow, job_table
from queueport.queue import JobQueue
from queueport.status import CancelOutcome, JobState, JobStatus

__all__ = ["cancel", "listing", "print_jobs", "purge", "retry", "status"]


def status(
    queue: JobQueue,
    *,
    job_id: JobId,
    watch: Annotated[bool, typer.Option("--follow", help="Show its progress until it ends.")] = False,
    as_json: Json = False,
) -> None:
    """Show one job.

    With --follow the exit code is 1 where it ends dead or cancelled.
    """
    if watch:
        last = follow(queue, job_id, as_json=as_json)
        if last.state is not JobState.SUCCEEDED:
            raise typer.Exit(FAILED)
    elif as_json:
        output.document(queue.status(job_id).as_dict())
    else:
        output.parts(*details(queue.status(job_id)))


def listing(
    queue: JobQueue,
    *,
    state: Annotated[JobState | None, typer.Option("--state", help="Only jobs in this state.")] = None,
    of_queue: OfQueue = None,
    task: OfTask = None,
    limit: Limit = 100,
    after: After = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    print_jobs(queue.jobs(state, of_queue, task, limit, after), limit, as_json=as_json)


def print_jobs(found: list[JobStatus], limit: int, *, as_json: bool) -> None:
    """One page of jobs, and how to get the next one."""
    if as_json:
        output.document([job.as_dict() for job in found])
        return
    output.parts(job_table(found))
    if len(found) == limit:
        typer.echo(f"there may be more: --after {found[-1].id}", err=True)


def retry(queue: JobQueue, *, job_id: JobId, as_json: Json = False) -> None:
    """Run a dead or cancelled job again, or a scheduled or retrying one now."""
    queue.retry(job_id)
    print_retried(job_id, as_json=as_json)


def print_retried(job_id: str, *, as_json: bool) -> None:
    """One job was revived."""
    if as_json:
        output.document({"id": job_id})
    else:
        output.line(f"job {job_id} runs again")


def cancel(
    queue: JobQueue,
    *,
    job_id: JobId,
    interrupt: Annotated[
        bool, typer.Option("--interrupt/--no-interrupt", help="Interrupt the code of a running job.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Cancel a waiting job, or ask a running one to stop.

    The exit code is 1 where it had ended already.
    """
    outcome = queue.cancel(job_id, interrupt)
    if as_json:
        output.document({"id": job_id, "outcome": outcome.value})
    elif outcome is not CancelOutcome.ALREADY_FINISHED:
        output.line(f"job {job_id} {OUTCOMES[outcome]}")
    if outcome is CancelOutcome.ALREADY_FINISHED:
        say(f"job {job_id} had ended already: nothing was changed")
        raise typer.Exit(FAILED)


OUTCOMES = {CancelOutcome.CANCELLED: "is cancelled", CancelOutcome.REQUESTED: "runs and was asked to stop"}


def purge(
    queue: JobQueue,
    *,
    name: Annotated[str, typer.Argument(metavar="QUEUE", help="The queue to empty.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Cancel all jobs that wait in a queue."""
    print_count(queue.purge(name), "cancelled", as_json=as_json)


def print_count(count: int, what: str, *, as_json: bool) -> None:
    """How many jobs were changed."""
    if as_json:
        output.document({"count": count})
    else:
        output.line(f"{count} {'job' if count == 1 else 'jobs'} {what}")

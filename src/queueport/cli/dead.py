"""`queueport dead`: look at the jobs that were given up, run them again or throw them away. For operators."""

from typing import Annotated

import typer

from queueport.cli import jobs, output
from queueport.cli.connection import After, JobId, Json, Limit, OfQueue, OfTask, WithError
from queueport.cli.job_view import details
from queueport.queue import JobQueue

__all__ = ["discard", "listing", "purge", "retry", "retry_all", "show"]


def listing(
    queue: JobQueue,
    *,
    of_queue: OfQueue = None,
    task: OfTask = None,
    error: WithError = None,
    limit: Limit = 100,
    after: After = None,
    as_json: Json = False,
) -> None:
    """List dead jobs with their errors, newest first."""
    jobs.print_jobs(queue.dead_letters.list(of_queue, task, error, limit, after), limit, as_json=as_json)


def show(queue: JobQueue, *, job_id: JobId, as_json: Json = False) -> None:
    """Show one dead job: arguments, errors, traceback."""
    found = queue.dead_letters.get(job_id)
    if as_json:
        output.document(found.as_dict())
    else:
        output.parts(*details(found))


def retry(queue: JobQueue, *, job_id: JobId, as_json: Json = False) -> None:
    """Run one dead job again."""
    queue.dead_letters.retry(job_id)
    jobs.print_retried(job_id, as_json=as_json)


def retry_all(
    queue: JobQueue, of_queue: OfQueue = None, task: OfTask = None, error: WithError = None, as_json: Json = False
) -> None:
    """Run all dead jobs again that match all that is given."""
    jobs.print_count(queue.dead_letters.retry_all(of_queue, task, error), "run again", as_json=as_json)


def discard(queue: JobQueue, *, job_id: JobId, as_json: Json = False) -> None:
    """Throw one dead job away."""
    queue.dead_letters.discard(job_id)
    if as_json:
        output.document({"id": job_id})
    else:
        output.line(f"job {job_id} is discarded")


def purge(
    queue: JobQueue,
    *,
    of_queue: OfQueue = None,
    older_than: Annotated[
        float | None, typer.Option("--older-than", min=0, help="Only jobs that died so many seconds ago, or longer.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Throw all dead jobs away, or those of a queue, or the old ones."""
    jobs.print_count(queue.dead_letters.purge(of_queue, older_than), "discarded", as_json=as_json)

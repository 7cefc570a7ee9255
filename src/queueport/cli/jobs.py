"""`queueport status`, `jobs`, `retry`, `cancel`, `purge` and `dead`: inspect and change jobs. For operators."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from queueport.cli import bulk, output
from queueport.cli.bulk import CANCEL, DISCARD, PURGE, RETRY, Flags, Rate, change_many
from queueport.cli.exit_codes import FAILED, print_error
from queueport.cli.job_view import details, follow, job_table
from queueport.cli.options import (
    SECONDS,
    After,
    AnyJobId,
    DryRun,
    Filters,
    JobId,
    Json,
    Limit,
    Watch,
    Yes,
    parse_seconds,
    with_filters,
)
from queueport.cli.queue_names import known_queues, note_unused
from queueport.cli.watching import show
from queueport.engine.arguments import queue_name as checked_name
from queueport.engine.arguments import unfinished
from queueport.engine.bulk import cancelling, purging
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


@with_filters
def list_jobs(
    queue: JobQueue,
    *,
    state: Annotated[JobState | None, typer.Option("--state", help="Only jobs in this state.")] = None,
    limit: Limit = 100,
    after: After = None,
    given: Filters,
    watch: Watch = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""

    def read() -> list[JobStatus]:
        return queue.jobs(state, limit=limit, after=after, **given)

    _print_jobs(read, limit, as_json, watch)


def retry(queue: JobQueue, *, job_id: JobId, as_json: Json = False) -> None:
    """Queue a dead or cancelled job again, or a scheduled or retrying job now."""
    queue.retry(job_id)
    output.print_result({"id": job_id}, f"job {job_id} is queued", as_json)


@with_filters
def cancel(
    queue: JobQueue,
    *,
    job_id: AnyJobId = None,
    state: Annotated[JobState | None, typer.Option("--state", help="Only jobs in this state.")] = None,
    interrupt: Annotated[
        bool, typer.Option("--interrupt/--no-interrupt", help="Interrupt the code of a running job.")
    ] = True,
    dry_run: DryRun = False,
    yes: Yes = False,
    rate: Rate = None,
    given: Filters,
    as_json: Json = False,
) -> None:
    """Cancel a waiting job, or request that a running job stops.

    With filters instead of an id, this changes every job that matches all of them and has not ended. With an id, the
    exit code is 1 if the job has already ended.
    """
    if job_id is None:
        if not given and state is None:
            raise ConfigurationError("give the id of a job, or at least one filter, such as --queue NAME")
        states = unfinished(state, filtered=True)
        change = cancelling(queue.operations, bulk.query_of(queue, given), states, interrupt=interrupt)
        change_many(change, CANCEL, Flags(dry_run, yes, rate, as_json))
        return
    _refuse_filters(given or state, rate, dry_run)
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
    dry_run: DryRun = False,
    yes: Yes = False,
    rate: Rate = None,
    as_json: Json = False,
) -> None:
    """Cancel all waiting jobs of a queue."""
    change, known = purging(queue.operations, checked_name(queue_name)), known_queues(queue)
    change_many(change, PURGE, Flags(dry_run, yes, rate, as_json))
    note_unused(queue_name, known)


@with_filters
def list_dead(
    queue: JobQueue,
    *,
    limit: Limit = 100,
    after: After = None,
    given: Filters,
    watch: Watch = None,
    as_json: Json = False,
) -> None:
    """List dead jobs with their errors, newest first."""

    def read() -> list[JobStatus]:
        return queue.dead_letters.list(limit=limit, after=after, **given)

    _print_jobs(read, limit, as_json, watch)


def show_dead(queue: JobQueue, *, job_id: JobId, as_json: Json = False) -> None:
    """Show one dead job: arguments, errors, traceback."""
    _print_job(lambda: queue.dead_letters.get(job_id), as_json)


@with_filters
def retry_dead(
    queue: JobQueue,
    *,
    job_id: AnyJobId = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    rate: Rate = None,
    given: Filters,
    as_json: Json = False,
) -> None:
    """Retry one dead job, or every dead job that matches all given filters."""
    if job_id is None:
        if not given:
            raise ConfigurationError(NO_FILTER.format("retry-all"))
        change_many(bulk.retry_dead(queue, given), RETRY, Flags(dry_run, yes, rate, as_json))
        return
    _refuse_filters(given, rate, dry_run)
    queue.dead_letters.retry(job_id)
    output.print_result({"id": job_id}, f"job {job_id} is queued", as_json)


@with_filters
def retry_all_dead(
    queue: JobQueue,
    *,
    dry_run: DryRun = False,
    yes: Yes = False,
    rate: Rate = None,
    given: Filters,
    as_json: Json = False,
) -> None:
    """Retry every dead job that matches all given filters; without filters, every dead job."""
    change_many(bulk.retry_dead(queue, given), RETRY, Flags(dry_run, yes, rate, as_json))


@with_filters
def discard_dead(
    queue: JobQueue,
    *,
    job_id: AnyJobId = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    rate: Rate = None,
    given: Filters,
    as_json: Json = False,
) -> None:
    """Discard one dead job, or every dead job that matches all given filters."""
    if job_id is None:
        if not given:
            raise ConfigurationError(NO_FILTER.format("purge"))
        change_many(bulk.discard_dead(queue, given), DISCARD, Flags(dry_run, yes, rate, as_json))
        return
    _refuse_filters(given, rate, dry_run)
    queue.dead_letters.discard(job_id)
    output.print_result({"id": job_id}, f"job {job_id} discarded", as_json)


@with_filters
def purge_dead(
    queue: JobQueue,
    *,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than", parser=parse_seconds, metavar=SECONDS, help="Only jobs that died at least so long ago."
        ),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    rate: Rate = None,
    given: Filters,
    as_json: Json = False,
) -> None:
    """Discard every dead job that matches all given filters; without filters, every dead job."""
    change_many(bulk.discard_dead(queue, given, older_than), DISCARD, Flags(dry_run, yes, rate, as_json))


NO_FILTER = "give the id of a job, or filters; for all dead jobs, run `queueport dead {}`"


def _refuse_filters(given: object, rate: float | None, dry_run: bool) -> None:
    """Raise ConfigurationError if filters, --rate or --dry-run are given, for a command that also has an id."""
    if given or rate is not None or dry_run:
        raise ConfigurationError(
            "an id cannot be combined with filters, --rate or --dry-run: leave out the id, or the options"
        )


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

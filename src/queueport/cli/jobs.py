"""`queueport status`, `jobs`, `retry`, `cancel`, `purge` and `dead`: inspect and change jobs. For operators."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from queueport.cli import output
from queueport.cli.exit_codes import FAILED, print_error
from queueport.cli.job_view import details, follow, job_table
from queueport.cli.options import (
    After,
    AnyJobId,
    DryRun,
    Filters,
    JobId,
    Json,
    Limit,
    Watch,
    Yes,
    with_filters,
)
from queueport.cli.watching import show
from queueport.dead_letters import DeadLetters
from queueport.engine.arguments import unfinished
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
    given: Filters,
    as_json: Json = False,
) -> None:
    """Cancel a waiting job, or request that a running job stops.

    With filters instead of an id, this changes every job that matches all of them and has not ended. With an id, the
    exit code is 1 if the job has already ended.
    """
    if job_id is None:
        states = unfinished(state, filtered=bool(given) or state is not None)
        matching = Matching(
            lambda: sum(queue.count(each, **given) for each in states),
            lambda limit: [job for each in states for job in queue.jobs(each, limit=limit, **given)][:limit],
        )
        cancel_all = partial(queue.cancel_all, state, interrupt=interrupt, **given)
        _change_many(matching, CANCEL, cancel_all, (dry_run, yes, as_json))
        return
    _refuse_filters(given or state, dry_run)
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
    given: Filters,
    as_json: Json = False,
) -> None:
    """Retry one dead job, or every dead job that matches all given filters."""
    if job_id is None:
        if not given:
            raise ConfigurationError(NO_FILTER.format("retry-all"))
        _retry_many(queue, given, (dry_run, yes, as_json))
        return
    _refuse_filters(given, dry_run)
    queue.dead_letters.retry(job_id)
    output.print_result({"id": job_id}, f"job {job_id} is queued", as_json)


@with_filters
def retry_all_dead(
    queue: JobQueue,
    *,
    dry_run: DryRun = False,
    yes: Yes = False,
    given: Filters,
    as_json: Json = False,
) -> None:
    """Retry every dead job that matches all given filters; without filters, every dead job."""
    _retry_many(queue, given, (dry_run, yes, as_json))


@with_filters
def discard_dead(
    queue: JobQueue,
    *,
    job_id: AnyJobId = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    given: Filters,
    as_json: Json = False,
) -> None:
    """Discard one dead job, or every dead job that matches all given filters."""
    if job_id is None:
        if not given:
            raise ConfigurationError(NO_FILTER.format("purge"))
        _discard_many(queue, None, given, (dry_run, yes, as_json))
        return
    _refuse_filters(given, dry_run)
    queue.dead_letters.discard(job_id)
    output.print_result({"id": job_id}, f"job {job_id} discarded", as_json)


@with_filters
def purge_dead(
    queue: JobQueue,
    *,
    older_than: Annotated[
        float | None, typer.Option("--older-than", min=0, help="Only jobs that died at least this many seconds ago.")
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    given: Filters,
    as_json: Json = False,
) -> None:
    """Discard every dead job that matches all given filters; without filters, every dead job."""
    _discard_many(queue, older_than, given, (dry_run, yes, as_json))


Flags = tuple[bool, bool, bool]
"""The options --dry-run, --yes and --json."""
Words = tuple[str, str, str]
"""What a command does to jobs: the verb, its participle, and what is printed with the number of changed jobs."""
CANCEL = "cancel", "cancelled", "cancelled or asked to stop"
RETRY = "retry", "retried", "queued again"
DISCARD = "discard", "discarded", "discarded"


NO_FILTER = "give the id of a job, or filters; for all dead jobs, run `queueport dead {}`"


class Matching(NamedTuple):
    """The jobs that a command changes: their number, and the first of them, up to a limit."""

    number: Callable[[], int]
    first: Callable[[int], Sequence[JobStatus]]


def _retry_many(queue: JobQueue, given: Filters, flags: Flags) -> None:
    letters = queue.dead_letters
    _change_many(_dead(letters, given), RETRY, partial(letters.retry_all, **given), flags)


def _discard_many(queue: JobQueue, older_than: float | None, given: Filters, flags: Flags) -> None:
    letters = queue.dead_letters
    purge = partial(letters.purge, older_than=older_than, **given)
    _change_many(_dead(letters, given, older_than), DISCARD, purge, flags)


def _dead(letters: DeadLetters, given: Filters, older_than: float | None = None) -> Matching:
    return Matching(
        partial(letters.count, older_than=older_than, **given),
        lambda limit: letters.list(limit=limit, older_than=older_than, **given),
    )


def _refuse_filters(given: object, dry_run: bool) -> None:
    """Raise ConfigurationError if filters or --dry-run are given, for a command that also has an id."""
    if given or dry_run:
        raise ConfigurationError("an id cannot be combined with filters or --dry-run: leave out the id, or the options")


def _change_many(matching: Matching, words: Words, change: Callable[[], int], flags: Flags) -> None:
    """Change the matching jobs, and print their number.

    With --dry-run, prints the number of the jobs and the first ids instead. On a terminal, without --yes, asks first.
    """
    dry_run, yes, as_json = flags
    verb, participle, changed = words
    if dry_run or (_asks() and not yes):
        count = matching.number()
        jobs = f"{count} {'job' if count == 1 else 'jobs'}"
        if dry_run:
            ids = [job.id for job in matching.first(SHOWN)]
            such = f", such as {', '.join(ids)}" if count > len(ids) else f": {', '.join(ids)}" if ids else ""
            output.print_result({"count": count, "ids": ids}, f"{jobs} would be {participle}{such}", as_json)
            return
        if count and not typer.confirm(f"{verb} {jobs}?", err=True):
            print_error("nothing was changed")
            raise typer.Exit(FAILED)
    _print_count(change(), changed, as_json)


def _asks() -> bool:
    return sys.stdin.isatty()


SHOWN = 10
"""The number of ids that --dry-run prints."""


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

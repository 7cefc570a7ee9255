"""Changes many jobs, or with `--dry-run` shows which ones, and asks first on a terminal. For the commands."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import typer

from queueport.cli import output
from queueport.cli.exit_codes import FAILED, print_error
from queueport.cli.options import Filters
from queueport.queue import JobQueue
from queueport.queue.dead_letters import DeadLetters
from queueport.status import JobState, JobStatus

Flags = tuple[bool, bool, bool]
"""The options --dry-run, --yes and --json."""
Words = tuple[str, str, str]
"""What a command does to jobs: the verb, its participle, and what is printed with the number of changed jobs."""
CANCEL = "cancel", "cancelled", "cancelled or asked to stop"
RETRY = "retry", "retried", "queued again"
DISCARD = "discard", "discarded", "discarded"


class Matching(NamedTuple):
    """The jobs that a command changes: their number, and the first of them, up to a limit."""

    number: Callable[[], int]
    first: Callable[[int], Sequence[JobStatus]]


def alive_jobs(queue: JobQueue, states: Sequence[JobState], given: Filters) -> Matching:
    """The jobs in these states that match the filters."""
    return Matching(
        lambda: sum(queue.count(each, **given) for each in states),
        lambda limit: [job for each in states for job in queue.jobs(each, limit=limit, **given)][:limit],
    )


def dead_jobs(letters: DeadLetters, given: Filters, older_than: float | None = None) -> Matching:
    """The dead jobs that match the filters, and died at least `older_than` seconds ago."""
    return Matching(
        partial(letters.count, older_than=older_than, **given),
        lambda limit: letters.list(limit=limit, older_than=older_than, **given),
    )


def change_many(matching: Matching, words: Words, change: Callable[[], int], flags: Flags) -> None:
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
    print_count(change(), changed, as_json)


def _asks() -> bool:
    return sys.stdin.isatty()


SHOWN = 10
"""The number of ids that --dry-run prints."""


def print_count(count: int, change: str, as_json: bool) -> None:
    """Print the number of changed jobs."""
    output.print_result({"count": count}, f"{count} {'job' if count == 1 else 'jobs'} {change}", as_json)

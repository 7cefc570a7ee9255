"""Changes many jobs, or with `--dry-run` shows which ones, and asks first on a terminal. For the commands."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NamedTuple, Self

import typer

from queueport.cli import output
from queueport.cli.exit_codes import FAILED, INTERRUPTED, print_error
from queueport.cli.options import Filters, parse_rate
from queueport.engine.arguments import filters
from queueport.engine.bulk import BulkChange, discarding, retrying
from queueport.engine.operations import Changed
from queueport.errors import QueueportError
from queueport.queue import JobQueue
from queueport.spi.store import Query
from queueport.status import JobState

Rate = Annotated[
    float | None,
    typer.Option("--rate", parser=parse_rate, metavar="N", help="Change at most N jobs a second.", show_default=False),
]


class Flags(NamedTuple):
    """The options --dry-run, --yes, --rate and --json."""

    dry_run: bool
    yes: bool
    rate: float | None
    as_json: bool


Words = tuple[str, str, str]
"""What a command does to jobs: the verb, its participle, and what is printed with the number of changed jobs."""
CANCEL = "cancel", "cancelled", "cancelled or asked to stop"
RETRY = "retry", "retried", "queued again"
DISCARD = "discard", "discarded", "discarded"
PURGE = "cancel", "cancelled", "cancelled"


def query_of(queue: JobQueue, given: Filters, **more: Any) -> Query:
    """The query of the filters, and of `more` arguments of `filters`."""
    own: dict[str, Any] = {name: value for name, value in given.items() if name in ("queue", "task", "error")}
    others: Any = {name: value for name, value in given.items() if name not in own}
    return filters(**own, **more, more=others, now=queue.operations.store.now)


def retry_dead(queue: JobQueue, given: Filters) -> BulkChange:
    """Retry the dead jobs that match the filters."""
    return retrying(queue.operations, query_of(queue, given, state=JobState.DEAD))


def discard_dead(queue: JobQueue, given: Filters, older_than: float | None = None) -> BulkChange:
    """Discard the dead jobs that match the filters, and died at least `older_than` seconds ago."""
    return discarding(queue.operations, query_of(queue, given, state=JobState.DEAD, older_than=older_than))


def change_many(change: BulkChange, words: Words, flags: Flags, besides: str = "") -> None:
    """Change the matching jobs, and print their number.

    With --dry-run, prints the number of the jobs and the first ids instead. On a terminal, without --yes, asks first.
    `besides` names what else is changed, and is shown after the number.
    """
    verb, participle, changed = words
    count = None
    if flags.dry_run or (_asks() and not flags.yes):
        count = change.count()
        jobs = f"{count} {'job' if count == 1 else 'jobs'}"
        if flags.dry_run:
            ids = [job.id for job in change.first(SHOWN)]
            such = f", such as {', '.join(ids)}" if count > len(ids) else f": {', '.join(ids)}" if ids else ""
            text = f"{jobs}{besides} would be {participle}{such}"
            output.print_result({"count": count, "ids": ids}, text, flags.as_json)
            return
        if (count or besides) and not typer.confirm(f"{verb} {jobs}{besides}?", err=True):
            print_error("nothing was changed")
            raise typer.Exit(FAILED)
    run_change(change, changed, flags.rate, as_json=flags.as_json, total=count)


def _asks() -> bool:
    return sys.stdin.isatty()


SHOWN = 10
"""The number of ids that --dry-run prints."""


def run_change(
    change: BulkChange, changed: str, rate: float | None, *, as_json: bool, total: int | None = None
) -> None:
    """Change the jobs, and print their number; on a terminal, meanwhile also the numbers so far.

    After Ctrl-C, ends with the present page of jobs, prints the number, and exits with code 130. `total` is the number
    of matching jobs, if it is known.
    """
    stop, done = threading.Event(), Changed()
    line = Line(changed, total)
    try:
        with _until_interrupted(stop), line:
            for done in change.pages(rate, stop):
                line.show(done)
    except QueueportError:
        if done.changed:
            typer.echo(f"before the error: {sentence(done, changed)}", err=True)
        raise
    output.print_result({"count": done.changed}, sentence(done, changed), as_json)
    if stop.is_set():
        print_error("interrupted: the jobs of later pages were not changed; run the command again to change them")
        raise typer.Exit(INTERRUPTED)


def sentence(done: Changed, changed: str, total: int | None = None) -> str:
    """The numbers of changed and skipped jobs."""
    number = f"{done.changed}" if total is None else f"{done.changed} of {total}"
    skipped = f", {done.skipped} skipped" if done.skipped else ""
    return f"{number} {'job' if (total or done.changed) == 1 else 'jobs'} {changed}{skipped}"


@contextmanager
def _until_interrupted(stop: threading.Event) -> Iterator[None]:
    """Set the event at Ctrl-C. A second Ctrl-C raises KeyboardInterrupt."""

    def interrupt(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Line:
    """The line on a terminal with the numbers so far. It is removed at the end."""

    def __init__(self, changed: str, total: int | None) -> None:
        self._changed = changed
        self._total = total
        self._started = time.monotonic()
        self._shown_at: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown_at is not None:
            sys.stderr.write(CLEAR)
            sys.stderr.flush()

    def show(self, done: Changed) -> None:
        """Show the numbers at most once in SHOW_EVERY seconds. Does nothing if standard error is not a terminal."""
        now = time.monotonic()
        if not sys.stderr.isatty() or (self._shown_at is not None and now - self._shown_at < SHOW_EVERY):
            return
        self._shown_at = now
        speed = done.changed / max(now - self._started, 0.001)
        sys.stderr.write(f"{CLEAR}{sentence(done, self._changed, self._total)}, {speed:.3g} a second")
        sys.stderr.flush()


CLEAR = "\r\x1b[K"
SHOW_EVERY = 0.2
"""The minimum seconds between two lines."""

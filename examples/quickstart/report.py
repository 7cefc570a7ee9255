"""The output of the quickstart: a progress bar while jobs run, then tables of dead letters, results and stats."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from queueport import JobStatus, Stats
from queueport.stats import Counts
from quickstart.files import Found, printable
from quickstart.tasks import Measured

WIDTH = 140
"""The columns of output that is not a terminal: enough for a SHA-256 and a file name."""
ROWS = 10
"""Maximum number of files in a table."""

console = Console(width=None if sys.stdout.isatty() else WIDTH, markup=False, emoji=False, highlight=False)


def say(text: str, style: str | None = None) -> None:
    """Print a line, which the terminal may wrap."""
    console.print(text, style=style, soft_wrap=True)


def step(number: int, title: str) -> None:
    """Print the heading of a step."""
    say(f"\n{number}. {title}", style="bold")


def found(found: Found) -> None:
    """Print the number of files, and what was skipped."""
    skipped = ", ".join(f"{count} {printable(kind)}" for kind, count in sorted(found.skipped.items()))
    say(f"   {len(found.files)} files{f' (skipped: {skipped})' if skipped else ''}")


def progress() -> Progress:
    """Make the progress bar."""
    detail = TextColumn("{task.fields[detail]}")
    return Progress(TextColumn("  "), BarColumn(30), MofNCompleteColumn(), detail, TimeElapsedColumn(), console=console)


def detail(totals: Counts, running: Sequence[JobStatus]) -> str:
    """The text beside the progress bar: retries, dead jobs and the progress of one large file."""
    far = running[0].progress if running else None
    part = f", {far.current / far.total:.0%} of a large file" if far is not None and far.total else ""
    return f"{totals.retrying} waiting for a retry, {totals.dead} dead{part}"


def attempts(name: str, status: JobStatus) -> None:
    """Print the attempts of one job."""
    for error in status.errors:
        say(f"   {printable(name)}: attempt {error.attempt} failed: {_last(error.type)}: {printable(error.message)}")
    say(f"   {printable(name)}: {status.state} after {status.attempts} attempts", style="green")


def dead_letters(dead: Sequence[JobStatus], names: Mapping[str, str], total: int) -> None:
    """Print the dead jobs, newest first."""
    table = Table("file", "attempts", "error", "message", box=SIMPLE, padding=(0, 1, 0, 0))
    table.columns[3].overflow = "fold"
    for status in dead:
        if status.error is not None:
            about = (_last(status.error.type), printable(status.error.message))
            table.add_row(printable(names[status.id]), str(status.attempts), *about)
    console.print(table)
    _print_rest(total)


def results(measured: Mapping[Path, Measured], folder: Path) -> None:
    """Print the largest files, and the totals of all files."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), show_footer=True)
    for name in ("lines", "words", "size"):
        total = sum(getattr(one, name) for one in measured.values())
        table.add_column("bytes" if name == "size" else name, str(total), justify="right")
    table.add_column("SHA-256", overflow="fold")
    table.add_column("file", f"total of {len(measured)} files", overflow="fold")
    for path, one in sorted(measured.items(), key=lambda item: -item[1].size)[:ROWS]:
        name = printable(str(path.relative_to(folder)))
        table.add_row(str(one.lines), str(one.words), str(one.size), one.sha256, name)
    console.print(table)
    _print_rest(len(measured))


def stats(stats: Stats) -> None:
    """Print the counts that the store keeps."""
    states = ("scheduled", "queued", "running", "retrying", "succeeded", "dead", "cancelled")
    table = Table("queue", *states, box=SIMPLE, padding=(0, 1, 0, 0))
    for name, counts in stats.queues.items():
        table.add_row(name, *(str(getattr(counts, state)) for state in states))
    console.print(table)
    say(f"   {stats.processed} jobs ended, {stats.failed} attempts failed")


def _print_rest(total: int) -> None:
    if total > ROWS:
        say(f"   ... and {total - ROWS} more")


def _last(dotted: str) -> str:
    return dotted.rpartition(".")[2]

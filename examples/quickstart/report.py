"""What the quickstart prints: a live display while jobs run, then dead letters, results and stats as tables."""

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
"""Columns where no terminal says how many: wide enough for a SHA-256 beside its file."""
ROWS = 10
"""Files that a table shows at most."""

console = Console(width=None if sys.stdout.isatty() else WIDTH, markup=False, emoji=False, highlight=False)


def say(text: str, style: str | None = None) -> None:
    """A line, which the terminal may wrap."""
    console.print(text, style=style, soft_wrap=True)


def step(number: int, title: str) -> None:
    """The heading of a step."""
    say(f"\n{number}. {title}", style="bold")


def found(found: Found) -> None:
    """How much is to be done, and what was passed over."""
    skipped = ", ".join(f"{count} {printable(kind)}" for kind, count in sorted(found.skipped.items()))
    say(f"   {len(found.files)} files{f' (skipped: {skipped})' if skipped else ''}")


def progress() -> Progress:
    """The live display."""
    detail = TextColumn("{task.fields[detail]}")
    return Progress(TextColumn("  "), BarColumn(30), MofNCompleteColumn(), detail, TimeElapsedColumn(), console=console)


def detail(totals: Counts, running: Sequence[JobStatus]) -> str:
    """What is said beside the bar: deaths, retries, and how far a large file is."""
    far = running[0].progress if running else None
    part = f", {far.current / far.total:.0%} of a large file" if far is not None and far.total else ""
    return f"{totals.retrying} waiting for a retry, {totals.dead} dead{part}"


def attempts(name: str, status: JobStatus) -> None:
    """One job's history."""
    for error in status.errors:
        say(f"   {printable(name)}: attempt {error.attempt} failed: {_last(error.type)}: {printable(error.message)}")
    say(f"   {printable(name)}: {status.state} after {status.attempts} attempts", style="green")


def dead_letters(dead: Sequence[JobStatus], names: Mapping[str, str], total: int) -> None:
    """The jobs that were given up, newest first."""
    table = Table("file", "attempts", "error", "message", box=SIMPLE, padding=(0, 1, 0, 0))
    table.columns[3].overflow = "fold"
    for status in dead:
        if status.error is not None:
            about = (_last(status.error.type), printable(status.error.message))
            table.add_row(printable(names[status.id]), str(status.attempts), *about)
    console.print(table)
    _tell_more(total)


def results(measured: Mapping[Path, Measured], folder: Path) -> None:
    """The largest files one by one, and the sums over all."""
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
    _tell_more(len(measured))


def stats(stats: Stats) -> None:
    """The counts that the store keeps."""
    states = ("scheduled", "queued", "running", "retrying", "succeeded", "dead", "cancelled")
    table = Table("queue", *states, box=SIMPLE, padding=(0, 1, 0, 0))
    for name, counts in stats.queues.items():
        table.add_row(name, *(str(getattr(counts, state)) for state in states))
    console.print(table)
    say(f"   {stats.processed} jobs ended, {stats.failed} attempts failed")


def _tell_more(total: int) -> None:
    if total > ROWS:
        say(f"   ... and {total - ROWS} more")


def _last(dotted: str) -> str:
    return dotted.rpartition(".")[2]

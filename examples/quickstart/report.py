"""What the quickstart prints: progress while jobs run, then dead letters, results and stats as tables."""

import sys
from collections.abc import Sequence
from pathlib import Path

from queueport import JobStatus, Stats
from rich.box import SIMPLE
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from quickstart.files import Found, printable
from quickstart.tasks import Measured

LOG_WIDTH = 140
"""Columns where there is no terminal to ask: wide enough for a SHA-256 beside its file."""
SHOWN = 10
"""Rows of a table over files."""

console = Console(
    width=None if sys.stdout.isatty() else LOG_WIDTH, markup=False, emoji=False, highlight=False, soft_wrap=False
)


def say(text: str = "", style: str | None = None) -> None:
    """A line; long ones are left to the terminal to wrap."""
    console.print(text, style=style, soft_wrap=True)


def step(number: int, title: str) -> None:
    """The heading of a step."""
    say(f"\n{number}. {title}", style="bold")


def progress() -> Progress:
    """The live display of the run."""
    return Progress(
        TextColumn("   {task.description}"),
        BarColumn(30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        console=console,
    )


def detail(stats: Stats, running: Sequence[JobStatus]) -> str:
    """What stands beside the bar: retries, deaths, and how far the oldest running job is."""
    text = f"{stats.totals.retrying} wait for a retry, {stats.totals.dead} dead"
    far = running[-1].progress if running else None
    if far is None or not far.total or far.total == far.current:
        return text
    return f"{text}; {far.current / far.total:.0%} of {decimal(int(far.total))}"


def found(place: Found) -> None:
    """What is going to be measured, and what not."""
    skipped = ", ".join(f"{count} {name}" for name, count in sorted(place.skipped.items()))
    say(f"   {len(place.files)} files{'; skipped: ' + skipped if skipped else ''}")


def dead_letters(dead: Sequence[JobStatus], names: dict[str, str], total: int) -> None:
    """The jobs that were given up, newest first."""
    table = Table("file", "attempts", "error", "what it said", box=SIMPLE)
    for status in dead:
        if status.error is not None:
            kind = status.error.type.rpartition(".")[2]
            table.add_row(names[status.id], str(status.attempts), kind, printable(status.error.message))
    console.print(table)
    if total > len(dead):
        say(f"   ... and {total - len(dead)} more")


def results(measured: dict[Path, Measured], folder: Path) -> None:
    """The largest files one by one, and the sums over all."""
    table = Table("lines", "words", "bytes", "SHA-256", "file", box=SIMPLE, show_footer=True)
    for column in table.columns[:3]:
        column.justify = "right"
    table.columns[3].overflow = table.columns[4].overflow = "fold"
    largest = sorted(measured.items(), key=lambda item: -item[1].size)[:SHOWN]
    for path, one in largest:
        name = printable(str(path.relative_to(folder)))
        table.add_row(str(one.lines), str(one.words), str(one.size), one.sha256, name)
    for column, name in zip(table.columns, ("lines", "words", "size"), strict=False):
        column.footer = str(sum(getattr(one, name) for one in measured.values()))
    table.columns[4].footer = f"total of {len(measured)} files"
    console.print(table)
    if len(measured) > SHOWN:
        say(f"   (the {SHOWN} largest are shown)")


def stats(now: Stats) -> None:
    """The counts that the store keeps."""
    states = ("succeeded", "dead", "cancelled", "running", "retrying", "queued", "scheduled")
    table = Table("queue", *states, box=SIMPLE)
    for name, queue in now.queues.items():
        table.add_row(name, *(str(getattr(queue, state)) for state in states))
    console.print(table)
    say(f"   {now.processed} jobs ended, {now.failed} attempts failed, {len(now.workers)} worker alive")

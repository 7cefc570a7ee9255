"""`--watch`: prints what a command reads again and again, until Ctrl-C. For the commands."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from queueport.cli import output
from queueport.cli.exit_codes import print_error
from queueport.errors import BackendUnavailable

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

T = TypeVar("T")


def show(
    read: Callable[[], T],
    data: Callable[[T], object],
    parts: Callable[[T], Sequence[RenderableType]],
    *,
    as_json: bool,
    watch: float | None,
) -> None:
    """Print what `read` returns: its `data` as JSON if `as_json` is True, else its `parts`, one below the other.

    With `watch`, do so again and again, that many seconds after the previous time. A terminal then always shows the
    latest state in the same place. If the store or the backend does not answer any more, print that, and try again.
    """
    latest = read()
    if watch is None:
        if as_json:
            output.print_json(data(latest))
        else:
            output.print_parts(*parts(latest))
    elif as_json or not sys.stdout.isatty():
        was = None
        for value, problem in _readings(read, latest, watch):
            if problem is not None:
                if was is None:
                    print_error(f"{problem}; trying again until Ctrl-C")
            elif as_json:
                output.print_json(data(value))
            else:
                output.print_parts(*parts(value), "")
            was = problem
    else:
        _show_in_place(_readings(read, latest, watch), parts)


def _readings(read: Callable[[], T], latest: T, seconds: float) -> Iterator[tuple[T, str | None]]:
    """Yield the latest value that was read, and why it is not up to date; None if it is."""
    yield latest, None
    while True:
        time.sleep(seconds)
        try:
            latest = read()
            problem = None
        except BackendUnavailable as error:
            problem = str(error)
        yield latest, problem


def _show_in_place(readings: Iterator[tuple[T, str | None]], parts: Callable[[T], Sequence[RenderableType]]) -> None:
    from rich.console import Group
    from rich.live import Live

    read_at = datetime.now(UTC)
    with Live(console=output.console(), auto_refresh=False) as live:
        for value, problem in readings:
            shown: Group = Group(*parts(value))
            if problem is None:
                read_at = datetime.now(UTC)
            else:
                age = output.ago(read_at)
                shown = Group(shown, "", output.escaped(f"error: {output.one_line(problem)}; this was read {age} ago"))
            live.console.width = output.width()
            live.update(shown, refresh=True)

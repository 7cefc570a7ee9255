"""What commands print on standard output: JSON for scripts, tables for people. For the commands.

JSON is ASCII, one document a line, whatever the terminal. Text of an unknown origin never reaches the terminal as it
is: markup means nothing in it, and control characters are shown instead of obeyed.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

__all__ = ["age", "ago", "console", "document", "line", "one_row", "parts", "safe", "shortened", "table", "terminal"]

WIDE = 100_000
"""Columns of an output that is no terminal: nothing in it is folded."""
NARROW = 30
"""Columns that the last one of a table has at least; a narrow terminal then breaks the line."""
LONG = 2_000
"""Characters of one value that people are shown; `--json` has all of it."""


def document(value: object) -> None:
    """One JSON document on a line of its own."""
    sys.stdout.write(json.dumps(value, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def line(text: str) -> None:
    """One line of plain text."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def parts(*given: "RenderableType") -> None:
    """Tables and texts, one below the other."""
    console().print(*given, sep="\n", crop=False)


def terminal() -> bool:
    """Whether a person looks on."""
    return sys.stdout.isatty()


def console() -> "Console":
    """Where tables go; as wide as they need where nobody looks on."""
    from rich.console import Console

    class Output(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Output(highlight=False, markup=False, emoji=False, width=None if terminal() else WIDE)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], gap: int = 2) -> "Table":
    """A table; a column whose name begins with `>` is aligned to the right. Only the last column is ever folded."""
    from rich.table import Table
    from rich.text import Text

    cells = [
        [cell if isinstance(cell, Text) else safe("" if cell is None else str(cell)) for cell in row] for row in rows
    ]
    made = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    for place, column in enumerate(columns):
        name, last = column.lstrip(">"), place == len(columns) - 1
        side: Literal["left", "right"] = "right" if column.startswith(">") else "left"
        width = max([len(name), *(row[place].cell_len for row in cells)])
        made.add_column(
            name, justify=side, overflow="fold", no_wrap=not last, min_width=min(width, NARROW) if last else width
        )
    for row in cells:
        made.add_row(*row)
    return made


def safe(text: str) -> "Text":
    """The text as it may be printed, its line ends kept."""
    from rich.text import Text

    kept = "\n\t"
    return Text("".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text))


def one_row(text: str) -> "Text":
    """The text for a table's last column, cut off at the edge of a terminal."""
    made = safe(text)
    made.no_wrap, made.overflow = True, "ellipsis"
    return made


def shortened(text: str, length: int = LONG) -> str:
    """The text, or its beginning and how long it is."""
    return text if len(text) <= length else f"{text[:length]}… ({len(text)} characters)"


def ago(moment: datetime | None) -> str:
    """How long ago, for tables."""
    return "" if moment is None else age((datetime.now(UTC) - moment).total_seconds())


def age(seconds: float | None) -> str:
    """A duration in its largest unit."""
    if seconds is None:
        return ""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"

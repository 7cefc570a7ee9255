"""A table that fits the terminal: no column disappears, and no text is cut. For the commands.

If a table is too wide for the terminal, these steps are tried in order until it fits:

1. The last column, if it contains text, is folded into two lines, or printed below its row.
2. Job ids are shortened to the shortest beginnings that differ, with at least SHORT characters.
3. Other columns with text are folded, down to NARROW columns.
4. The columns are split into several tables, one below the other. Each begins with the columns that say what a row is
   about.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rich.cells import cell_len, chop_cells
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

SHORT = 8
"""The minimum number of characters of a shortened id."""
ID = 32
"""The maximum width of ids that are not folded: that of the ids that queueport makes."""
NARROW = 12
"""The width down to which a column with text may be folded."""
LAST = 30
"""The minimum width of a folded last column. If there is less room, its texts are printed below the rows."""
BREAKS = re.compile(r"[^\s._/:,-]*[\s._/:,-]*")
"""A piece of text after which a line may be broken."""
INDENT = 4
"""The number of blanks before a text that is printed below its row."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name, its cells, and whether it contains numbers (aligned to the right, never folded) or ids."""

    name: str
    cells: Sequence[str]
    number: bool = False
    ids: bool = False
    width: int = field(init=False)
    """The width that the column needs if no cell is folded."""

    def __post_init__(self) -> None:
        lines = (line for text in (self.name, *self.cells) for line in text.split("\n"))
        object.__setattr__(self, "width", max(map(cell_len, lines)))

    def narrowest(self) -> int:
        """The minimum width of the column."""
        if self.number or (self.ids and self.width <= ID):
            return self.width
        return min(self.width, max(NARROW, cell_len(self.name)))


@dataclass(frozen=True, slots=True)
class Table:
    """A renderable of rich. The first `keys` columns say what a row is about. `gap` is the width between columns."""

    columns: Sequence[Column]
    gap: int = 2
    keys: int = 1

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = Text(no_wrap=True, overflow="ignore", end="")
        for number, (columns, widths, below) in enumerate(self._parts(options.max_width)):
            if number:
                lines.append("\n")
            if any(column.name for column in columns):
                header = _row([[column.name] for column in columns], columns, widths, self.gap)
                name = "" if below is None else f"{' ' * INDENT}{below.name}\n"
                lines.append(f"{next(header)}\n{name}", style="bold")
            for row in range(len(columns[0].cells)):
                cells = [_folded(column.cells[row], width) for column, width in zip(columns, widths, strict=True)]
                for line in _row(cells, columns, widths, self.gap):
                    lines.append(f"{line}\n")
                if below is not None and below.cells[row]:
                    for line in _folded(below.cells[row], max(1, options.max_width - INDENT)):
                        lines.append(f"{' ' * INDENT}{line}\n")
        yield lines

    def _parts(self, room: int) -> Iterator[tuple[Sequence[Column], Sequence[int], Column | None]]:
        """The tables to print: their columns, the widths of these, and the column to print below the rows."""
        shortened = [_shortened(column) if column.ids else column for column in self.columns]
        for columns in (self.columns, shortened):
            natural = [column.width for column in columns]
            if self._total(natural) <= room:
                yield columns, natural, None
                return
            if len(columns) > 1 and not columns[-1].number:
                left = room - self._total([*natural[:-1], 0])
                if left >= LAST and natural[-1] <= 2 * left:
                    yield columns, [*natural[:-1], left], None
                    return
                if self._total(natural[:-1]) <= room:
                    yield columns[:-1], natural[:-1], columns[-1]
                    return
        yield from self._folded_parts(shortened, room)

    def _folded_parts(
        self, columns: Sequence[Column], room: int
    ) -> Iterator[tuple[Sequence[Column], Sequence[int], Column | None]]:
        last = None if columns[-1].number or len(columns) == 1 else columns[-1]
        for some, below in ((columns, None), *(((columns[:-1], last),) if last is not None else ())):
            if below is not None or last is None or last.width <= NARROW:
                widths = self._fitted(some, room)
                if widths is not None:
                    yield some, widths, below
                    return
        first, others = columns[: self.keys], columns[self.keys :]
        while others:
            taken = 1
            while taken < len(others) and self._fitted([*first, *others[: taken + 1]], room) is not None:
                taken += 1
            some = [*first, *others[:taken]]
            yield some, self._fitted(some, room) or [column.narrowest() for column in some], None
            others = others[taken:]

    def _total(self, widths: Sequence[int]) -> int:
        return sum(widths) + self.gap * (len(widths) - 1)

    def _fitted(self, columns: Sequence[Column], room: int) -> list[int] | None:
        """Widths with which the columns fit into the room, for which the widest are folded; None if they cannot fit."""
        widths = [column.narrowest() for column in columns]
        left = room - self._total(widths)
        while left > 0 and (growing := [i for i, column in enumerate(columns) if widths[i] < column.width]):
            widths[min(growing, key=widths.__getitem__)] += 1
            left -= 1
        return None if left < 0 else widths


def _shortened(column: Column) -> Column:
    """The column with ids of equal length, at least SHORT, so that different ids stay different."""
    ids, length = set(column.cells), SHORT
    longest = max(map(len, ids), default=0)
    while length < longest and len({one[:length] for one in ids}) < len(ids):
        length += 1
    return replace(column, cells=[one[:length] for one in column.cells])


def _folded(text: str, width: int) -> list[str]:
    """The lines of the text, at most `width` columns wide, broken at blanks or after punctuation where possible."""
    lines: list[str] = []
    for line in text.split("\n"):
        current = ""
        for word in [line] if cell_len(line) <= width else BREAKS.findall(line):
            if cell_len(current + word.rstrip()) <= width:
                current += word
                continue
            if current:
                lines.append(current)
            *full, current = chop_cells(word, width)
            lines += full
        lines.append(current)
    return [line.rstrip() for line in lines]


def _row(cells: Sequence[Sequence[str]], columns: Sequence[Column], widths: Sequence[int], gap: int) -> Iterator[str]:
    """The lines of one row."""
    for line in range(max(map(len, cells))):
        texts = [lines[line] if line < len(lines) else "" for lines in cells]
        blanks = [" " * (width - cell_len(text)) for text, width in zip(texts, widths, strict=True)]
        padded = [
            blank + text if column.number else text + blank
            for text, blank, column in zip(texts, blanks, columns, strict=True)
        ]
        yield (" " * gap).join(padded).rstrip()

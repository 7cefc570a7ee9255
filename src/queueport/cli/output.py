"""Prints JSON for scripts and tables for people, and configures logging to standard error. For the commands.

JSON is printed as ASCII, one document in each line. Text from jobs and errors is escaped before it is printed, so that
rich does not interpret it as markup and no control characters except line ends and tabs reach the terminal.
"""

import json
import logging
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from queueport.spi.url import hidden

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from queueport.cli.tables import Table

UNFOLDED = 100_000
"""The width in columns of an output that is not a terminal. It is so large that practically no line is folded."""
LONG = 2_000
"""The maximum number of characters of a value or an error in the details of a job. `--json` prints the whole value."""

LOG_FORMATS = {"text": "%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s", "json": "json"}
"""The formats of the log, by their names in the option `--log-format`. A worker passes the format to its processes."""
PLAIN = logging.makeLogRecord({}).__dict__.keys() | {"message", "asctime", "taskName"}
"""The attributes that log records have without `extra=`. A record has `taskName` since Python 3.12, and `message` and
`asctime` after it was formatted."""


def print_line(text: str) -> None:
    """Print one line of plain text."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_json(value: object) -> None:
    """Print one JSON document on one line."""
    print_line(json.dumps(value, separators=(",", ":")))


def print_result(data: object, text: str, as_json: bool) -> None:
    """Print `data` as JSON if `as_json` is True, else `text`."""
    if as_json:
        print_json(data)
    else:
        print_line(text)


def print_parts(*given: "RenderableType") -> None:
    """Print tables and texts, one below the other."""
    console().print(*given, sep="\n", crop=False)


def console() -> "Console":
    """The console for tables: as wide as the terminal, or practically unlimited if the output is not a terminal."""
    from rich.console import Console

    class Output(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich's own method would exit with code 1

    return Output(highlight=False, markup=False, emoji=False, width=width())


def width() -> int:
    """The width of the output in columns: that of the terminal, or COLUMNS, or UNFOLDED if it is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else UNFOLDED


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    gap: int = 2,
    *,
    keys: int = 1,
    ids: str | None = None,
    multiline: bool = False,
) -> "Table":
    """A table that fits the terminal, as `queueport.cli.tables` describes.

    A column whose name begins with `>` contains numbers. The first `keys` columns say what a row is about. `ids`
    is the name of the column with job ids, which may be shortened. Line ends in cells are escaped, unless the table is
    `multiline`.
    """
    from queueport.cli.tables import Column, Table

    kept = "\n" if multiline else ""
    cells = [["" if cell is None else _escape(str(cell).strip(), kept) for cell in row] for row in rows]
    return Table(
        [
            Column(name.lstrip(">"), [row[place] for row in cells], number=name.startswith(">"), ids=name == ids)
            for place, name in enumerate(columns)
        ],
        gap,
        keys,
    )


def escaped(text: str) -> "Text":
    """The text with escape sequences in place of unprintable characters, except line ends and tabs."""
    from rich.text import Text

    return Text(_escape(text, kept="\n\t"))


def one_line(text: str) -> str:
    """The text without white space at its ends, and with escape sequences in place of unprintable characters.

    Line ends within the text are escaped, too.
    """
    return _escape(text.strip())


def _escape(text: str, kept: str = "") -> str:
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, length: int = LONG) -> str:
    """The text. If it is longer than `length`, its first `length` characters and a note of the full length."""
    return text if len(text) <= length else f"{text[:length]}… ({len(text)} characters)"


def ago(moment: datetime | None) -> str:
    """The time since `moment`, rounded to whole days, hours, minutes or seconds, such as "3 h"; empty for None."""
    return "" if moment is None else age((datetime.now(UTC) - moment).total_seconds())


def age(seconds: float | None) -> str:
    """A duration as text, rounded to whole days, hours, minutes or seconds, such as "3 h"; empty for None."""
    if seconds is None:
        return ""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def brief(seconds: float | None) -> str:
    """A short duration as text with two digits or more, such as "1.3 s"; empty for None. From 100 s on, as `age`."""
    if seconds is None or seconds >= 100:
        return age(seconds)
    number, unit = (seconds, "s") if seconds >= 0.995 else (seconds * 1000, "ms")
    digits = float(f"{number:.2g}")  # formatted once more, because 320 would be shown as 3.2e+02
    return f"{digits:g} {unit}"


class OneLine(logging.Formatter):
    """A log formatter that keeps each message on one line and hides passwords. Only a traceback takes more lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # named by logging
        record.message = one_line(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        return hidden(super().format(record))


class JsonLines(logging.Formatter):
    """A log formatter that writes one JSON object a line, with the fields of `extra=`, and hides passwords."""

    def __init__(self) -> None:
        super().__init__(LOG_FORMATS["json"], validate=False)

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **{name: value for name, value in record.__dict__.items() if name not in PLAIN},
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        texts = {name: hidden(value) if isinstance(value, str) else value for name, value in fields.items()}
        return json.dumps(texts, default=lambda value: hidden(str(value)))


def set_up_logging(level: int | str, form: str = LOG_FORMATS["text"]) -> None:
    """Log to standard error, unless the root logger already has a handler."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == LOG_FORMATS["json"] else OneLine(form))
    logging.basicConfig(level=level, handlers=[handler])

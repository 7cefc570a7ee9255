"""What a worker says on standard error: one line an event. For `worker`, its other processes, and `dispatcher`."""

import logging

from queueport.url import hidden

__all__ = ["FORMAT", "one_line", "set_up"]

FORMAT = "%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"


class OneLine(logging.Formatter):
    """A message stays on its line whatever is in it, and no password is told; only tracebacks take more lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's own name
        """The line without its traceback."""
        record.message = one_line(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        """The line and its traceback."""
        return hidden(super().format(record))


def one_line(text: str) -> str:
    """The text with what is not printable, line ends among it, written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text.strip())


def set_up(level: int | str, form: str | None = FORMAT) -> None:
    """Write the log to standard error; a program that has set up logging itself keeps what it has."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine(form))
    logging.basicConfig(level=level, handlers=[handler])

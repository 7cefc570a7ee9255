"""What a worker says on standard error: one line an event. For `worker` and `dispatcher`."""

import logging
from enum import StrEnum

from queueport.cli.endings import one_line
from queueport.url import hidden

__all__ = ["LogLevel", "set_up"]

FORMAT = "%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"


class LogLevel(StrEnum):
    """How much is told."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class OneLine(logging.Formatter):
    """A message stays on its line whatever is in it, and no password is told; only tracebacks take more lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's own name
        """The line without its traceback."""
        record.message = one_line(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        """The line and its traceback."""
        return hidden(super().format(record))


def set_up(level: LogLevel) -> None:
    """Write the log to standard error; a program that has set up logging itself keeps what it has."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine(FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler])

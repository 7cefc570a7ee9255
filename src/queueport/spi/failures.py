"""Logs repeated failures of a loop: an identical failure is logged once, then at growing intervals with a count.

`FailureLog` is for the loops of the core and of adapters, `RepeatFilter` for the loops of a library.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from queueport.errors import log_error, message_of, type_of

__all__ = ["FailureLog", "RepeatFilter"]

FIRST_INTERVAL, LONGEST_INTERVAL = 10.0, 600.0
"""Seconds after a log line for which identical failures are counted but not logged: the first interval and the longest
interval. Each interval is twice as long as the previous one, up to the longest.
"""
FORGOTTEN_AFTER = 60.0
"""If no identical failure occurs in this many seconds after the end of an interval, the next identical failure is
logged as a new failure: at once, without a count, and followed by the first interval.
"""
MOST = 100
"""Maximum number of different failures to remember. A failure that is no longer remembered counts as new."""


@dataclass(slots=True)
class _Failure:
    logged_at: float
    interval: float = FIRST_INTERVAL
    count: int = 0
    """Number of identical failures after `logged_at`. They were not logged."""


class _Repeats:
    """Decides which of many identical failures are logged. Thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: dict[Hashable, _Failure] = {}
        self._lock = threading.Lock()

    def suffix(self, key: Hashable) -> str | None:
        """The text to append to the log line of this failure; None if the failure must not be logged now."""
        now = self._clock()
        with self._lock:
            known = self._failures.pop(key, None)
            if known is None or now - known.logged_at > known.interval + FORGOTTEN_AFTER:
                self._failures[key] = _Failure(now)
                if len(self._failures) > MOST:
                    del self._failures[next(iter(self._failures))]  # the failure that occurred least recently
                return ""
            self._failures[key] = known
            known.count += 1
            since = now - known.logged_at
            if since < known.interval:
                return None
            count, known.count = known.count, 0
            known.logged_at, known.interval = now, min(known.interval * 2, LONGEST_INTERVAL)
            return f" ({count} times in the last {since:.0f} s)"


class FailureLog:
    """Logs the failures of one loop, or of several threads that run the same loop. Thread-safe.

    Two failures are identical if they have the same message, before arguments are inserted, and their exceptions have
    the same text; for `error`, also the same type. Other arguments are not compared.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._repeats = _Repeats(clock)

    def warning(self, message: str, *args: object) -> None:
        """Log an expected failure as `Logger.warning` does, unless an identical failure was logged recently.

        The exceptions among `args` are the exceptions of the failure.
        """
        texts = [message_of(arg) for arg in args if isinstance(arg, BaseException)]
        suffix = self._repeats.suffix((message, *texts))
        if suffix is not None:
            self._logger.warning(f"{message}%s", *args, suffix)  # noqa: G004  # `message` is a constant

    def error(self, error: BaseException, message: str, *args: object) -> None:
        """Log an unexpected exception as `log_error` does, unless an identical failure was logged recently."""
        suffix = self._repeats.suffix((message, type_of(error), message_of(error)))
        if suffix is not None:
            log_error(self._logger, error, f"{message}%s", *args, suffix)


class RepeatFilter(logging.Filter):
    """A log filter for a library's loggers: an identical line passes once, then at growing intervals with a count.

    Lines are identical if logger, text and the text of the exception are. Lines below `level` always pass.
    `loggers` are the names of the loggers. A filter does not apply to child loggers,
    so the names of child loggers must be given too.
    """

    def __init__(self, loggers: Sequence[str], level: int = logging.WARNING) -> None:
        super().__init__()
        self._loggers = [logging.getLogger(name) for name in loggers]
        self._level = level
        self._repeats = _Repeats(time.monotonic)

    def install(self) -> None:
        """Begin to filter. Idempotent."""
        for logger in self._loggers:
            logger.addFilter(self)

    def remove(self) -> None:
        """Stop filtering. Idempotent."""
        for logger in self._loggers:
            logger.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < self._level:
            return True
        error = record.exc_info[1] if record.exc_info else None
        text = record.getMessage()
        suffix = self._repeats.suffix((record.name, text, None if error is None else message_of(error)))
        if suffix:
            record.msg, record.args = text + suffix, ()
        return suffix is not None

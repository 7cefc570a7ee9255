"""When a failed job is tried again, and how long it waits first. For those who write tasks, and for the lifecycle."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from queueport.errors import ConfigurationError

__all__ = ["LONGEST", "Retry", "ancestry", "importable"]

# The longest duration: a century. What is longer is a mistake, and may end past the year 9999.
LONGEST = 100 * 365.25 * 86400.0

_LIMITS = {"initial": LONGEST, "factor": 1000.0, "maximum": LONGEST, "jitter": 1000.0}


@dataclass(frozen=True, slots=True)
class Retry:
    """A retry policy. The defaults are those of every task that names none.

    Retry(max_attempts=5, initial=2.0)          # waits of 2, 4, 8 and 16 s, each up to a tenth longer
    Retry(retry_on=(OSError, "httpx.TimeoutException"))     # any other error is the job's last

    Raises ConfigurationError for a value that is out of its range.
    """

    max_attempts: int = 3
    """How often the task is started at most before its errors make the job dead; 1 = no retry."""
    initial: float = 1.0
    """Seconds before the second attempt."""
    factor: float = 2.0
    """What each wait is multiplied by to give the next; 1 = always the same wait."""
    maximum: float = 600.0
    """Seconds that no wait exceeds, jitter apart."""
    jitter: float = 0.1
    """The random part: up to this fraction of a wait is added to it, never taken from it."""
    retry_on: tuple[type[BaseException] | str, ...] = ()
    """Only these errors are retried; empty = all. Classes, or the names of classes: "pkg.module.Class" (the module that
    defines it) or "Class" alone. A subclass counts as its ancestors."""
    abort_on: tuple[type[BaseException] | str, ...] = ()
    """These errors make the job dead at once; stronger than `retry_on`."""

    def __post_init__(self) -> None:
        attempts: object = self.max_attempts
        if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1:
            raise ConfigurationError(f"Retry: max_attempts must be a whole number from 1, not {attempts!r}")
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= limit:
                raise ConfigurationError(f"Retry: {name} must be a number from 0 to {limit:.0f}, not {value!r}")
        object.__setattr__(self, "retry_on", _errors("retry_on", self.retry_on))
        object.__setattr__(self, "abort_on", _errors("abort_on", self.abort_on))

    def delay(self, failures: int, random: float) -> float:
        """Seconds to wait after that many failures (from 1); `random` is a number in [0, 1) for the jitter."""
        try:
            growth = float(self.factor) ** (failures - 1)  # float: a whole number would grow without end
        except OverflowError:
            growth = math.inf
        wait = min(self.initial * growth, self.maximum) if self.initial > 0 else 0.0
        return wait * (1 + self.jitter * random)

    def allows(self, names: Sequence[str]) -> bool:
        """Whether an error may be retried, its class given by all its names (see `ancestry`)."""
        if not _names(self.abort_on).isdisjoint(names):
            return False
        return not self.retry_on or not _names(self.retry_on).isdisjoint(names)

    def as_dict(self) -> dict[str, Any]:
        """The policy as plain JSON, with classes as their dotted names."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {name: sorted(_names(values[name])) for name in ("retry_on", "abort_on")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `as_dict` wrote, in this version or another: unknown names are ignored, missing ones default."""
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})


def ancestry(error_type: type[BaseException]) -> tuple[str, ...]:
    """The names that a class answers to: "module.Class" and "Class", its own first, then those of its ancestors."""
    return tuple(name for kind in error_type.__mro__[:-1] for name in (_dotted(kind), kind.__name__))


def importable(module: str) -> str:
    """The name other processes import a module by: what runs by `python -m pkg.m` calls itself `__main__` only here."""
    if module not in ("__main__", "__mp_main__"):  # the second in a child that multiprocessing spawned
        return module
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return module if spec is None else str(spec.name)


def _dotted(kind: type) -> str:
    return f"{importable(kind.__module__)}.{kind.__qualname__}"


def _names(errors: Sequence[type[BaseException] | str]) -> set[str]:
    return {error if isinstance(error, str) else _dotted(error) for error in errors}


def _errors(name: str, given: object) -> tuple[type[BaseException] | str, ...]:
    if isinstance(given, tuple | list):
        errors = tuple(given)
        if all(error if isinstance(error, str) else _is_error(error) for error in errors):
            return errors
    raise ConfigurationError(f"Retry: {name} must be a tuple of exception classes or their names, not {given!r}")


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)

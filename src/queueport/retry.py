"""Retry policies: whether and when a failed attempt is retried. For applications and the lifecycle."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from queueport.errors import ConfigurationError

__all__ = ["LONGEST", "Retry", "ancestry", "importable"]

LONGEST = 100 * 365.25 * 86400.0
"""The longest duration in a setting, or in an option of a policy, a task or a job: 100 years, in seconds. Without a
limit, a duration could end after the year 9999, which `datetime` cannot represent."""

_LIMITS = {"initial": LONGEST, "factor": 1000.0, "maximum": LONGEST, "jitter": 1000.0}


@dataclass(frozen=True, slots=True)
class Retry:
    """A retry policy. `Retry()` is the default, if neither the producer nor the task gives another policy.

        Retry(max_attempts=5, initial=2.0)      # waits 2, 4, 8 and 16 s, each up to a tenth longer
        Retry(retry_on=(OSError, "httpx.TimeoutException"))     # any other error makes the job dead

    Raises ConfigurationError for a value of a wrong type or range.
    """

    max_attempts: int = 3
    """The number of failures after which the job is dead; 1 = no retry."""
    initial: float = 1.0
    """Seconds to wait after the first failure, without jitter."""
    factor: float = 2.0
    """Each wait (without jitter) is the previous wait times this factor, up to `maximum`; 1 = all waits are equal."""
    maximum: float = 600.0
    """The longest wait in seconds, without jitter. Jitter can make the wait longer."""
    jitter: float = 0.1
    """A random time is added to each wait: from 0 to this fraction of the wait."""
    retry_on: tuple[type[BaseException] | str, ...] = ()
    """Only these errors and their subclasses are retried; empty = all errors, except those in `abort_on` and Abort.
    Each item is an exception class, or its name: "pkg.module.Class", with the module that defines the class, or
    "Class". A timeout counts as a JobTimeout of `queueport.errors`. `retry_on` does not apply to RetryLater and to
    crashes."""
    abort_on: tuple[type[BaseException] | str, ...] = ()
    """These errors and their subclasses make the job dead, without a retry. Items are written as in `retry_on`, and
    `abort_on` takes precedence over `retry_on`. `abort_on` does not apply to RetryLater and to crashes."""

    def __post_init__(self) -> None:
        attempts: object = self.max_attempts
        if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1:
            raise ConfigurationError(f"Retry: max_attempts must be a whole number of at least 1, not {attempts!r}")
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= limit:
                raise ConfigurationError(f"Retry: {name} must be a number from 0 to {limit:.0f}, not {value!r}")
        object.__setattr__(self, "retry_on", _errors("retry_on", self.retry_on))
        object.__setattr__(self, "abort_on", _errors("abort_on", self.abort_on))

    def delay(self, failures: int, random: float) -> float:
        """Seconds to wait after the given number of failures, 1 or more. `random`, in [0, 1), chooses the jitter."""
        try:
            # A float that becomes too large raises OverflowError. An int would become a number of very many digits.
            growth = float(self.factor) ** (failures - 1)
        except OverflowError:
            growth = math.inf
        wait = min(self.initial * growth, self.maximum) if self.initial > 0 else 0.0
        return wait * (1 + self.jitter * random)

    def allows(self, names: Sequence[str]) -> bool:
        """Whether an error may be retried. `names` is the result of `ancestry` for the class of the error."""
        if not _names(self.abort_on).isdisjoint(names):
            return False
        return not self.retry_on or not _names(self.retry_on).isdisjoint(names)

    def as_dict(self) -> dict[str, Any]:
        """The policy as plain JSON values. Each exception class is replaced by its dotted name."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {name: sorted(_names(values[name])) for name in ("retry_on", "abort_on")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make a policy from the output of any version of `as_dict`.

        Ignores unknown fields; missing fields get defaults. Raises ConfigurationError for a value of a wrong type or
        range.
        """
        if not isinstance(values, Mapping):
            raise ConfigurationError(f"{values!r:.80} is not a retry policy: make one by Retry.as_dict")
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})


def ancestry(error_type: type[BaseException]) -> tuple[str, ...]:
    """The two names of a class, "module.Class" and "Class", then the two names of each ancestor except `object`."""
    return tuple(name for kind in error_type.__mro__[:-1] for name in (_dotted(kind), kind.__name__))


def importable(module: str) -> str:
    """The name by which other processes can import a module.

    A module that was started by `python -m pkg.m` is named `__main__` in its own process, and `pkg.m` in others. Other
    processes cannot import a script that was started by `python script.py`: its name, such as `__main__`, is returned
    unchanged.
    """
    if module not in ("__main__", "__mp_main__"):  # multiprocessing names it `__mp_main__` in a child process
        return module
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return module if spec is None else str(spec.name)


def _dotted(kind: type) -> str:
    return f"{importable(kind.__module__)}.{kind.__qualname__}"


def _names(errors: Sequence[type[BaseException] | str]) -> set[str]:
    return {error if isinstance(error, str) else _dotted(error) for error in errors}


def _errors(name: str, given: object) -> tuple[type[BaseException] | str, ...]:
    if isinstance(given, tuple | list) and all(
        bool(error) if isinstance(error, str) else isinstance(error, type) and issubclass(error, BaseException)
        for error in given
    ):
        return tuple(given)
    raise ConfigurationError(f"Retry: {name} must be a tuple of exception classes or their names, not {given!r}")

"""Limits of how many jobs run at a time, and how many start in a time. For applications and for the core."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict, cast

from queueport.errors import ConfigurationError, InvalidJob, message_of, type_of
from queueport.retry import LONGEST

__all__ = ["LimitOptions", "QueueLimit", "TaskLimit", "rate_of"]

_RATE = re.compile(r"(\d+(?:\.\d+)?)/(s|m|h|d)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
Call = tuple[Sequence[Any], Mapping[str, Any]]
"""The positional and the named arguments of a call."""
MOST = 1_000_000_000
"""The maximum of each number of a limit. Every store can count with such numbers."""
LARGEST_KEY = 10**199
"""A key that is an integer must be smaller, so that it has at most 200 characters."""
_KEY = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,200}")


class LimitOptions(TypedDict, total=False):
    """The options that limit the jobs of a task. None is the same as not given."""

    concurrency: int | None
    """At most so many jobs of the task run at a time, over all workers."""
    concurrency_key: Callable[..., object] | None
    """A function that takes the arguments of a job, with the task's default values, and returns a text or an integer.
    The limits then apply to the jobs of each value by themselves."""
    rate: str | None
    """At most so many jobs of the task start in a second, minute, hour or day on average, such as "100/m"."""
    burst: int | None
    """At most so many jobs start at once, after a time in which none has started. Default: the starts of one second, at
    least 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimit:
    """The limit of a queue or a task. None: no limit. Raises ConfigurationError for a wrong value."""

    concurrency: int | None = None
    rate: str | None = None
    burst: int | None = None

    def __post_init__(self) -> None:
        for name in ("concurrency", "burst"):
            number = getattr(self, name)
            if number is not None and (type(number) is not int or number < 1):
                raise ConfigurationError(f"{name} must be a whole number of at least 1, not {number!r}")
            if number is not None and number > MOST:
                raise ConfigurationError(f"{name} must be at most {MOST}")
        if self.rate is not None:
            rate_of(self.rate)
        elif self.burst is not None:
            raise ConfigurationError("burst= has no effect without a rate: pass rate=, or leave it out")

    def __str__(self) -> str:
        parts = (
            None if self.concurrency is None else f"{self.concurrency} at a time",
            self.rate,
            None if self.burst is None else f"burst {self.burst}",
        )
        return ", ".join(part for part in parts if part is not None)

    @property
    def starts(self) -> tuple[float | None, int]:
        """The starts a second, None for no limit, and the starts at once."""
        if self.rate is None:
            return None, 1
        rate = rate_of(self.rate)
        return rate, max(1, math.ceil(rate)) if self.burst is None else self.burst


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLimit(QueueLimit):
    """The limits that a task declares; see `LimitOptions`."""

    key: Callable[..., object] | None = None

    def key_of(self, task: str, given: Call, complete: Call) -> str | None:
        """The `limit_key` of a job. Raises InvalidJob if the function does not return one.

        `given` are the positional and named arguments of the job, and `complete` the same with the default values. If
        the function cannot take `complete`, because it has fewer parameters than the task, it is called with `given`.
        """
        if self.key is None:
            return None
        try:
            args, kwargs = complete if _takes(self.key, complete) else given
            key = self.key(*args, **kwargs)
        except Exception as error:
            raise InvalidJob(
                f"the concurrency_key of task {task!r} raised {type_of(error)} for these arguments: {message_of(error)}"
            ) from error
        integer = isinstance(key, int) and not isinstance(key, bool)
        text = str(key) if integer and abs(cast("int", key)) < LARGEST_KEY else key
        if isinstance(text, str) and _KEY.fullmatch(text):
            return str(text)
        plain = key is None or isinstance(key, str | float | bool)
        shown = f"{key!r:.300}" if plain else f"a longer {type(key).__name__}" if integer else type(key).__name__
        raise InvalidJob(
            f"the concurrency_key of task {task!r} must return an integer or a text of 1 to 200 characters, not {shown}"
        )


_signature = functools.lru_cache(inspect.signature)  # reading a signature takes longer than the rest of an enqueue


def _takes(function: Callable[..., object], call: Call) -> bool:
    """True if the function can certainly be called with these arguments."""
    try:
        _signature(function).bind(*call[0], **call[1])
    except (TypeError, ValueError):  # ValueError: Python does not know the parameters of some built-in functions
        return False
    return True


def rate_of(text: object) -> float:
    """The starts a second of a rate such as "100/m". Raises ConfigurationError."""
    found = _RATE.fullmatch(text) if isinstance(text, str) else None
    rate = 0.0 if found is None else float(found[1]) / _SECONDS[found[2]]
    if 1 / LONGEST <= rate <= MOST:
        return rate
    if rate:
        raise ConfigurationError(
            f"a rate must be one start in 100 years or more, and at most {MOST}/s, not {text!r:.80}"
        )
    raise ConfigurationError(
        f"a rate must be a number above 0, a slash, and s, m, h or d, not {text!r:.80}: for 100 starts a minute, write "
        "'100/m'"
    )


def task_limit(options: Mapping[str, Any]) -> TaskLimit | None:
    """The limit that the options of a declaration give; None if they give none. Raises ConfigurationError."""
    given = {name: options[name] for name in LimitOptions.__optional_keys__ if options.get(name) is not None}
    if not given:
        return None
    key = given.pop("concurrency_key", None)
    if key is not None and not callable(key):
        raise ConfigurationError(f"concurrency_key must be a function of the task's arguments, not {key!r}")
    limit = TaskLimit(**given)
    if limit.concurrency is None and limit.rate is None:
        raise ConfigurationError("concurrency_key= needs concurrency= or rate=: without them, it limits nothing")
    return replace(limit, key=key)

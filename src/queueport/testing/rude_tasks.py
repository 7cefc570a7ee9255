"""Tasks whose errors, progress or results are hard to record, or that use a tracer. For contract lines R, T and W."""

from __future__ import annotations

import asyncio
import cProfile
import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any, Never

from queueport import JobStatus, Retry, RetryLater, current_job, task
from queueport.testing.trace import Trace, traced

__all__ = ["RUDE", "WRONG_PROGRESS"]

ONCE = Retry(max_attempts=1)
NOT_TEXT: Any = ("file.py", 1, 2, 5)
"""The details of a SyntaxError, with a number where the text of the line should be."""


class Unreadable(Exception):
    """Reading an attribute that does not exist raises KeyError, so that Python cannot format the traceback."""

    def __getattr__(self, name: str) -> Never:
        raise KeyError(name)


class Exits(Exception):
    """Formatting the message raises SystemExit, which would end a thread."""

    def __str__(self) -> str:
        raise SystemExit(3)


class Denies(Exception):
    """Reading `__class__`, as `isinstance` does, raises SystemExit."""

    __class__ = property(lambda _: sys.exit(4))  # pyright: ignore[reportIncompatibleMethodOverride]  # intended


class Impatient(RetryLater):
    """Has no delay, because it does not call `RetryLater.__init__`."""

    def __init__(self) -> None:
        pass


class Incomparable(dict[str, int]):
    """A result that raises SystemExit when `==` compares it with another value."""

    def __eq__(self, other: object) -> bool:
        raise SystemExit(5)

    __hash__ = None


def _from_unreadable() -> BaseException:
    healthy = ValueError("healthy")
    healthy.__cause__ = Unreadable()
    return healthy


def _long_name() -> BaseException:
    kind: type[BaseException] = type("E" * 1_000_000, (Exception,), {"__module__": "\ud800"})
    return kind()


RUDE: dict[str, Callable[[], BaseException]] = {
    "unreadable": Unreadable,
    "unreadable cause": _from_unreadable,
    "unreadable in a group": lambda: ExceptionGroup("several", [Unreadable(), ValueError("healthy")]),
    "syntax": lambda: SyntaxError("bad", NOT_TEXT),
    "exits when shown": Exits,
    "exits": lambda: SystemExit(2),
    "denies its class": Denies,
    "no delay": Impatient,
    "long name": _long_name,
    "long text": lambda: ValueError("\ud800\0" + "x" * 10_000_000),
    "exits in the hook": lambda: ValueError("the task fails, and its on_dead hook will exit"),
}
"""Functions that make errors that are hard to record. The keys are the possible arguments of `fail_rudely` and
`fail_rudely_async`. The last one makes an ordinary error, after which the on_dead hook of `fail_rudely` exits."""


@task(retry=ONCE)
@traced
def fail_rudely(kind: str) -> None:
    """Raise an error that is hard to record. `kind` is a key of RUDE."""
    error = RUDE[kind]()
    raise error


@task(retry=ONCE)
@traced
async def fail_rudely_async(kind: str) -> None:
    """Raise the error of `kind`, a key of RUDE, in a coroutine.

    Before that, another asyncio task raises SystemExit. This stops the event loop until the worker runs the loop again.
    """
    end = asyncio.create_task(_exit())
    await asyncio.wait([end])
    end.exception()  # otherwise asyncio logs that nobody has read this exception
    error = RUDE[kind]()
    raise error


async def _exit() -> None:
    sys.exit(6)


@fail_rudely.on_dead
def exit_in_hook(status: JobStatus) -> None:
    """Raise SystemExit if the job's argument is "exits in the hook"."""
    if status.args == ["exits in the hook"]:
        sys.exit(7)


@task(retry=ONCE)
@traced
def return_rudely() -> Any:
    """Return a value that raises SystemExit in the comparison by which queueport checks results."""
    return Incomparable(a=1)


WRONG_PROGRESS: tuple[tuple[Any, Any, Any], ...] = (
    (None, None, None),
    (True, None, None),
    ("1", None, None),
    (b"1", None, None),
    (1, "8", None),
    (float("nan"), None, None),
    (1, float("inf"), None),
    (10**400, None, None),
    (Decimal("sNaN"), None, None),
    (1, 8, Path("/x")),
    (1, 8, b"bytes"),
)
"""Calls of `progress` that must raise an error: the arguments current, total and message of each."""


@task(retry=ONCE)
@traced
def report_oddly(gate: str) -> list[str]:
    """Report progress with invalid values, then with unusual but valid values, and wait at a gate.

    Return the names of the errors that the invalid values have caused.
    """
    errors = []
    for current, total, message in WRONG_PROGRESS:
        try:
            current_job().progress(current, total, message)
        except (TypeError, ValueError) as error:
            errors.append(type(error).__name__)
    half: Any = Decimal("0.5")
    eight: Any = Fraction(8)
    current_job().progress(half, total=eight, message="\0\ud800" + "x" * 10_000_000)
    trace = Trace.here()
    if trace is not None:
        trace.wait_at(gate)
    return errors


@task(retry=ONCE)
@traced
def observe(tool: str) -> int:
    """Call a function ten times under a profiler or a tracer. Return the number of calls that the tool has seen."""
    return _profiled() if tool == "profiler" else _traced()


def _called() -> None:
    """The function whose calls the profiler and the tracer count."""


def _profiled() -> int:
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(10):
        _called()
    profiler.disable()
    entries: Any = profiler.getstats()
    return int(sum(entry.callcount for entry in entries if getattr(entry.code, "co_name", "") == "_called"))


def _traced() -> int:
    calls = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_name == "_called"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for _ in range(10):
            _called()
    finally:
        sys.settrace(before)
    return calls

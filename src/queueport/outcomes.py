"""What the end of a task's code means for its attempt: a result, a failure, or nothing to be said. For the runner."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

from queueport.attempt import Attempt, Why
from queueport.context import Abort, RetryLater
from queueport.errors import InvalidJob, JobCancelled, JobTimeout, PayloadTooLarge
from queueport.lifecycle import Failed, Outcome, Succeeded
from queueport.retry import ancestry
from queueport.status import JobError

__all__ = ["raised", "returned", "timed_out"]

TRACEBACK_LIMIT = 8_000
"""Characters kept of a traceback, its end, so that ten of them fit into any store's record."""
MESSAGE_LIMIT = 2_000
"""Characters kept of an error's message."""
RUNNER = str(Path(__file__).with_name("runner.py"))


def returned(attempt: Attempt, value: Any, limit: int | None) -> Outcome:
    """The task returned; a result that cannot be kept (`limit` in bytes) is the attempt's death."""
    try:
        result = attempt.task.signature.encode_result(value)
        if limit is not None and len(result) > limit:
            raise PayloadTooLarge(f"the result has {len(result)} bytes; at most {limit} can be kept")
    except InvalidJob as error:
        return Failed(job_error(attempt, error), fatal=True)
    return Succeeded(result)


def raised(attempt: Attempt, error: BaseException) -> Outcome | None:
    """The task raised; None where the attempt is given back, or is no longer ours."""
    if attempt.why in (Why.LOST, Why.STOP):
        return None
    if attempt.why is Why.TIMEOUT:
        return timed_out(attempt, error)
    told, names = job_error(attempt, error), ancestry(type(error))
    if attempt.why is Why.CANCEL or (isinstance(error, JobCancelled) and attempt.job.cancel_requested):
        return Failed(told, names, fatal=True)  # its record bears the request: it ends cancelled
    if isinstance(error, RetryLater):
        return Failed(told, names, error.delay, error.burns)
    return Failed(told, names, fatal=isinstance(error, Abort))


def timed_out(attempt: Attempt, error: BaseException | None) -> Failed:
    """The attempt took too long; `error` is what ended its code, None while nothing could."""
    timeout = attempt.record.option("timeout", None)
    late = JobTimeout(f"the attempt took longer than its timeout of {timeout:g} s")
    late.__traceback__ = None if error is None else error.__traceback__
    return Failed(job_error(attempt, late), ancestry(JobTimeout))


def job_error(attempt: Attempt, error: BaseException) -> JobError:
    """The error as the record keeps it: text that any store takes, and bounded."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    trace = "".join(traceback.format_exception(kind, error, _task_frames(error.__traceback__)))
    message, trace = _plain(_text(error))[:MESSAGE_LIMIT], _plain(trace)[-TRACEBACK_LIMIT:]
    return JobError(name, message, trace, attempt.now(), attempt.record.attempts)


def _task_frames(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the task's own code on."""
    own = trace
    while own is not None and own.tb_frame.f_code.co_filename == RUNNER:
        own = own.tb_next
    return own or trace


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001  # an error whose text raises is still an error to record
        return f"<its message cannot be shown: {type(broken).__name__}>"


def _plain(text: str) -> str:
    """Without lone surrogates, which no encoding takes."""
    return text.encode(errors="backslashreplace").decode()

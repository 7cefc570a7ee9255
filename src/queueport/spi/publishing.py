"""Publishes messages by several calls within a time limit. For drivers whose calls take one queue or a few messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from queueport.errors import BackendUnavailable
from queueport.spi.message import SendOutcome, SendResult

__all__ = ["publish_parts"]


def publish_parts(
    parts: Iterable[Sequence[int]], publish: Callable[[Sequence[int]], Sequence[SendResult]], call_timeout: float
) -> list[SendResult]:
    """Call `publish` for one part after the other. Returns the result of each message, in the order of the positions.

    A part contains the positions of its messages in the caller's list. `publish` must not raise, and must return within
    `call_timeout` seconds. When half of `call_timeout` has passed since the start of the first part, no further part is
    tried, and the messages of the remaining parts are FAILED. So a backend that does not answer delays the caller for
    one part only, and all calls of `publish` end before the claim on the jobs ends.
    """
    results: dict[int, SendResult] = {}
    started = time.monotonic()
    error: Exception | None = None
    for part in parts:
        if time.monotonic() - started > call_timeout / 2:
            why = error or BackendUnavailable(
                "the backend is too slow to take all messages in time: enqueue fewer at once, or raise call_timeout"
            )
            results |= dict.fromkeys(part, SendResult(SendOutcome.FAILED, why))
            continue
        answers = publish(part)
        results |= zip(part, answers, strict=True)
        error = next((answer.error for answer in answers if answer.outcome is not SendOutcome.SENT), error)
    return [results[position] for position in sorted(results)]

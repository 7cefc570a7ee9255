"""Makes one call for many jobs, so that the data of one job cannot make the call fail for other jobs. For the core."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from queueport.errors import BackendUnavailable, message_of

__all__ = ["call_batch", "call_each"]

logger: logging.Logger = logging.getLogger("queueport")
T = TypeVar("T")
R = TypeVar("R")


def call_batch(
    call: Callable[[Sequence[T]], Iterable[R]], items: Sequence[T], failed: Callable[[T, Exception], R]
) -> list[R]:
    """Call once with all items; after an unexpected error, call for each item alone. Returns the answers in order.

    `failed` returns the answer for an item whose own call raises. `call` must be idempotent, because the first call may
    have been applied to some of the items. BackendUnavailable is passed on to the caller, because it concerns all
    items.
    """
    if len(items) > 1:
        try:
            return list(call(items))
        except BackendUnavailable:
            raise
        except Exception as error:  # noqa: BLE001  # its own call will raise it again
            logger.debug("a call for %d jobs failed and is repeated for each: %s", len(items), message_of(error))
    return call_each(lambda item: next(iter(call([item]))), items, failed)


def call_each(call: Callable[[T], R], items: Iterable[T], failed: Callable[[T, Exception], R]) -> list[R]:
    """Call for each item alone; `failed` returns the answer for an item whose call raises.

    BackendUnavailable is passed on to the caller.
    """
    answers: list[R] = []
    for item in items:
        try:
            answers.append(call(item))
        except BackendUnavailable:
            raise
        except Exception as error:  # noqa: BLE001  # `failed` logs it
            answers.append(failed(item, error))
    return answers

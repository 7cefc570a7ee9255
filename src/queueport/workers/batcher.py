"""`Batcher`, which combines the calls of several threads into one, to save calls to the store. For `WorkerProcess`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["Batcher"]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Entry(Generic[T, R]):
    item: T
    answers: list[R] = field(default_factory=list)
    """A list with the one answer to the item; empty until `handle` has returned the answer, or if `handle` raises."""
    error: BaseException | None = None
    turn: threading.Lock = field(default_factory=threading.Lock)
    """Held until the entry has its answer or error, or until the entry's thread must handle the waiting entries."""

    def __post_init__(self) -> None:
        self.turn.acquire()


class Batcher(Generic[T, R]):
    """Calls `handle` with the items that threads pass to `call`; `handle` returns an answer for each item, in order.

    An item that comes while `handle` does not run is handled at once. Items that come while `handle` runs form the next
    batch, or several batches of one item if `one_at_a_time` demands this. Each batch is handled in the thread of one of
    its items. An exception of `handle` is raised in each thread whose item is in the batch.
    """

    def __init__(
        self, handle: Callable[[Sequence[T]], Sequence[R]], one_at_a_time: Callable[[], bool] = lambda: False
    ) -> None:
        """`one_at_a_time` is called before each batch. If it returns True, the batch has only one item."""
        self._handle = handle
        self._one_at_a_time = one_at_a_time
        self._lock = threading.Lock()
        self._waiting: list[_Entry[T, R]] = []
        self._busy = False

    def call(self, item: T) -> R:
        """Have the item handled, alone or in a batch, and return its answer. Raises an exception of `handle`."""
        entry = _Entry[T, R](item)
        with self._lock:
            self._waiting.append(entry)
            handles, self._busy = not self._busy, True
        if not handles:
            entry.turn.acquire()
        if not entry.answers and entry.error is None:
            self._handle_waiting()
        if entry.error is not None:
            raise entry.error
        return entry.answers[0]

    def _handle_waiting(self) -> None:
        with self._lock:
            size = 1 if self._one_at_a_time() else len(self._waiting)
            batch, self._waiting = self._waiting[:size], self._waiting[size:]
        try:
            for entry, answer in zip(batch, self._handle([entry.item for entry in batch]), strict=True):
                entry.answers.append(answer)
        except BaseException as error:  # noqa: BLE001  # it is raised in each thread
            for entry in batch:
                entry.error = error
        with self._lock:
            following = self._waiting[:1]
            self._busy = bool(following)
        for entry in (*batch, *following):
            entry.turn.release()

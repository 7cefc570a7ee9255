"""Celery's thread pool as queueport's own worker runs it: beside others in a process, and it does not wait for ever."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from celery.concurrency.thread import TaskPool

__all__ = ["ThreadPool"]


class ThreadPool(TaskPool):
    """The threads know their app, and code that cannot be interrupted does not hold up the end."""

    task_join_will_block = False
    """Celery would forbid `AsyncResult.get` in the whole process, the application's own code beside it included."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.executor = ThreadPoolExecutor(self.limit, "queueport-celery", initializer=self.app.set_current)
        self._running: set[Future[Any]] = set()

    def on_apply(self, *args: Any, **options: Any) -> Any:
        """As Celery's, and remembered until it is over."""
        result = super().on_apply(*args, **options)
        self._running.add(result.f)
        result.f.add_done_callback(self._running.discard)
        return result

    def settle(self, seconds: float) -> None:
        """Wait until what has ended is acknowledged."""
        wait(list(self._running), seconds)

    def on_stop(self) -> None:
        """Let go of the threads."""
        self.executor.shutdown(wait=False, cancel_futures=True)

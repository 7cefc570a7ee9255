"""A thread that alone talks to RabbitMQ, for a connection of pika's belongs to its thread and may not answer for long.

For `rabbitmq_link`. Who waits for it waits for so long and no longer. After anything that went wrong the thread is left
to itself, to end when pika notices, and the next call has another one, with another connection.
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from dramatiq.brokers.rabbitmq import RabbitmqBroker

__all__ = ["Lane", "NoAnswer", "own"]

T = TypeVar("T")

TEND = 5.0
"""Seconds between two looks at an idle connection, which wants its heartbeats."""


class NoAnswer(Exception):
    """RabbitMQ did not answer in time; what was asked for may have been done."""


def own(broker: RabbitmqBroker) -> RabbitmqBroker:
    """The same broker with connections and queues of its own, and without middleware."""
    mine = copy.copy(broker)
    mine.state, mine.connections, mine.channels = threading.local(), set(), set()
    mine.queues, mine.queues_pending, mine.delay_queues = set(), set(), set()
    mine.actors, mine.middleware = dict(broker.actors), []
    return mine


class Lane:
    """Calls, one after the other, in a thread of this process; after a fork in a thread of the child."""

    def __init__(self, broker: RabbitmqBroker, name: str) -> None:
        self._broker = broker
        self._name = name
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._run: _Run | None = None

    def call(self, function: Callable[[RabbitmqBroker], T], timeout: float) -> T:
        """What the function returns, or raises. Raises NoAnswer after `timeout` seconds: it may still go on then."""
        run = self._usable()
        future: Future[T] = Future()
        run.calls.put((future, function))
        try:
            return future.result(timeout)
        except TimeoutError:
            if future.done():  # its own
                raise
            run.abandoned = True
            raise NoAnswer from None

    def close(self) -> None:
        """Let it end, and its connection with it."""
        run, self._run = self._run, None
        if run is not None and self._pid == os.getpid():
            run.calls.put(None)

    def _usable(self) -> _Run:
        if self._pid != os.getpid():  # the parent's thread is not here, and its lock may be held for ever
            self._lock, self._run, self._pid = threading.Lock(), None, os.getpid()
        with self._lock:
            if self._run is None or self._run.abandoned:
                self._run = _Run(own(self._broker), self._name)
            return self._run


class _Run:
    """The thread, and what it is to do; None for its end."""

    def __init__(self, broker: RabbitmqBroker, name: str) -> None:
        self.abandoned = False
        self.calls: SimpleQueue[tuple[Future[Any], Callable[[RabbitmqBroker], Any]] | None] = SimpleQueue()
        self._broker = broker
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        try:
            while not self.abandoned and self._step():
                pass
        finally:
            self.abandoned = True
            while not self.calls.empty():
                if (call := self.calls.get()) is not None:
                    call[0].set_exception(NoAnswer())
            del self._broker.connection  # which may take long where nobody answers

    def _step(self) -> bool:
        """Do the next call; False where this is the end."""
        try:
            call = self.calls.get(timeout=TEND)
        except Empty:
            return self._tend()
        if call is None:
            return False
        future, function = call
        try:
            result = function(self._broker)
        except Exception as error:  # noqa: BLE001  # it is the caller's
            self.abandoned = True
            future.set_exception(error)
            return False
        future.set_result(result)
        return True

    def _tend(self) -> bool:
        """Let pika answer heartbeats; False where the connection has ended."""
        try:
            for connection in self._broker.connections:
                connection.process_data_events(0)
        except Exception:  # noqa: BLE001  # the next call makes another one
            return False
        return True

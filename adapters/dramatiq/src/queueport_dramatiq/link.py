"""What the driver needs of a Dramatiq broker, and each kind of broker gives in its own way. For `driver`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import dramatiq
from dramatiq.middleware import Middleware
from dramatiq.worker import _WorkerMiddleware  # the only sign of a worker on a broker

from queueport.driver import Depth, Sent

__all__ = ["Link", "Wire", "shared_middleware"]

Wire = dramatiq.Message[Any]


class Link(ABC):
    """A broker on a server. Thread-safe, and of use in a child after a fork.

    Queues are named as Dramatiq names them. A method may raise BackendUnavailable, within `call_timeout`.
    """

    joined: bool
    """It is an application's own broker."""

    @property
    @abstractmethod
    def broker(self) -> dramatiq.Broker:
        """For producers, and for a worker that Dramatiq's own command starts."""

    @abstractmethod
    def publish(self, messages: Sequence[Wire]) -> Sequence[Sent]:
        """Put messages into their queues; an outcome for each. Must not raise."""

    @abstractmethod
    def depth(self, queue: str) -> Depth:
        """What waits in a queue."""

    @abstractmethod
    def bury(self, messages: Sequence[Wire]) -> None:
        """Put messages into the dead letters of their queues."""

    @abstractmethod
    def unbury(self, messages: Sequence[Wire]) -> None:
        """Take them out again: those of the same job and life."""

    @abstractmethod
    def setup(self, queues: Sequence[str]) -> None:
        """Make the queues, where they must be there."""

    @abstractmethod
    def purge(self, queue: str) -> None:
        """Drop what waits; dead letters stay."""

    @abstractmethod
    def check(self) -> Sequence[str]:
        """Reach the server; warnings."""

    @abstractmethod
    def close(self) -> None:
        """Let go of connections; idempotent."""

    @abstractmethod
    def worker_broker(self) -> dramatiq.Broker:
        """A broker for one worker, with queues and actors of its own and the same middleware."""


def shared_middleware(broker: dramatiq.Broker) -> list[Middleware]:
    """A broker's middleware without that of its workers, which would take from every queue that is declared."""
    return [each for each in broker.middleware if not isinstance(each, _WorkerMiddleware)]

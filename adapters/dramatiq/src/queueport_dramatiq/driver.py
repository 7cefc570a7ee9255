"""The base class of the drivers of Dramatiq over Redis and over RabbitMQ. For the modules `redis` and `rabbitmq`."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import dramatiq
from dramatiq.middleware import MiddlewareError
from dramatiq.worker import _WorkerMiddleware  # Dramatiq has no public name for this class

from queueport.capability import Capability
from queueport.spi.driver import Driver
from queueport.spi.message import Message, SendOutcome, SendResult, by_queue
from queueport.spi.publishing import publish_parts
from queueport.spi.runner import JobRunner
from queueport_dramatiq.embedded import EmbeddedWorker
from queueport_dramatiq.messages import translate

__all__ = ["DramatiqDriver", "DramatiqMessage", "Names", "independent"]

DramatiqMessage = dramatiq.Message[Any]
DERIVED = (".DQ", ".XQ", ".msgs")
"""The endings that Dramatiq adds to a queue's name: for the queue of delayed messages, for the dead letters, and for
the messages in Redis."""
MARK = "._"
"""Appended to the name of a queue that already ends with one of DERIVED, or with MARK."""


class Names:
    """Makes the names that the queues of one namespace have in Dramatiq. Users of Dramatiq's own tools see them.

    The queue `emails` of the namespace `queueport` is `queueport.emails` in Dramatiq. A namespace contains no dot, so
    two namespaces never share a queue. Dramatiq derives further names from a queue's name by adding endings. To avoid
    equal names, a queue whose own name has such an ending gets `._` appended, and so does a queue whose name ends with
    `._`.
    """

    def __init__(self, namespace: str) -> None:
        self._prefix = f"{namespace}."

    def native(self, queue: str) -> str:
        """Dramatiq's name of a queue."""
        return self._prefix + queue + (MARK if queue.endswith((*DERIVED, MARK)) else "")

    def queue(self, native: str) -> str | None:
        """The queue that has this name in Dramatiq; None if the name is not in this namespace.

        `native` must not be a further name that Dramatiq has derived by adding an ending.
        """
        if not native.startswith(self._prefix):
            return None
        return native[len(self._prefix) :].removesuffix(MARK)


class DramatiqDriver(Driver):
    """The driver of a Dramatiq broker. `joined` is True if the broker belongs to an existing application.

    Subclasses implement the methods that depend on the server. `send`, `put_dead` and `remove_dead` take Dramatiq's
    name of a queue, not queueport's.
    """

    capabilities = frozenset(
        {Capability.DEPTH, Capability.PERSISTENT, Capability.NATIVE_DEAD_LETTERS, Capability.THREADS}
    )

    def __init__(self, broker: Any, namespace: str, *, call_timeout: float, joined: bool) -> None:
        self.broker = broker
        self.call_timeout = call_timeout
        self.joined = joined
        self.names = Names(namespace)

    @abstractmethod
    def send(self, queue: str, messages: Sequence[DramatiqMessage]) -> Sequence[SendResult]:
        """Put messages into a queue; returns a result for each, in order. Must not raise."""

    @abstractmethod
    def put_dead(self, queue: str, messages: Sequence[DramatiqMessage]) -> Sequence[SendResult]:
        """Put messages into the dead letters of a queue; returns a result for each, in order."""

    @abstractmethod
    def remove_dead(self, queue: str, messages: Sequence[DramatiqMessage]) -> None:
        """Remove the dead-letter copy with the same job and life as each of `messages`. Must ignore a missing copy."""

    @abstractmethod
    def worker_broker(self) -> dramatiq.Broker:
        """Make a copy of the broker for one worker, as `independent` does."""

    def publish(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        translated = [self.translated(message) for message in messages]
        announced = [self._announce(message) for message in translated]

        def send(positions: Sequence[int]) -> Sequence[SendResult]:
            accepted = [i for i in positions if announced[i].error is None]
            sent = self.send(translated[positions[0]].queue_name, [translated[i] for i in accepted])
            outcomes = dict(zip(accepted, sent, strict=True))
            for i, outcome in outcomes.items():
                if outcome.outcome is SendOutcome.SENT:
                    self.broker.emit_after("enqueue", translated[i], None)
            return [outcomes.get(i, announced[i]) for i in positions]

        return publish_parts(by_queue(messages).values(), send, self.call_timeout)

    def _announce(self, message: DramatiqMessage) -> SendResult:
        """Tell the broker's middleware that a message will be enqueued.

        The result has an error and the outcome FAILED if the middleware refuses the message, and no error otherwise.
        """
        try:
            self.broker.emit_before("enqueue", message, None)
        except MiddlewareError as error:
            return SendResult(SendOutcome.FAILED, error)
        return SendResult(SendOutcome.SENT)

    def work(self, runner: JobRunner) -> None:
        queues = [self.names.native(queue) for queue in runner.work.queues]
        runner.serve(EmbeddedWorker(self.worker_broker(), queues, runner))

    def bury(self, queue: str, messages: Sequence[Message]) -> Sequence[SendResult]:
        return self.put_dead(self.names.native(queue), [self.translated(message) for message in messages])

    def unbury(self, queue: str, messages: Sequence[Message]) -> None:
        self.remove_dead(self.names.native(queue), [self.translated(message) for message in messages])

    @property
    def native(self) -> dramatiq.Broker:
        broker: dramatiq.Broker = self.broker
        return broker

    def translated(self, message: Message) -> DramatiqMessage:
        return translate(message, self.names.native(message.queue))


def independent(broker: Any) -> Any:
    """Copy the broker for one more worker. The copy starts without queues, and with a copy of the broker's actors.

    The copy lacks the middleware that existing workers have added to the broker. For each queue that the new worker
    declares, that middleware would start a consumer in an existing worker. Other attributes, such as a client or
    connections, are those of the broker itself, until the caller replaces them.
    """
    copied = copy.copy(broker)
    copied.queues, copied.delay_queues, copied.actors = set(), set(), dict(broker.actors)
    copied.middleware = [each for each in broker.middleware if not isinstance(each, _WorkerMiddleware)]
    return copied

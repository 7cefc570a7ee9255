"""The interface of plain brokers, which have no workers of their own. For authors of adapters.

`examples/05_write_an_adapter.py` is a transport whose broker is a folder, so it need not handle lost connections. A
transport for a real broker is several times as long as that example; `docs/writing-an-adapter.md` says what it needs in
addition.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from queueport.spi.driver import Driver
from queueport.spi.message import Message, SendResult, by_queue
from queueport.spi.publishing import publish_parts
from queueport.spi.runner import Delivery, JobRunner

__all__ = ["Delivery", "Transport"]


class Transport(Driver):
    """A driver for which queueport runs the workers. `capabilities` must contain THREADS."""

    pushes: bool = False
    """True if the broker delivers messages before a worker asks for them. Unless `holds` is True, a message is then
    acknowledged at the end of its attempt or at the job's first heartbeat, whichever is first, so that the broker
    delivers the message again if the worker crashes before. If `pushes` is False, a message is acknowledged as soon as
    its job has begun. In all cases, a message whose job cannot begin is acknowledged at once or put aside."""
    holds: bool = False
    """True if the broker holds back the next message of a group until the message before it is acknowledged. A message
    is then acknowledged only at the end of its attempt, and `prolong` is called at each heartbeat. Requires
    `pushes`."""
    call_timeout: float = 5.0
    """The setting `call_timeout`, in seconds, which a transport must set: one call of `send` must not take longer."""
    idle_wait: float = 0.5
    """Maximum seconds that an idle worker waits in one call of `receive`. The stop of a worker may be delayed by this
    time. Use a higher number if calls cost money.
    """

    @abstractmethod
    def send(self, queue: str, messages: Sequence[Message]) -> Sequence[SendResult]:
        """Put at most 500 messages into a queue; returns a result for each, in order.

        Must return within `call_timeout` seconds, and must not raise. Must put an error, such as BackendUnavailable,
        into the result of each message that it concerns.

        The outcome must be SENT only if the broker has confirmed the message. It must be FAILED only if the message
        certainly did not arrive. It must be REFUSED only if, in addition, the broker will never take the message. In
        all other cases it must be UNKNOWN.
        """

    @abstractmethod
    def receive(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        """Receive at most `limit` messages. Waits at most `wait` seconds for the first one; 0: does not wait.

        Must return or raise within `wait` + `call_timeout` seconds, and should return as soon as there is a message.
        `limit` is at least 1. `queues` contains at least one queue, and none twice. The order of the queues has no
        meaning: a queue that always has messages must not block the other queues. Several threads may call this at
        once.

        The broker must hide each message from other workers until it is acknowledged, and must deliver it again if this
        process crashes before. If the broker hides messages for a limited time, this time must be longer than the time
        until the acknowledgement: one call to the store; with `pushes`, a third of a lease and one call to the store;
        with `holds`, a lease. A message that is delivered again too early is a duplicate, which does no harm.
        """

    @abstractmethod
    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge these messages, of any queues. Called from any thread.

        Must ignore a message that the broker no longer has, or that an earlier call has acknowledged.
        """

    def prolong(self, deliveries: Sequence[Delivery]) -> None:  # called only if `holds` is True
        """Hide these messages from other workers for longer than a lease from now, because their jobs still run.

        Must ignore a message that was acknowledged before this call.
        """

    @abstractmethod
    def put_aside(self, delivery: Delivery) -> None:
        """Move a message that queueport cannot use from its queue to a place where an operator can look at it."""

    def publish(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        def send(positions: Sequence[int]) -> Sequence[SendResult]:
            return self.send(messages[positions[0]].queue, [messages[i] for i in positions])

        return publish_parts(by_queue(messages).values(), send, self.call_timeout)

    def work(self, runner: JobRunner) -> None:
        runner.pull(self)

"""The driver that makes a backend of any transport, its workers being queueport's own. For `get_queue`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from queueport import pool
from queueport.attempt import Attempt
from queueport.capability import Capability, Limits
from queueport.driver import Depth, Driver, SendOutcome, Sent, Work
from queueport.errors import BackendUnavailable
from queueport.message import Message
from queueport.runner import Runner, Verdict
from queueport.store import JobStore
from queueport.transport import Delivery, Transport
from queueport.url import BackendURL

if TYPE_CHECKING:
    from queueport.settings import Settings

__all__ = ["TransportDriver"]

logger: logging.Logger = logging.getLogger("queueport")


class TransportDriver(Driver):
    """A driver over any transport, its workers being queueport's own."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.name: str = transport.name
        self.capabilities: frozenset[Capability] = transport.capabilities | {Capability.THREADS}
        self.limits: Limits = transport.limits

    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        """Not used: the transport is opened by its own class."""
        raise NotImplementedError

    def publish(self, messages: Sequence[Message]) -> Sequence[Sent]:
        """Send them queue by queue, in their order."""
        outcomes: list[Sent] = [Sent(SendOutcome.UNKNOWN)] * len(messages)
        for queue in dict.fromkeys(message.queue for message in messages):
            places = [i for i, message in enumerate(messages) if message.queue == queue]
            sent = self.transport.send(queue, [messages[i] for i in places])
            for i, outcome in zip(places, sent, strict=True):
                outcomes[i] = outcome
        return outcomes

    def work(self, runner: Runner, work: Work) -> None:
        """Receive for free slots, begin, run."""
        pool.run(_Deliveries(self.transport, runner, work.stop), runner, work)

    def depth(self, queue: str) -> Depth | None:
        """The broker's own count."""
        return self.transport.depth(queue)

    def bury(self, messages: Sequence[Message]) -> None:
        """Into the broker's dead letters."""
        self.transport.bury(messages)

    def unbury(self, messages: Sequence[Message]) -> None:
        """Out of the broker's dead letters."""
        self.transport.unbury(messages)

    def setup(self, queues: Sequence[str]) -> None:
        """Make the broker's queues."""
        self.transport.setup(queues)

    def purge(self, queue: str) -> None:
        """Empty the broker's queue."""
        self.transport.purge(queue)

    def check(self) -> Sequence[str]:
        """Reach the broker."""
        return self.transport.check()

    def close(self) -> None:
        """Let go of the broker."""
        self.transport.close()

    @property
    def native(self) -> Any:
        """The broker's own client."""
        return self.transport.native


class _Deliveries(pool.Intake):
    """What a pool runs, taken from a transport."""

    filters = False

    def __init__(self, transport: Transport, runner: Runner, stop: threading.Event) -> None:
        self.wait = transport.wait
        self._transport = transport
        self._runner = runner
        self._stop = stop
        self._lock = threading.Lock()
        self._held: list[Delivery] = []
        self._holder = ThreadPoolExecutor(1, "queueport-hold")  # starts its thread when it is first needed

    def next(self, tasks: Sequence[str], limit: int, wait: float) -> Sequence[Attempt]:
        deliveries = self._transport.receive(self._runner.queues, limit, wait)
        if not deliveries:
            return []
        found = self._runner.begin([delivery.body for delivery in deliveries], self._stop)
        done: list[Delivery] = []
        attempts: list[Attempt] = []
        for delivery, answer in zip(deliveries, found, strict=True):
            if isinstance(answer, Attempt):
                attempts.append(answer)
                if self._transport.pushes:
                    answer.on_acknowledge = partial(self._acknowledge, [delivery])
                    if self._transport.holds:
                        answer.on_heartbeat = partial(self._hold, delivery)
                else:
                    done.append(delivery)
            elif answer is Verdict.PUT_ASIDE:
                self._put_aside(delivery)
            else:
                done.append(delivery)
        self._acknowledge(done)
        return attempts

    def _put_aside(self, delivery: Delivery) -> None:
        try:
            self._transport.put_aside(delivery)
        except BackendUnavailable as error:  # it comes again; the jobs begun with it must run
            logger.warning("a message could not be put aside: %s", error)

    def _hold(self, delivery: Delivery) -> None:
        """Prolong it beside the heartbeat, which must not wait for a broker that does not answer."""
        with self._lock:
            self._held.append(delivery)
            if len(self._held) == 1:
                self._holder.submit(self._prolong)

    def _prolong(self) -> None:
        with self._lock:
            held, self._held = self._held, []
        try:
            self._transport.prolong(held)
        except BackendUnavailable as error:  # they may come to another worker, and lose against their records
            logger.warning("%d messages could not be kept back: %s", len(held), error)

    def _acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        try:
            if deliveries:
                self._transport.ack(deliveries)
        except BackendUnavailable as error:  # they come again, and lose against their records
            logger.warning("%d messages could not be acknowledged: %s", len(deliveries), error)

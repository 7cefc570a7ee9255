"""`SimulatedRuntime` and `Broker`: the clocks, the waits and the unreliable broker of the fault search."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import count
from typing import Self

from queueport.capability import Capability
from queueport.engine.runtime import Runtime
from queueport.errors import BackendUnavailable
from queueport.spi.message import Depth, Message, SendOutcome, SendResult
from queueport.spi.settings import Settings
from queueport.spi.store import JobStore
from queueport.spi.transport import Delivery, Transport
from queueport.spi.url import BackendURL
from queueport.testing.machine.scheduler import Fault, Scheduler


class SimulatedRuntime(Runtime):
    """A runtime in which time moves only while no actor runs, ids are numbers, and waits hand control back.

    Reading the clock is not a point: to stop there has the same effect as to stop at the next point.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.now = 1_000_000.0
        """The time on every clock: the store's clock, and the wall clock and monotonic clock of each process."""
        self._scheduler = scheduler
        self._numbers = count(1)

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now

    def wait(self, awaited: threading.Event | threading.Condition, seconds: float) -> bool:
        """Hand control back. The wait ends when the actor runs again, which may be before `seconds` are over.

        Returns whether the event is set; False for a condition.
        """
        if isinstance(awaited, threading.Event):
            self._scheduler.actor().pause()
            return awaited.is_set()
        awaited.release()
        try:
            self._scheduler.actor().pause()
        finally:
            awaited.acquire()
        return False

    def start(self, work: Callable[[], None]) -> None:
        """Let the actor call `work` after its procedure, so that the caller gets its answer first."""
        self._scheduler.actor().after.append(work)

    def lock(self) -> AbstractContextManager[object]:
        return Lock(self._scheduler)

    def new_id(self) -> str:
        """A new id from a counter, in hexadecimal, so that each run of an example has the same ids."""
        return f"{next(self._numbers):04x}"

    def random(self) -> float:
        return 0.5


class Lock(AbstractContextManager[None]):
    """A lock that an actor may hold while another actor runs. An actor that waits for the lock hands control back."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._held = False

    def __enter__(self) -> None:
        while self._held:
            self._scheduler.actor().pause()
        self._held = True

    def __exit__(self, *_: object) -> None:
        self._held = False


class Broker(Transport):
    """A broker in memory: lists of waiting messages, of messages that a process must acknowledge, and of dead letters.

    With `early`, a worker acknowledges a message when it has begun the job; otherwise at the job's first heartbeat
    or its end, whichever is first.
    """

    name = "broker"

    def __init__(self, scheduler: Scheduler, *, early: bool, buries: bool) -> None:
        self.pushes = not early
        self.capabilities = frozenset({Capability.NATIVE_DEAD_LETTERS} if buries else ())
        self.queue: list[Message] = []
        self.unacknowledged: dict[str, list[Message]] = {}
        self.dead_letters: list[Message] = []
        self.refused: set[tuple[str, int, bool]] = set()
        """For each message that the broker refuses for good: the id, the life, and True for a dead-letter copy."""
        self._scheduler = scheduler

    # -- called by production code --------------------------------------------------------------------

    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        raise NotImplementedError

    def send(self, queue: str, messages: Sequence[Message]) -> Sequence[SendResult]:
        return self._take(self.queue, messages)

    def _take(self, into: list[Message], messages: Sequence[Message]) -> list[SendResult]:
        """Add messages to a list, and return an outcome for each message.

        A message is not added if a fault prevents that, or if the broker has refused the same message before.
        """

        def take(number: int) -> list[SendResult]:
            results = []
            for position, message in enumerate(messages):
                outcome = SendOutcome.SENT if position < number else SendOutcome.FAILED
                if (message.id, message.life, message.buried) in self.refused:
                    outcome = SendOutcome.REFUSED
                if outcome is SendOutcome.SENT:
                    into.append(message)
                results.append(SendResult(outcome))
            return results

        def failing(fault: Fault) -> list[SendResult]:
            if fault is Fault.REFUSED:
                self.refused.update((message.id, message.life, message.buried) for message in messages)
            return take(1 if fault is Fault.PARTLY else 0)

        try:
            return self._scheduler.call(lambda: take(len(messages)), failing)
        except BackendUnavailable:
            self._scheduler.actor().answered = True  # the caller gets an answer: the outcome UNKNOWN
            return [SendResult(SendOutcome.UNKNOWN)] * len(messages)

    def kept_copies(self) -> set[tuple[str, int]]:
        """The ids and lives of the dead-letter copies that the broker keeps, or has refused for good."""
        refused = {(job_id, life) for job_id, life, buried in self.refused if buried}
        return refused | {(copy.id, copy.life) for copy in self.dead_letters}

    def receive(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        actor = self._scheduler.actor()

        def deliver() -> list[Message]:
            messages = self.queue[:limit]
            del self.queue[:limit]
            self.unacknowledged.setdefault(actor.process, []).extend(messages)
            return messages

        messages = self._scheduler.call(deliver)
        actor.redriven = next((message.life for message in messages if message.buried), None)
        return [Delivery(message.body, message.queue, message) for message in messages]

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        self._scheduler.call(lambda: self._acknowledge(deliveries))

    def put_aside(self, delivery: Delivery) -> None:
        self.ack([delivery])

    def depth(self, queue: str) -> Depth:
        return self._scheduler.call(lambda: Depth(len(self.queue)))

    def bury(self, queue: str, messages: Sequence[Message]) -> Sequence[SendResult]:
        return self._take(self.dead_letters, messages)

    def unbury(self, queue: str, messages: Sequence[Message]) -> None:
        gone = {(message.id, message.life) for message in messages}
        self._scheduler.call(lambda: _keep(self.dead_letters, lambda copy: (copy.id, copy.life) not in gone))

    def purge(self, queue: str) -> None:
        self._scheduler.call(lambda: _keep(self.queue, lambda message: message.buried))

    def check(self) -> Sequence[str]:
        return ()

    def _acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        actor = self._scheduler.actor()
        assert actor.begun, "a message is acknowledged before its begin was answered"
        held = self.unacknowledged.get(actor.process, [])
        for delivery in deliveries:
            if delivery.receipt in held:
                held.remove(delivery.receipt)

    # -- faults ---------------------------------------------------------------------------------------

    def deliver_again(self, process: str) -> None:
        """Put the messages that a process has not acknowledged back into the queue, as after the end of the process."""
        self.queue += self.unacknowledged.pop(process, [])

    def disturb(self, how: str, index: int) -> None:
        """Lose a waiting message ("lose"), repeat it ("repeat"), or move it to the end of the queue ("defer").

        A redriven dead-letter copy is never removed: "lose" does nothing, and "defer" repeats the copy.
        """
        message = self.queue[index % len(self.queue)]
        if how != "repeat" and not message.buried:
            self.queue.remove(message)
        if how != "lose":
            self.queue.append(message)

    def redeliver(self, index: int) -> None:
        """Deliver an unacknowledged message a second time."""
        held = [message for messages in self.unacknowledged.values() for message in messages]
        self.queue.append(held[index % len(held)])

    def redrive(self, index: int) -> None:
        """Move a dead-letter copy back to the queue, as the broker's own tools do."""
        self.queue.append(self.dead_letters.pop(index % len(self.dead_letters)))


def _keep(messages: list[Message], wanted: Callable[[Message], bool]) -> None:
    messages[:] = filter(wanted, messages)

"""The machine's world: a clock, a broker that loses and repeats, and actors that stop between any two calls."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import count
from typing import Any, TypeVar

from queueport.driver import SendOutcome
from queueport.message import Message

T = TypeVar("T")


class Clock:
    """The store's clock, and everybody's: it moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        """The time, as a store asks for it."""
        return self.now


class NoAnswer(Exception):
    """The answer to a call was lost; it may or may not have been applied."""


@dataclass(frozen=True, slots=True)
class Call:
    """One step of an actor: a call to store or broker.

    `refused`: what a callee answers that certainly did nothing. `sure`: it cannot be lost, being no call at all, or one
    whose loss another rule stands for.
    """

    do: Callable[[], Any]
    refused: Any = None
    sure: bool = False


Steps = Generator[Call, Any, T]


class Fault(Enum):
    """What may happen to one call."""

    ANSWER_LOST = auto()
    """Applied, but nobody hears so."""
    NOT_APPLIED = auto()
    """It never arrived, and nobody hears so."""
    REFUSED = auto()
    """The broker says no."""


class Actor:
    """Somebody who goes through one procedure, call by call. `kind`: producer, dispatcher, worker or heart."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.token = ""
        """The attempt that a worker speaks for."""
        self.redriven: int | None = None
        """The life named by the buried message that a worker holds."""
        self._steps: Steps[None] | None = None
        self._call: Call | None = None

    @property
    def idle(self) -> bool:
        """Nothing to do."""
        return self._call is None

    def begin(self, steps: Steps[None]) -> None:
        """Start a procedure, up to its first call."""
        self._steps = steps
        self._advance(lambda: next(steps))

    def step(self, fault: Fault | None = None) -> None:
        """Make the next call, and go on to the one after it."""
        call, steps = self._call, self._steps
        if call is None or steps is None:
            return
        fault = None if call.sure else fault
        if fault is Fault.REFUSED and call.refused is not None:
            self._advance(lambda: steps.send(call.refused))
            return
        answer = None if fault is Fault.NOT_APPLIED else call.do()
        if fault in (Fault.ANSWER_LOST, Fault.NOT_APPLIED):
            self._advance(lambda: steps.throw(NoAnswer()))
        else:
            self._advance(lambda: steps.send(answer))

    def crash(self, *, applied: bool) -> None:
        """Die, with the next call still made or not."""
        if applied and self._call is not None:
            self._call.do()
        if self._steps is not None:
            self._steps.close()
        self._call = self._steps = None

    def _advance(self, go: Callable[[], Call]) -> None:
        try:
            self._call = go()
        except (StopIteration, NoAnswer):  # a procedure may give up where nobody answers
            self._call = self._steps = None


@dataclass(slots=True)
class Attempt:
    """What a worker knows of the attempt it holds. `until`: how long its lease lasts for sure, by its own reckoning."""

    token: str
    until: float
    job_id: str = ""
    running: bool = False
    """The task's code runs."""
    lost: bool = False
    """The store has said that another one holds the job."""


class Process:
    """A worker process with its dispatcher: they are stopped and killed together."""

    def __init__(self, name: str, tasks: Sequence[str], now: float) -> None:
        self.name = name
        self.tasks = tuple(tasks)
        self.worker = Actor("worker")
        self.dispatcher = Actor("dispatcher")
        self.heart = Actor("heart")
        self.attempts: list[Attempt] = []
        self.frozen = False
        """Stopped by SIGSTOP: nothing of it moves, its heart included."""
        self.stopping: str | None = None
        """Told to stop; its running task "stops" or "hangs"."""
        self.beats_at = now
        self.received = 0.0
        """The newest `sent_at` among the messages it received."""
        self.leases_from = now
        """It judges no lease before that: it has only just reached the store."""

    @property
    def actors(self) -> list[Actor]:
        """Those who go through procedures in it."""
        return [self.worker, self.dispatcher]


@dataclass(slots=True)
class Broker:
    """A bag of messages, and the dead letters. `held`: delivered, not acknowledged."""

    queue: list[Message] = field(default_factory=list)
    held: dict[str, list[Message]] = field(default_factory=dict)
    dead_letters: list[Message] = field(default_factory=list)

    def publish(self, message: Message) -> SendOutcome:
        """Take it."""
        self.queue.append(message)
        return SendOutcome.SENT

    def receive(self, consumer: str) -> Message | None:
        """Deliver the first one."""
        if not self.queue:
            return None
        message = self.queue.pop(0)
        self.held.setdefault(consumer, []).append(message)
        return message

    def acknowledge(self, consumer: str, message: Message) -> None:
        """Forget it, once."""
        if message in self.held.get(consumer, []):
            self.held[consumer].remove(message)

    def release(self, consumer: str) -> None:
        """The consumer is gone: what it held is delivered again."""
        self.queue.extend(self.held.pop(consumer, []))

    def purge(self) -> None:
        """Drop what waits, but for what is on its way back from the dead letters."""
        self.queue = [message for message in self.queue if message.buried]

    def mistreat(self, how: str, index: int) -> None:
        """Lose, repeat or defer a message that waits; what is on its way back from the dead letters is not lost."""
        message = self.queue[index % len(self.queue)]
        if how != "repeat" and not message.buried:
            self.queue.remove(message)
        if how != "lose":
            self.queue.append(message)

    def redeliver(self, index: int) -> None:
        """Deliver once more what is held."""
        held = [message for messages in self.held.values() for message in messages]
        self.queue.append(held[index % len(held)])

    def bury(self, message: Message) -> None:
        """Keep a copy in the dead letters."""
        self.dead_letters.append(message)

    def unbury(self, job_id: str, life: int) -> None:
        """Drop the copies of that life."""
        self.dead_letters = [copy for copy in self.dead_letters if (copy.id, copy.life) != (job_id, life)]

    def redrive(self, index: int) -> None:
        """Somebody moves a dead letter back to the queue, by the broker's own tools."""
        self.queue.append(self.dead_letters.pop(index % len(self.dead_letters)))


class Names:
    """Revs, tokens and ids, new each time and the same in every run of an example."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def __call__(self, kind: str) -> str:
        """A new one."""
        return f"{kind}{next(self._numbers)}"

"""The SPI of a bare broker, one without workers of its own; `TransportDriver` makes a backend of it.

For authors of adapters: a transport is about 100 lines; `examples/05_write_an_adapter.py` is one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from queueport.capability import Capability, Limits
from queueport.driver import Depth, Sent
from queueport.message import Message
from queueport.url import BackendURL

if TYPE_CHECKING:
    from queueport.settings import Settings

__all__ = ["Delivery", "Transport"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as it came: its bytes, the queue it came from, and whatever the transport needs to acknowledge it."""

    body: bytes
    queue: str
    receipt: Any = field(default=None, repr=False)


class Transport(ABC):
    """A broker. Methods must be thread-safe and must work in a child after a fork; connections are made on first use.

    A method may raise `BackendUnavailable` with the library's own exception as its cause, and nothing else, within
    `call_timeout`; the core calls again later. Opening must do no I/O.
    """

    name: ClassVar[str]
    """What messages to users call it."""
    capabilities: frozenset[Capability] = frozenset()
    """Those of the class, or of one transport where its options decide. PERSISTENT must be the class's."""
    limits: Limits = Limits()
    settings: ClassVar[type[Any] | None] = None
    """The pydantic model of its URL options."""
    pushes: bool = False
    """Messages are delivered ahead of free workers: then they are acknowledged at the job's end or at its first
    heartbeat, so that the broker hands them to another worker when this one dies. Else right after begin."""
    holds: bool = False
    """Where `pushes`, and the order of messages hangs on it: they are acknowledged at the job's end only, and `prolong`
    is called at each heartbeat."""
    wait: float = 0.5
    """Seconds that an idle worker waits in one `receive`; it stops that much later. More where each call costs."""

    @classmethod
    @abstractmethod
    def open(cls, url: BackendURL, settings: Settings) -> Self:
        """Make a transport. Raises ConfigurationError for a wrong option."""

    @classmethod
    def default_store(cls, url: BackendURL) -> str | None:
        """URL of the store that goes with this broker unless the user names one; None: one must be named."""
        return None

    @abstractmethod
    def send(self, queue: str, messages: Sequence[Message]) -> Sequence[Sent]:
        """Put messages into a queue; an outcome for each, in order. Must not raise: an error is an outcome.

        SENT only once the broker has confirmed it, FAILED only if it certainly never arrives, else UNKNOWN.
        """

    @abstractmethod
    def receive(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        """At most `limit` messages, waiting up to `wait` seconds for the first. Each stays out of other workers' sight
        until acknowledged; if this process dies first, the broker must deliver it again.
        """

    @abstractmethod
    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """These are done with. May be called from any thread; one that the broker has forgotten is no error."""

    def prolong(self, deliveries: Sequence[Delivery]) -> None:  # noqa: B027  # only where `holds`
        """The jobs of these still run: keep them back from other workers for longer than a lease. Some may have been
        acknowledged meanwhile, which is no error.
        """

    @abstractmethod
    def put_aside(self, delivery: Delivery) -> None:
        """Keep a message that is none of queueport's where an operator can see it, and out of the queue."""

    @abstractmethod
    def depth(self, queue: str) -> Depth | None:
        """The broker's own count; None where it cannot be known. A queue that does not exist is empty."""

    def bury(self, messages: Sequence[Message]) -> None:  # noqa: B027  # only where NATIVE_DEAD_LETTERS is declared
        """Put copies into the broker's dead-letter place; a second copy of the same id and life is harmless."""

    def unbury(self, messages: Sequence[Message]) -> None:  # noqa: B027  # only where NATIVE_DEAD_LETTERS is declared
        """Take the copies of these jobs out again; one that is not there is no error."""

    def setup(self, queues: Sequence[str]) -> None:  # noqa: B027  # nothing to make is fine
        """Make what must exist before use. Must be idempotent."""

    @abstractmethod
    def purge(self, queue: str) -> None:
        """Drop the messages waiting in that queue; dead letters must stay."""

    @abstractmethod
    def check(self) -> Sequence[str]:
        """Reach the broker; warnings about how it is run, one sentence each."""

    def close(self) -> None:  # noqa: B027  # nothing to close is fine
        """Let go of connections. Must be idempotent; must not raise."""

    @property
    def native(self) -> Any:
        """The library's own client, for what queueport does not cover."""
        return None

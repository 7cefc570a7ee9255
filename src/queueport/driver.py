"""The SPI of a backend with workers of its own. For authors of adapters: a driver translates, it does not decide.

A bare broker implements the smaller `queueport.transport.Transport` instead.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from queueport.capability import Capability, Limits
from queueport.message import Message
from queueport.store import Command, JobStore
from queueport.url import BackendURL

if TYPE_CHECKING:
    from queueport.runner import Runner
    from queueport.settings import Settings

__all__ = ["Depth", "Driver", "SendOutcome", "Sent", "Work"]


class SendOutcome(Enum):
    """What became of one message that was to be published."""

    SENT = auto()
    """The backend has confirmed it."""
    FAILED = auto()
    """It certainly did not arrive and never will."""
    UNKNOWN = auto()
    """It may have arrived."""


class Sent(NamedTuple):
    """The outcome of one publishing, and why it was not SENT: a BackendUnavailable that says what to do and has the
    library's exception as its cause, or that exception itself.
    """

    outcome: SendOutcome
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Depth:
    """What a backend counts in one queue: waiting, and delivered but not acknowledged (None: unknown)."""

    ready: int
    in_flight: int | None = None


@dataclass(slots=True)
class Work:
    """What a worker is to do, as it was asked for.

    `grace`: seconds that running jobs have to end after `stop` is set. `burst`: end when nothing is due.
    """

    queues: tuple[str, ...]
    threads: int = 8
    processes: int = 1
    burst: bool = False
    grace: float = 30.0
    child: dict[str, Any] | None = None
    """What a process of its own needs to do the same, plain JSON; where `processes` is more than one."""
    owns_process: bool = False
    """The process is there for this alone: code that cannot be interrupted may end with it."""
    stop: threading.Event = field(default_factory=threading.Event)
    stuck: list[dict[str, Any]] = field(default_factory=list)
    """Filled at the end: attempts whose code is to end with the process, for `Runner.finish_stuck` afterwards."""


class Driver(ABC):
    """A backend. Methods must be thread-safe and must work in a child after a fork; connections are made on first use.

    A method may raise `BackendUnavailable` with the library's own exception as its cause, and nothing else; it must do
    so within `call_timeout`. Opening must do no I/O.
    """

    name: str
    """What messages to users call it."""
    capabilities: frozenset[Capability] = frozenset()
    limits: Limits = Limits()
    settings: ClassVar[type[Any] | None] = None
    """The pydantic model of its URL options, for `queueport backends` and the docs."""
    carries: ClassVar[bool] = True
    """It has messages of its own. False where the store itself is the queue."""
    alongside: bool = False
    """Its messages go out with the record, in one step of the server that it shares with the store: see `along`."""

    @classmethod
    @abstractmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        """Make a driver. Raises ConfigurationError for a wrong option."""

    @classmethod
    def default_store(cls, url: BackendURL) -> str | None:
        """URL of the store that goes with this backend unless the user names one; None: one must be named."""
        return None

    @abstractmethod
    def publish(self, messages: Sequence[Message]) -> Sequence[Sent]:
        """Hand messages to the backend; an outcome for each, in order. Must not raise: an error is an outcome."""

    def along(self, messages: Sequence[Message]) -> Sequence[Sequence[Command]]:
        """The commands that publish each message, where `alongside`. They must not fail once the first was done."""
        raise NotImplementedError

    @abstractmethod
    def work(self, runner: Runner, work: Work) -> None:
        """Run jobs until `work.stop` is set and the running ones have ended; blocks. Each delivery goes to `runner`."""

    @abstractmethod
    def depth(self, queue: str) -> Depth | None:
        """The backend's own count; None where it cannot be known. A queue that does not exist is empty."""

    def bury(self, messages: Sequence[Message]) -> None:  # noqa: B027  # only where NATIVE_DEAD_LETTERS is declared
        """Put copies into the backend's own dead-letter place; a second copy of the same id and life is harmless."""

    def unbury(self, messages: Sequence[Message]) -> None:  # noqa: B027  # only where NATIVE_DEAD_LETTERS is declared
        """Take the copies of these jobs out again; one that is not there is no error."""

    def setup(self, queues: Sequence[str]) -> None:  # noqa: B027  # nothing to make is fine
        """Make what must exist before use. Must be idempotent."""

    def purge(self, queue: str) -> None:  # noqa: B027  # the records are cancelled by the core
        """Drop the messages waiting in that queue; dead letters must stay."""

    @abstractmethod
    def check(self) -> Sequence[str]:
        """Reach the backend; warnings about how it is run, one sentence each."""

    def close(self) -> None:  # noqa: B027  # nothing to close is fine
        """Let go of connections. Must be idempotent; must not raise."""

    @property
    def native(self) -> Any:
        """The library's own object (app, broker, client), for what queueport does not cover."""
        return None

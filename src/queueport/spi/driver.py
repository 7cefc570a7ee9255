"""The interface of backends. For authors of adapters.

A driver translates calls for its backend and decides nothing about jobs. The adapter of a framework that has its own
workers implements `Driver`. The adapter of a plain broker implements `queueport.spi.transport.Transport`, a driver for
which queueport runs the workers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from queueport.capability import Capability, Limits
from queueport.job import Job
from queueport.job.recurrence import Recurrence
from queueport.spi.message import Depth, Message, SendResult
from queueport.spi.runner import JobRunner
from queueport.spi.store import Command, JobStore
from queueport.spi.url import BackendURL

if TYPE_CHECKING:
    from queueport.spi.settings import Settings

__all__ = ["Driver", "ForeignSchedule"]


@dataclass(frozen=True, slots=True)
class ForeignSchedule:
    """A recurring job of an existing app. `problem` says in a sentence why it cannot be imported; None if it can."""

    name: str
    job: Job[Any] | None = None
    recurrence: Recurrence | None = None
    problem: str | None = None


class Driver(ABC):
    """The adapter to one backend. Every method must be thread-safe and must work in a child process after a fork.

    If the backend is unavailable, a method must raise `BackendUnavailable` within `call_timeout` seconds, with the
    client library's exception as its cause. A method must raise nothing else, unless its docstring says so. Some
    methods must not raise at all, or may take longer; their docstrings say so. A driver must connect on first use, not
    before.

    All names are checked before a driver gets them, and are case-sensitive. A queue is `[A-Za-z0-9_-]` followed by at
    most 63 of `[A-Za-z0-9_.-]`, the id of a job is `[A-Za-z0-9_-]{1,64}`, and a namespace is
    `[A-Za-z_][A-Za-z0-9_]{0,31}`. If the backend does not allow all of these names, the driver must encode them, and
    different names must stay different. A task's name has up to 200 Unicode characters, and a group up to 256.
    """

    name: str
    """The backend's name in errors and reports."""
    capabilities: frozenset[Capability] = frozenset()
    url_options: ClassVar[Mapping[Capability, str]] = MappingProxyType({})
    """The options of the URL that add a capability, such as "fifo=true", for the errors about missing ones."""
    limits: Limits = Limits()
    """The maximum sizes. Those of payload and message are checked at each enqueue before any I/O, and that of a result
    when the task has returned. They must be known without a connection. If an administrator can change the server's
    limit, use the server's default, offer a URL option, and let `check` warn if the server's limit is lower."""
    settings: ClassVar[type[Any] | None] = None
    """The pydantic model of the backend's URL options, for `queueport backends` and the documentation."""
    carries: ClassVar[bool] = True
    """True if the backend carries messages; False if the store is the queue."""
    returns_fetched: bool = True
    """True if messages that a killed worker had fetched are delivered to another worker soon, within about a lease.
    False if they stay hidden for longer, or are lost: a dispatcher then publishes these jobs again when the worker is
    lost."""
    publishes_with_insert: bool = False
    """True if the backend shares a server with the store, so that the store inserts a record and publishes its message
    in one atomic step, by the commands that `publish_commands` returns."""

    @classmethod
    @abstractmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        """Make a driver from a URL. Must not do I/O. Raises ConfigurationError for a wrong URL or option."""

    @classmethod
    def default_store(cls, url: BackendURL) -> str | None:
        """The URL of the store that is used if the user gives no store. None: the user must give one."""
        return None

    @abstractmethod
    def publish(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        """Publish at most 500 messages, of any queues; returns a result for each, in order.

        Must return before twice `call_timeout` is over, because the claim on the jobs then ends. Must not raise. Must
        put an error, such as BackendUnavailable, into the result of each message that it concerns.
        """

    def publish_commands(self, messages: Sequence[Message]) -> Sequence[Sequence[Command]]:
        """For each message, the server's commands that publish it. Called only if `publishes_with_insert` is True.

        If the first command of a message succeeds, its other commands must not fail.
        """
        raise NotImplementedError

    @abstractmethod
    def work(self, runner: JobRunner) -> None:
        """Run jobs in this process: call `runner.pull` or `runner.serve`, and return when that call has returned.

        Called once in each process of a worker.
        """

    @abstractmethod
    def depth(self, queue: str) -> Depth | None:
        """The numbers of messages in the queue, as the backend reports them; None if the backend cannot know them.

        For a queue that does not exist, must return zero messages.
        """

    def bury(self, queue: str, messages: Sequence[Message]) -> Sequence[SendResult] | None:
        """Put copies of at most 500 dead jobs of this queue into the backend's dead letters. Must be idempotent.

        Returns a result for each copy, in order; or None if the backend has taken all of them. Must not raise if the
        backend has taken some of the copies: after an exception, the core buries all of them again. Called only if the
        driver has the capability NATIVE_DEAD_LETTERS.
        """
        return None

    def unbury(self, queue: str, messages: Sequence[Message]) -> None:  # noqa: B027  # only with NATIVE_DEAD_LETTERS
        """Remove the copies of at most 500 jobs from the dead letters of this queue. Must ignore missing copies.

        The copy to remove has the same id and life as the given message; `sent_at` and body may be different.
        """

    def setup(self, queues: Sequence[str]) -> None:  # noqa: B027  # many backends need nothing
        """Create these queues, and other objects that the backend needs before use. Must be idempotent."""

    def purge(self, queue: str) -> None:  # noqa: B027  # optional, because the core cancels the records
        """Delete the messages that wait in a queue. Must not change the dead letters."""

    @abstractmethod
    def check(self) -> Sequence[str]:
        """Test whether `publish` would work. Returns warnings about the backend's configuration, one sentence each.

        Must leave nothing behind that a worker or an operator would see. Raises BackendUnavailable if a publish would
        fail, and ConfigurationError if the configuration is wrong.
        """

    def check_queue(self, queue: str) -> None:  # noqa: B027  # many backends need nothing
        """Raise BackendUnavailable if an enqueue into this queue would fail. Must not create a queue.

        For example, an enqueue fails if the backend has a queue of this name with other arguments than the driver's.
        """

    def recurring(self) -> Sequence[ForeignSchedule]:
        """The recurring jobs that an existing app declares for a scheduler of its own, such as Celery's beat.

        `queueport schedules import` adds them to `JobQueue.schedules`.
        """
        return ()

    def close(self) -> None:  # noqa: B027  # some backends have nothing to close
        """Close all connections. Must be idempotent and must not raise.

        Another thread may call a method of the driver during `close` or after it. Such a call must end within
        `call_timeout` seconds, and may raise BackendUnavailable.
        """

    @property
    def native(self) -> Any:
        """The app, broker or client of the backend's library, for features that queueport does not cover; or None."""
        return None

"""The driver of RQ: each message is an RQ job in a Redis, and RQ workers with queueport's classes run it.

For `get_queue`.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

import redis
from pydantic import Field
from rq import Queue
from rq.job import JobStatus
from rq.results import Result

from queueport.capability import Capability
from queueport.errors import BackendUnavailable
from queueport.spi.driver import Driver
from queueport.spi.local_errors import causes, local_error
from queueport.spi.message import Depth, Message, SendOutcome, SendResult, by_queue
from queueport.spi.publishing import publish_parts
from queueport.spi.runner import JobRunner
from queueport.spi.settings import Duration, Settings, options
from queueport.spi.url import BackendURL
from queueport.stores.redis import (
    FAILURES,
    Redis,
    RedisServerOptions,
    Target,
    close_unused,
    connect,
    parse,
    unavailable,
)
from queueport_rq.enqueueing import FAILURE_TTL, Commands, described
from queueport_rq.job import ENTRY, SERIALIZER, QueueportJob
from queueport_rq.joining import VARIABLE, join
from queueport_rq.names import Names
from queueport_rq.threads import ThreadWorkers

if TYPE_CHECKING:
    from queueport.spi.store import Command, JobStore

__all__ = ["RQDriver"]

T = TypeVar("T")

BATCH = 300
"""Maximum messages in one transaction."""
CONNECTING = "Timeout connecting"
"""The text in redis-py's error if no connection could be opened in time. No command was sent then."""


class RQOptions(RedisServerOptions):
    """The options of `rq+redis://` URLs: those of a Redis server, and one for RQ."""

    keep: Annotated[int, Duration] = Field(
        500, ge=1, description="seconds for which RQ's own tools show a message after its attempt"
    )


class Native:
    """Gives applications RQ's own objects for the queues of a namespace. `queue.native` returns an instance."""

    def __init__(self, connection: redis.Redis, names: Names) -> None:
        self.connection = connection
        self.names = names
        self._queues: dict[str, Queue] = {}

    def queue(self, name: str) -> Queue:
        """RQ's object for a queue. `name` is the name that queueport uses."""
        if name not in self._queues:
            self._queues[name] = Queue(
                self.names.native(name), connection=self.connection, job_class=QueueportJob, serializer=SERIALIZER
            )
        return self._queues[name]

    def __repr__(self) -> str:
        return f"<RQ in namespace {self.names.namespace!r}>"


class RQDriver(Driver):
    """Publishes messages as RQ jobs on one Redis server, and starts RQ workers.

    `keep` is the number of seconds for which RQ keeps a message after its attempt.
    """

    name = "RQ"
    capabilities = frozenset(
        {Capability.DEPTH, Capability.PERSISTENT, Capability.NATIVE_DEAD_LETTERS, Capability.THREADS}
    )
    settings = RQOptions
    returns_fetched = False

    def __init__(self, target: Target, settings: Settings, keep: int) -> None:
        self.target = target
        self.names = Names(settings.namespace)
        self.keep = keep
        self.call_timeout = settings.call_timeout
        self._closed = False
        self._native = Native(self.client(), self.names)
        self._commands = Commands(self._native.connection, self.names, keep)

    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        server = _redis_url(url)
        driver = cls(parse(server), settings, options(url, RQOptions).keep)
        driver.publishes_with_insert = store.shares_server(server)
        join(*(path.strip() for path in os.environ.get(VARIABLE, "").split(",") if path.strip()))
        return driver

    @classmethod
    def default_store(cls, url: BackendURL) -> str | None:
        return _redis_url(url).full

    def client(self) -> redis.Redis:
        """Make a new client. Each worker needs its own client, because RQ changes the timeouts of a worker's client."""
        return connect(self.target, self.call_timeout)

    def publish(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        return self._put(messages, self._publish)

    def _put(self, messages: Sequence[Message], add: Callable[[Sequence[Message], Any], None]) -> list[SendResult]:
        """Store messages in batches, each in one transaction. `add` adds the commands of a batch to a pipeline."""

        def put(positions: Sequence[int]) -> Sequence[SendResult]:
            batch = [messages[i] for i in positions]
            try:
                self._transaction(partial(add, batch))
                sent = SendResult(SendOutcome.SENT)
            except BackendUnavailable as error:
                sent = SendResult(SendOutcome.FAILED if _refused(error) else SendOutcome.UNKNOWN, error)
            return [sent] * len(batch)

        return publish_parts(_batches(range(len(messages))), put, self.call_timeout)

    def _publish(self, messages: Sequence[Message], pipeline: Any) -> None:
        for words in (words for commands in self.publish_commands(messages) for words in commands):
            pipeline.execute_command(*words)

    def publish_commands(self, messages: Sequence[Message]) -> Sequence[Sequence[Command]]:
        found: dict[int, Sequence[Command]] = {}
        for name, positions in by_queue(messages).items():
            made = self._commands.enqueue(self._native.queue(name), [messages[i] for i in positions])
            found.update(zip(positions, made, strict=True))
        return [found[position] for position in range(len(messages))]

    def work(self, runner: JobRunner) -> None:
        server = Redis(self.target, call_timeout=self.call_timeout)
        workers = ThreadWorkers(self.client(), server, self.names, runner, keep=self.keep)
        runner.serve(workers)

    def depth(self, queue: str) -> Depth | None:
        found = self._native.queue(queue)

        def count(pipeline: Any) -> None:
            pipeline.llen(found.key)
            pipeline.zcard(found.started_job_registry.key)  # the registry's `count` would also clean up the registry

        ready, running = self._transaction(count)
        return Depth(ready, running)

    def bury(self, queue: str, messages: Sequence[Message]) -> Sequence[SendResult]:
        return self._put(messages, self._bury)

    def _bury(self, messages: Sequence[Message], pipeline: Any) -> None:
        for message in messages:
            self._bury_one(message, pipeline)

    def _bury_one(self, message: Message, pipeline: Any) -> None:
        queue = self._native.queue(message.queue)
        job = QueueportJob.create(
            ENTRY,
            connection=self._native.connection,
            id=self.names.copy(message.id, message.life),
            origin=queue.name,
            status=JobStatus.FAILED,
            serializer=SERIALIZER,
            **described(message),
            **self._commands.common,
        )
        text = _error(message)
        queue.failed_job_registry.add(job, ttl=FAILURE_TTL, exc_string=text, pipeline=pipeline)
        Result.create_failure(job, FAILURE_TTL, exc_string=text, pipeline=pipeline)

    def unbury(self, queue: str, messages: Sequence[Message]) -> None:
        for batch in _batches(messages):
            self._transaction(partial(self._unbury, batch))

    def _unbury(self, messages: Sequence[Message], pipeline: Any) -> None:
        for message in messages:
            copy = self.names.copy(message.id, message.life)
            self._native.queue(message.queue).failed_job_registry.remove(copy, pipeline=pipeline)
            results = str(Result.get_key(copy))  # type: ignore[no-untyped-call]  # RQ has no types here
            pipeline.delete(QueueportJob.key_for(copy), results)

    def purge(self, queue: str) -> None:
        self._call(self._native.queue(queue).empty)

    def check(self) -> Sequence[str]:
        queue = self._native.queue("default")
        keys = f"{queue.key}:check", QueueportJob.key_for(f"{queue.name}:check")

        def fill(pipeline: Any) -> None:
            pipeline.rpush(keys[0], "")
            pipeline.hset(keys[1], "data", "")
            pipeline.delete(*keys)

        self._transaction(fill)
        return ()

    def close(self) -> None:
        self._closed = True
        close_unused(self._native.connection)

    @property
    def native(self) -> Native:
        return self._native

    def _transaction(self, fill: Callable[[Any], object]) -> list[Any]:
        """Run the commands that `fill` adds to a pipeline in one transaction, and return the answers.

        If the connection was lost, runs the transaction once more. Raises BackendUnavailable.
        """

        def run() -> list[Any]:
            with self._native.connection.pipeline() as pipeline:
                fill(pipeline)
                answers: list[Any] = pipeline.execute()
                return answers

        return self._call(run)

    def _call(self, call: Callable[[], T]) -> T:
        """Run a call that is idempotent, or that publishes, as duplicates of a message are harmless.

        If the connection was lost, for example because it was idle, run the call once more over a new connection. If
        the second call fails too, its error has the first error as the cause, because the first call may have been
        applied. Raises BackendUnavailable.
        """
        try:
            with self._reaching():
                return call()
        except BackendUnavailable as error:
            if not isinstance(error.__cause__, redis.ConnectionError) or _refused(error):
                raise
            lost = error.__cause__
        close_unused(self._native.connection)
        try:
            with self._reaching():
                return call()
        except BackendUnavailable as error:
            raise error from lost

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Turn errors of the Redis client in the `with` block into BackendUnavailable."""
        try:
            yield
        except FAILURES as error:
            raise unavailable(self.target.shown, error, self.call_timeout) from error
        except Exception:
            raise
        except BaseException:  # the thread was interrupted: no later call may read this call's answer
            close_unused(self._native.connection)
            raise
        finally:
            if self._closed:  # `close` was called meanwhile, and could not close the connection of this call
                close_unused(self._native.connection)


def _redis_url(url: BackendURL) -> BackendURL:
    """The URL of the Redis server, without the options of RQ."""
    own = {name: value for name, value in url.options.items() if name in RedisServerOptions.model_fields}
    return BackendURL(url.text.removeprefix("rq+"), own)


def _batches(messages: Sequence[T]) -> Iterator[Sequence[T]]:
    return (messages[start : start + BATCH] for start in range(0, len(messages), BATCH))


def _refused(error: BaseException | None) -> bool:
    """Whether the transaction was certainly not applied: the Redis refused it, or no connection could be opened."""
    kinds = (redis.ResponseError, redis.AuthenticationError, ConnectionRefusedError, FileNotFoundError, socket.gaierror)
    if error is None:
        return False
    certain = any(isinstance(cause, kinds) or CONNECTING in str(cause) for cause in causes(error))
    return certain or local_error(error) is not None


def _error(message: Message) -> str:
    """The text of the job's error, for its dead-letter copy: the traceback, or else the error's type and message.

    Returns "" if the message contains no error.
    """
    error = json.loads(message.body).get("error")
    return "" if error is None else error["traceback"] or f"{error['type']}: {error['message']}"

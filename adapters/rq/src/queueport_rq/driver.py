"""The driver: messages are RQ jobs in a Redis, and RQ's own workers run them. For `get_queue`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

import redis

from queueport import supervisor
from queueport.capability import Capability
from queueport.driver import Depth, Driver, SendOutcome, Sent, Work
from queueport.errors import BackendUnavailable
from queueport.message import Message
from queueport.stores import redis_client, redis_errors, redis_url
from queueport.stores.redis_url import Target
from queueport.url import BackendURL
from queueport_rq.broker import Broker
from queueport_rq.names import Names
from queueport_rq.options import RQOptions
from queueport_rq.options import redis_url as url_of_redis
from queueport_rq.threads import ThreadWorkers

if TYPE_CHECKING:
    from queueport.runner import Runner
    from queueport.settings import Settings
    from queueport.store import Command, JobStore

__all__ = ["RQDriver"]

T = TypeVar("T")

BATCH = 300
"""Messages in one pipeline."""


class RQDriver(Driver):
    """RQ on one Redis, a namespace's queues by names of their own."""

    name = "RQ"
    capabilities = frozenset(
        {Capability.DEPTH, Capability.PERSISTENT, Capability.NATIVE_DEAD_LETTERS, Capability.THREADS}
    )
    settings = RQOptions

    def __init__(self, target: Target, names: Names, *, keep: int, call_timeout: float, alongside: bool) -> None:
        self.target = target
        self.alongside = alongside
        self.names = names
        self.keep = keep
        self.call_timeout = call_timeout
        self._broker = Broker(self.client(), names, keep)

    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        options = url.settings(RQOptions)
        redis = url_of_redis(url)
        return cls(
            redis_url.parse(redis),
            Names(settings.namespace),
            keep=options.keep,
            call_timeout=settings.call_timeout,
            alongside=store.alongside(redis),
        )

    @classmethod
    def default_store(cls, url: BackendURL) -> str | None:
        return url_of_redis(url).full

    def client(self) -> redis.Redis:
        """A client of its own, for RQ changes the timeouts of a worker's."""
        return redis_client.connect(self.target, self.call_timeout)

    def publish(self, messages: Sequence[Message]) -> Sequence[Sent]:
        outcomes: list[Sent] = []
        for batch in _batches(messages):
            try:
                self._reach(partial(self._broker.send, batch))
                sent = Sent(SendOutcome.SENT)
            except BackendUnavailable as error:
                sent = Sent(SendOutcome.FAILED if _refused(error) else SendOutcome.UNKNOWN, error)
            outcomes.extend([sent] * len(batch))
        return outcomes

    def along(self, messages: Sequence[Message]) -> Sequence[Sequence[Command]]:
        return [self._broker.commands(message) for message in messages]

    def work(self, runner: Runner, work: Work) -> None:
        if work.processes > 1:
            supervisor.run(runner, work)
        else:
            ThreadWorkers(self, runner, work).run()

    def depth(self, queue: str) -> Depth | None:
        return self._reach(lambda: self._broker.depth(queue))

    def bury(self, messages: Sequence[Message]) -> None:
        for batch in _batches(messages):
            self._reach(partial(self._broker.bury, batch))

    def unbury(self, messages: Sequence[Message]) -> None:
        for batch in _batches(messages):
            self._reach(partial(self._broker.unbury, batch))

    def purge(self, queue: str) -> None:
        self._reach(lambda: self._broker.empty(queue))

    def check(self) -> Sequence[str]:
        self._reach(self._broker.connection.ping)
        return ()

    def close(self) -> None:
        self._broker.connection.close()

    @property
    def native(self) -> Any:
        """Its `queue(name)` is RQ's own queue, its `connection` the client of the Redis."""
        return self._broker

    def _reach(self, call: Callable[[], T]) -> T:
        try:
            return self._whole(call)
        except (redis.RedisError, OSError) as error:
            raise redis_errors.unavailable(self.target.shown, error, self.call_timeout) from error

    def _whole(self, call: Callable[[], T]) -> T:
        """Call; where the calling task is interrupted in the middle, no other call must read the answer to this one."""
        try:
            return call()
        except Exception:
            raise
        except BaseException:
            self._broker.connection.connection_pool.disconnect(inuse_connections=False)
            raise


def _batches(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    return (messages[start : start + BATCH] for start in range(0, len(messages), BATCH))


def _refused(error: BaseException | None) -> bool:
    """Whether the transaction certainly did not happen: the server said no, or there was none to hear it."""
    while error is not None:
        if isinstance(error, redis.ResponseError | ConnectionRefusedError | FileNotFoundError):
            return True
        error = error.__cause__ or error.__context__
    return False

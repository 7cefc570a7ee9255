"""The driver of Dramatiq over Redis, which sends many messages in one transaction. For `get_queue`. Its keys are:

    dramatiq:QUEUE        a list of message ids            dramatiq:QUEUE.XQ        dead letters, ids by time of death
    dramatiq:QUEUE.msgs   the messages, by id              dramatiq:QUEUE.XQ.msgs   the dead letters, by id

QUEUE is Dramatiq's name of the queue. The broker of an application may have another namespace than `dramatiq`.
Dramatiq's own script uses the same keys, and more for fetched messages and heartbeats:
https://github.com/Bogdanp/dramatiq/blob/master/dramatiq/brokers/redis/dispatch.lua
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from redis.backoff import NoBackoff
from redis.retry import Retry

from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.spi.message import Depth, Message, SendOutcome, SendResult
from queueport.spi.publishing import publish_parts
from queueport.spi.settings import Settings
from queueport.spi.store import Command, JobStore
from queueport.spi.url import BackendURL
from queueport.stores.redis import (
    Redis,
    RedisServerOptions,
    Target,
    close_unused,
    connect,
    not_connected,
    opened,
    parse,
    unavailable,
)
from queueport_dramatiq.driver import DramatiqDriver, DramatiqMessage, independent
from queueport_dramatiq.messages import OPTION, encode, translate
from queueport_dramatiq.redis_broker import QueueportRedisBroker

__all__ = ["DramatiqOnRedis"]

SENT = SendResult(SendOutcome.SENT)
BATCH = 300
"""Maximum messages that one transaction stores. The server serves no other client while it runs the transaction, for a
few milliseconds."""
PURGE = b"""
for _, id in ipairs(redis.call('lrange', KEYS[1], 0, -1)) do redis.call('hdel', KEYS[2], id) end
return redis.call('del', KEYS[1])
"""
"""A script that deletes the waiting messages of a queue. Messages that workers have fetched stay."""


class DramatiqOnRedis(DramatiqDriver):
    """The driver of `dramatiq+redis://[[USER:]PASSWORD@]HOST[:PORT][/DB]`, `dramatiq+rediss://` and joined brokers."""

    name = "dramatiq on redis"
    settings: ClassVar[type[Any] | None] = RedisServerOptions
    returns_fetched = False

    def __init__(self, broker: RedisBroker, namespace: str, server: Redis, *, joined: bool) -> None:
        """`server` calls the Redis server that `broker` uses."""
        super().__init__(broker, namespace, call_timeout=server.call_timeout, joined=joined)
        self._server = server

    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        target = parse(_redis_url(url))
        server = Redis(target, call_timeout=settings.call_timeout)
        client = connect(target, settings.call_timeout)
        broker = QueueportRedisBroker(server, client, dead_message_ttl=int(settings.keep_dead * 1000))
        driver = cls(broker, settings.namespace, server, joined=False)
        driver.publishes_with_insert = store.shares_server(_redis_url(url))
        return driver

    @classmethod
    def of_application(cls, broker: RedisBroker, settings: Settings) -> Self:
        """Make the driver for the broker of an existing application.

        Raises ConfigurationError if the broker's client has a connection pool of a special class, such as that for
        Sentinel.
        """
        server = _ApplicationRedis(broker.client, settings.call_timeout)
        return cls(broker, settings.namespace, server, joined=True)

    @classmethod
    def default_store(cls, url: BackendURL) -> str | None:
        return _redis_url(url).full

    def publish_commands(self, messages: Sequence[Message]) -> Sequence[Sequence[Command]]:
        # Without `_announce`: this is called only for a broker that `open` made, without an application's middleware.
        return [self._named_commands(message) for message in messages]

    def _named_commands(self, message: Message) -> list[list[bytes]]:
        """The commands of `_commands`, without a copy of the translated message."""
        name = f"{message.id}.{message.life}.{message.send}"
        queue = self.names.native(message.queue)
        encoded = encode(message, queue, redis_message_id=name)
        if encoded is None:
            encoded = translate(message, queue, redis_message_id=name).encode()
        return self._put_commands(queue, name.encode(), encoded)

    def send(self, queue: str, messages: Sequence[DramatiqMessage]) -> Sequence[SendResult]:
        return self._put([self._commands(message) for message in messages])

    def _put(self, pairs: Sequence[Sequence[Sequence[bytes]]]) -> list[SendResult]:
        """Store messages, each by a pair of commands, which succeeds if Redis refuses neither of them."""

        def put(positions: Sequence[int]) -> Sequence[SendResult]:
            try:
                answers = self._transaction([command for i in positions for command in pairs[i]])
            except BackendUnavailable as error:
                certain = not_connected(error) or isinstance(error.__cause__, redis.ResponseError)
                return [SendResult(SendOutcome.FAILED if certain else SendOutcome.UNKNOWN, error)] * len(positions)
            return [self._outcome(pair) for pair in zip(answers[::2], answers[1::2], strict=True)]

        places = range(len(pairs))
        return publish_parts((places[i : i + BATCH] for i in places[::BATCH]), put, self.call_timeout)

    def _outcome(self, answers: Sequence[Any]) -> SendResult:
        """The outcome of one message, made from the answers to its two commands."""
        refused = next((answer for answer in answers if isinstance(answer, Exception)), None)
        return SENT if refused is None else SendResult(SendOutcome.FAILED, self._refused(refused))

    def _commands(self, message: DramatiqMessage) -> list[list[bytes]]:
        """The commands that enqueue a message as Dramatiq's own script does."""
        job = message.options[OPTION]
        name = f"{message.message_id}.{job['life']}.{job['send']}"
        named = message.copy(options={"redis_message_id": name})
        return self._put_commands(named.queue_name, name.encode(), named.encode())

    def _put_commands(self, queue: str, name: bytes, encoded: bytes) -> list[list[bytes]]:
        """The commands that enqueue an encoded message, whose option `redis_message_id` is `name`."""
        return [[b"HSET", self._key(queue, ".msgs"), name, encoded], [b"RPUSH", self._key(queue), name]]

    def depth(self, queue: str) -> Depth:
        name = self.names.native(queue)
        ready, kept = self._answers([[b"LLEN", self._key(name)], [b"HLEN", self._key(name, ".msgs")]])
        return Depth(ready, max(0, kept - ready))

    def put_dead(self, queue: str, messages: Sequence[DramatiqMessage]) -> Sequence[SendResult]:
        now = b"%d" % (time.time() * 1000)
        pairs: list[list[list[bytes]]] = []
        for message in messages:
            name = _copy_name(message)
            named = message.copy(options={"redis_message_id": name.decode()})
            kept = [b"HSET", self._key(queue, ".XQ.msgs"), name, named.encode()]
            pairs.append([kept, [b"ZADD", self._key(queue, ".XQ"), now, name]])
        return self._put(pairs)

    def remove_dead(self, queue: str, messages: Sequence[DramatiqMessage]) -> None:
        commands = []
        for message in messages:
            name = _copy_name(message)
            commands.append([b"ZREM", self._key(queue, ".XQ"), name])
            commands.append([b"HDEL", self._key(queue, ".XQ.msgs"), name])
        self._checked(self._transaction(commands))

    def purge(self, queue: str) -> None:
        name = self.names.native(queue)
        self._answers([[b"EVAL", PURGE, b"2", self._key(name), self._key(name, ".msgs")]])

    def check(self) -> Sequence[str]:
        tried = self.names.native("default") + ":check"
        keys = self._key(tried, ".msgs"), self._key(tried)
        commands = [[b"HSET", keys[0], b"id", b""], [b"RPUSH", keys[1], b"id"], [b"DEL", *keys]]
        self._checked(self._transaction(commands))
        return ()

    def close(self) -> None:
        self._server.close()
        if not self.joined:
            close_unused(self.broker.client)

    def worker_broker(self) -> RedisBroker:
        broker: RedisBroker = independent(self.broker)
        broker.broker_id = dramatiq.message.generate_unique_id()
        return broker

    def _key(self, queue: str, ending: str = "") -> bytes:
        return f"{self.broker.namespace}:{queue}{ending}".encode()

    def _transaction(self, commands: Sequence[Sequence[bytes]]) -> list[Any]:
        """Run commands in one transaction; returns their answers. The answer to a refused command is an exception.

        Raises BackendUnavailable if the whole transaction failed.
        """
        if not commands:
            return []
        answers: list[Any] = self._answers([[b"MULTI"], *commands, [b"EXEC"]])[-1]
        return answers

    def _answers(self, commands: Sequence[Sequence[bytes]]) -> list[Any]:
        return self._checked(self._server.ask(commands))

    def _checked(self, answers: list[Any]) -> list[Any]:
        for answer in answers:
            if isinstance(answer, Exception):
                raise self._refused(answer) from answer
        return answers

    def _refused(self, error: Exception) -> BackendUnavailable:
        refused = unavailable(self._server.target.shown, error, self._server.call_timeout)
        refused.__cause__ = error
        return refused


def _redis_url(url: BackendURL) -> BackendURL:
    """The URL of the Redis server that a `dramatiq+redis://` or `dramatiq+rediss://` URL names."""
    return BackendURL(url.text.removeprefix("dramatiq+"), url.options)


class _ApplicationRedis(Redis):
    """Calls an application's Redis with its client's options, but with queueport's timeout and without retries."""

    def __init__(self, client: redis.Redis, call_timeout: float) -> None:
        """`client` is the client of the application's broker.

        Raises ConfigurationError if the client's connection pool is of a special class, such as that for Sentinel.
        """
        pool = client.connection_pool
        if type(pool) not in (redis.ConnectionPool, redis.BlockingConnectionPool):
            raise ConfigurationError(
                f"the broker's Redis client uses a {type(pool).__name__}: connect it by host and port, or by socket"
            )
        self._kind, self._given = pool.connection_class, pool.connection_kwargs
        host, port = self._given.get("host", "localhost"), self._given.get("port", 6379)
        scheme = "rediss" if issubclass(self._kind, redis.SSLConnection) else "redis"
        shown = f"unix://{self._given['path']}" if "path" in self._given else f"{scheme}://{host}:{port}"
        super().__init__(Target(shown, ()), call_timeout=call_timeout)

    def connect(self, deadline: float) -> Any:
        seconds = max(0.001, deadline - time.monotonic())
        limits = {
            "protocol": 2,  # the version that queueport reads; this version has no notifications of maintenance
            "maint_notifications_config": None,
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
            "retry": Retry(NoBackoff(), 0),
        }
        return opened(self._kind(**{**self._given, **limits}))


def _copy_name(message: DramatiqMessage) -> bytes:
    """The id of a dead-letter copy in Redis. All copies of one life of a job have the same id."""
    return f"{message.message_id}.{message.options[OPTION]['life']}.dead".encode()

"""Dramatiq's queues in a Redis: keys as in its own script, many messages in one round trip. For the driver.

    dramatiq:QUEUE        a list of message ids            dramatiq:QUEUE.XQ        dead letters, ids by time of death
    dramatiq:QUEUE.msgs   the messages, by id              dramatiq:QUEUE.XQ.msgs   theirs

https://github.com/Bogdanp/dramatiq/blob/master/dramatiq/brokers/redis/dispatch.lua
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker

from queueport.driver import Depth, SendOutcome, Sent
from queueport.errors import BackendUnavailable
from queueport_dramatiq.link import Link, Wire, shared_middleware
from queueport_dramatiq.messages import OPTION

__all__ = ["Ask", "RedisLink"]

Ask = Callable[[Sequence[Sequence[bytes]]], list[Any]]
"""Sends commands together; their answers, a refusal being one. Raises BackendUnavailable within `call_timeout`."""

SENT = Sent(SendOutcome.SENT)
BULK = 300
"""Messages in one transaction: it keeps the server from others for a few milliseconds."""
PURGE = b"""
for _, id in ipairs(redis.call('lrange', KEYS[1], 0, -1)) do redis.call('hdel', KEYS[2], id) end
return redis.call('del', KEYS[1])
"""
"""Drops what waits, and leaves the texts of what was fetched."""


class RedisLink(Link):
    """Any Redis broker of Dramatiq's. `where` names the server in errors."""

    def __init__(self, broker: RedisBroker, ask: Ask, where: str, close: Callable[[], None], *, joined: bool) -> None:
        self._broker = broker
        self.joined = joined
        self._ask = ask
        self._where = where
        self._close = close

    @property
    def broker(self) -> RedisBroker:
        return self._broker

    def publish(self, messages: Sequence[Wire]) -> Sequence[Sent]:
        outcomes: list[Sent] = []
        for start in range(0, len(messages), BULK):
            outcomes += self._publish(messages[start : start + BULK])
        return outcomes

    def _publish(self, messages: Sequence[Wire]) -> list[Sent]:
        try:
            answers = self._transaction([command for message in messages for command in self.commands(message)])
        except BackendUnavailable as error:
            return [Sent(SendOutcome.UNKNOWN, error)] * len(messages)
        return [
            Sent(SendOutcome.FAILED, self._unavailable(pushed)) if isinstance(pushed, Exception) else SENT
            for pushed in answers[1::2]
        ]

    def commands(self, message: Wire) -> list[list[bytes]]:
        """What Dramatiq's own script does to enqueue one."""
        job = message.options[OPTION]
        name = f"{message.message_id}.{job['life']}.{job['send']}"
        wire = message.copy(options={"redis_message_id": name})
        keys = self._key(message.queue_name, ".msgs"), self._key(message.queue_name)
        return [[b"HSET", keys[0], name.encode(), wire.encode()], [b"RPUSH", keys[1], name.encode()]]

    def depth(self, queue: str) -> Depth:
        ready, kept = self._answers([[b"LLEN", self._key(queue)], [b"HLEN", self._key(queue, ".msgs")]])
        return Depth(ready, max(0, kept - ready))

    def bury(self, messages: Sequence[Wire]) -> None:
        now, commands = b"%d" % (time.time() * 1000), []
        for message in messages:
            name = _copy_name(message)
            wire = message.copy(options={"redis_message_id": name.decode()})
            commands.append([b"HSET", self._key(message.queue_name, ".XQ.msgs"), name, wire.encode()])
            commands.append([b"ZADD", self._key(message.queue_name, ".XQ"), now, name])
        self._checked(self._transaction(commands))

    def unbury(self, messages: Sequence[Wire]) -> None:
        commands = []
        for message in messages:
            name = _copy_name(message)
            commands.append([b"ZREM", self._key(message.queue_name, ".XQ"), name])
            commands.append([b"HDEL", self._key(message.queue_name, ".XQ.msgs"), name])
        self._checked(self._transaction(commands))

    def setup(self, queues: Sequence[str]) -> None:
        """Nothing to make: the first message makes a queue."""

    def purge(self, queue: str) -> None:
        self._answers([[b"EVAL", PURGE, b"2", self._key(queue), self._key(queue, ".msgs")]])

    def check(self) -> Sequence[str]:
        self._answers([[b"PING"]])
        return ()

    def close(self) -> None:
        self._close()

    def worker_broker(self) -> RedisBroker:
        broker = copy.copy(self._broker)
        broker.broker_id = dramatiq.message.generate_unique_id()
        broker.actors, broker.middleware = dict(self._broker.actors), shared_middleware(self._broker)
        broker.queues, broker.delay_queues = set(), set()
        return broker

    def _key(self, queue: str, ending: str = "") -> bytes:
        return f"{self._broker.namespace}:{queue}{ending}".encode()

    def _transaction(self, commands: Sequence[Sequence[bytes]]) -> list[Any]:
        """The answers to these, all of them applied or none."""
        if not commands:
            return []
        answers: list[Any] = self._answers([[b"MULTI"], *commands, [b"EXEC"]])[-1]
        return answers

    def _answers(self, commands: Sequence[Sequence[bytes]]) -> list[Any]:
        return self._checked(self._ask(commands))

    def _checked(self, answers: list[Any]) -> list[Any]:
        for answer in answers:
            if isinstance(answer, Exception):
                raise self._unavailable(answer) from answer
        return answers

    def _unavailable(self, error: Exception) -> BackendUnavailable:
        told = BackendUnavailable(f"{self._where} refuses a command ({error}): look at what else uses its keys")
        told.__cause__ = error
        return told


def client_ask(client: redis.Redis, where: str) -> Ask:
    """The same by a client of an application's own."""

    def ask(commands: Sequence[Sequence[bytes]]) -> list[Any]:
        try:
            with client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py's is untyped
                return list(pipeline.execute(raise_on_error=False))
        except redis.RedisError as error:
            raise BackendUnavailable(
                f"{where} does not answer ({error}): look at the server and the network"
            ) from error

    return ask


def _copy_name(message: Wire) -> bytes:
    """Under which a dead letter is kept: the same for every copy of one life."""
    return f"{message.message_id}.{message.options[OPTION]['life']}.dead".encode()

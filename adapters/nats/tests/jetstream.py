"""A namespace on NATS through nats-py alone, as an operator's tools see it. For the tests of this adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import nats
from nats.js.api import RawStreamMsg, StreamConfig
from nats.js.client import JetStreamContext

__all__ = ["JetStream"]

T = TypeVar("T")


class JetStream:
    """The streams of one namespace, without queueport's help."""

    def __init__(self, url: str, namespace: str) -> None:
        self.url = url
        self.namespace = namespace

    def do(self, operation: Callable[[JetStreamContext], Awaitable[T]]) -> T:
        """The result of an operation on a new connection."""

        async def run() -> T:
            async with await nats.connect(self.url) as client:
                return await operation(JetStreamContext(client))

        return asyncio.run(run())

    def work(self, queue: str) -> str:
        """The name of the stream that carries the jobs of a queue."""
        return f"{self.namespace}-jobs-{queue.replace('.', '=')}"

    @property
    def dead(self) -> str:
        """The name of the stream with the copies of dead jobs."""
        return f"{self.namespace}-dead"

    def publish(self, subject: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Publish a message to a subject of the namespace."""
        self.do(lambda stream: stream.publish(f"{self.namespace}.{subject}", body, headers=headers))

    def purge(self, name: str) -> None:
        """Empty a stream."""
        self.do(lambda stream: stream.purge_stream(name))

    def delete(self, name: str) -> None:
        """Delete a stream."""
        self.do(lambda stream: stream.delete_stream(name))

    def subjects(self, name: str) -> dict[str, int]:
        """The subjects in a stream, without the namespace, and the number of messages of each."""
        found = self.do(lambda stream: stream.stream_info(name, subjects_filter=">"))
        return {subject.partition(".")[2]: count for subject, count in (found.state.subjects or {}).items()}

    def last(self, name: str, subject: str) -> RawStreamMsg:
        """The last message of a subject of the namespace in a stream."""
        return self.do(lambda stream: stream.get_last_msg(name, f"{self.namespace}.{subject}"))

    def create(self, config: StreamConfig) -> None:
        """Create a stream."""
        self.do(lambda stream: stream.add_stream(config))

    def move(self, subject: str, target: str) -> None:
        """Move a dead-letter copy unchanged to another subject of the namespace."""

        async def move(stream: JetStreamContext) -> None:
            found = await stream.get_last_msg(self.dead, f"{self.namespace}.{subject}")
            await stream.publish(f"{self.namespace}.{target}", found.data or b"")
            await stream.delete_msg(self.dead, found.seq or 0)

        self.do(move)

    def clean(self) -> None:
        """Delete all streams of namespaces whose names begin with this one."""

        async def clean(stream: JetStreamContext) -> None:
            names: set[str] = set()
            while page := await stream.streams_info(offset=len(names)):
                names.update(info.config.name or "" for info in page)
            for name in names:
                if name.startswith(self.namespace):
                    await stream.delete_stream(name)

        self.do(clean)

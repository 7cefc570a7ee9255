"""NATS JetStream as a transport: translates queueport's messages and queues to streams. For `get_queue("nats://...")`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self, TypeVar

from nats.errors import ConnectionClosedError
from pydantic import Field

from queueport.capability import Capability, Limits
from queueport.errors import BackendUnavailable
from queueport.spi import AsyncTransport
from queueport.spi.event_loop import NoAnswer
from queueport.spi.message import Depth, Message, SendOutcome, SendResult
from queueport.spi.settings import Settings, options
from queueport.spi.store import JobStore
from queueport.spi.transport import Delivery
from queueport.spi.url import BackendURL
from queueport_nats.errors import explain, misconfigured
from queueport_nats.server import LIBRARY_ERRORS, NatsServerOptions, Server
from queueport_nats.session import Outgoing, Session
from queueport_nats.topology import ACK_WAIT, Stream, Topology, full

__all__ = ["NatsTransport"]

T = TypeVar("T")

MAX_PAYLOAD = 2**20
"""The default of the server's `max_payload`: https://docs.nats.io/running-a-nats-service/configuration"""
ENVELOPE = 2**16
"""Bytes of a message that are reserved for everything but the payload, mostly for the job's headers."""


class NatsOptions(NatsServerOptions):
    """The options of `nats://` and `tls://` URLs."""

    prefix: str = Field(
        "", pattern=r"^[A-Za-z0-9_-]{0,40}$", description="prefix of the names of all streams and subjects"
    )
    replicas: int = Field(
        1, ge=1, le=5, description="number of servers that keep a copy of each stream; used when a stream is created"
    )
    max_payload: int = Field(
        MAX_PAYLOAD, ge=2 * ENVELOPE, description="the server's `max_payload`, in bytes: the largest message"
    )


@dataclass(frozen=True, slots=True)
class Receipt:
    """The subject for the acknowledgement of a delivery, and the headers of its message."""

    reply: str
    headers: dict[str, str]


class NatsTransport(AsyncTransport[Session]):
    """Carries messages over NATS JetStream: confirmed by the server, kept in files, one stream for a queue's jobs."""

    name = "nats"
    capabilities = frozenset(
        {Capability.DEPTH, Capability.PERSISTENT, Capability.NATIVE_DEAD_LETTERS, Capability.THREADS}
    )
    settings: ClassVar[type[Any] | None] = NatsOptions
    errors = LIBRARY_ERRORS

    def __init__(self, server: Server, options: NatsOptions, namespace: str) -> None:
        super().__init__(server.timeout)
        self.limits = Limits(payload=options.max_payload - ENVELOPE, message=options.max_payload)
        self._server = server
        self._label = f"queueport {namespace}"
        self._topology = Topology(options.prefix + namespace, options.replicas)
        self._turn = itertools.count()
        self._session: Session | None = None

    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        given = options(url, NatsOptions)
        driver = cls(Server.of_url(url, given, settings.call_timeout), given, settings.namespace)
        driver.returns_fetched = settings.lease >= ACK_WAIT
        return driver

    # -- the connection ----------------------------------------------------------------------------

    async def connect(self) -> Session:
        self._session = Session(await self._server.connect(self._label), self.call_timeout)
        return self._session

    def connected(self, connection: Session) -> bool:
        return connection.client.is_connected

    async def disconnect(self, connection: Session) -> None:
        await connection.client.close()

    def explain(self, error: Exception) -> str:
        return explain(error, self._server, self._reported())

    def misconfigured(self, error: Exception) -> bool:
        return misconfigured(error, self._reported())

    def _reported(self) -> Exception | None:
        return None if self._session is None else self._session.client.recent_error(self.call_timeout)

    def _request(
        self,
        operation: Callable[[Session], Coroutine[Any, Any, T]],
        timeout: float | None = None,
        *,
        idempotent: bool = True,
    ) -> T:
        return self.call(lambda session: session.run(operation(session)), timeout, idempotent=idempotent)

    # -- messages ----------------------------------------------------------------------------------

    def send(self, queue: str, messages: Sequence[Message]) -> Sequence[SendResult]:
        subject = self._topology.jobs_subject(queue)
        return self._publish(self._topology.jobs(queue), [Outgoing(subject, message.body) for message in messages])

    def receive(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        first = next(self._turn) % len(queues)  # each call begins with the next queue
        streams = {self._topology.jobs(queue): queue for queue in (*queues[first:], *queues[:first])}
        found = self._request(lambda session: session.receive(list(streams), limit, wait), self.call_timeout + wait)
        return [
            Delivery(message.data, streams[stream], Receipt(message.reply, dict(message.headers or {})))
            for stream, message in found
        ]

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        self._request(lambda session: session.answer(b"+ACK", [delivery.receipt.reply for delivery in deliveries]))

    def put_aside(self, delivery: Delivery) -> None:
        # Headers that begin with `Nats-` are left out, because they are instructions to the server.
        headers = {n: v for n, v in delivery.receipt.headers.items() if not n.startswith("Nats-")}
        message = Outgoing(self._topology.aside_subject(delivery.queue), delivery.body, headers or None)
        (sent,) = self._publish(self._topology.dead(), [message])
        if sent.error is not None:
            raise sent.error
        self.ack([delivery])

    def bury(self, queue: str, messages: Sequence[Message]) -> Sequence[SendResult]:
        copies = [Outgoing(self._topology.dead_subject(queue, each.id, each.life), each.body) for each in messages]
        return self._publish(self._topology.dead(), copies)

    def unbury(self, queue: str, messages: Sequence[Message]) -> None:
        subjects = [self._topology.dead_subject(queue, message.id, message.life) for message in messages]
        self._request(lambda session: session.purge(self._topology.dead(), subjects))

    def _publish(self, stream: Stream, messages: Sequence[Outgoing]) -> list[SendResult]:
        """Publish messages; returns each result, in order. Does not raise.

        If the connection is lost, publishes the unanswered messages once more over a new connection.
        """
        deadline = time.monotonic() + self.call_timeout
        failure = self._try_to_publish(stream, messages, deadline)
        if failure is not None and isinstance(failure.__cause__, ConnectionClosedError):
            left = [message for message in messages if message.outcome is not SendOutcome.SENT and not message.error]
            failure = self._try_to_publish(stream, left, deadline)
        lost = failure is not None and isinstance(failure.__cause__, NoAnswer)
        return [self._result(message, failure, lost=lost) for message in messages]

    def _try_to_publish(
        self, stream: Stream, messages: Sequence[Outgoing], deadline: float
    ) -> BackendUnavailable | None:
        try:
            left = max(0.0, deadline - time.monotonic())
            return self._request(lambda session: session.publish(stream, messages), left, idempotent=False)
        except BackendUnavailable as error:
            return error

    def _result(self, message: Outgoing, failure: BackendUnavailable | None, *, lost: bool) -> SendResult:
        if message.outcome is SendOutcome.SENT:
            return SendResult(SendOutcome.SENT)
        if message.error is not None:
            failure = self.unavailable(message.error)
            failure.__cause__ = message.error
        return SendResult(SendOutcome.UNKNOWN if lost else message.outcome, failure)

    # -- streams and the server --------------------------------------------------------------------

    def depth(self, queue: str) -> Depth | None:
        return self._request(lambda session: session.depth(self._topology.jobs(queue)))

    def setup(self, queues: Sequence[str]) -> None:
        for stream in (self._topology.dead(), *map(self._topology.jobs, queues)):
            self._request(partial(Session.prepare, stream=stream))

    def check_queue(self, queue: str) -> None:
        self._request(lambda session: session.check(self._topology.jobs(queue)))

    def purge(self, queue: str) -> None:
        self._request(lambda session: session.purge(self._topology.jobs(queue), [None]))

    def check(self) -> Sequence[str]:
        return self._request(self._warnings)

    async def _warnings(self, session: Session) -> list[str]:
        account = await session.account()
        if 0 < (account.limits.max_storage or 0) <= account.storage:
            raise BackendUnavailable(f"the storage of this account on {self._server} is full: raise its limits")
        infos = await session.streams()
        found = [(stream, info) for info in infos if (stream := self._topology.known(info.config)) is not None]
        for stream, info in found:
            if stream.work and full(info):
                raise BackendUnavailable(
                    f"the stream {stream.name} of {self._server} is full: raise its limits, or let workers empty it"
                )
        await session.try_to_publish(
            next((stream for stream, _ in found if stream.work), self._topology.jobs("default"))
        )
        for stream, info in found:
            if not stream.work and stream.without_subjects(info.config) is None:
                await session.try_to_store(stream, self._topology.check_subject())
        warnings = [each for stream, info in found for each in stream.warnings(info.config)]
        if session.client.max_payload < (self.limits.message or 0):
            largest = session.client.max_payload
            warnings.append(f"{self._server} takes at most {largest} bytes: write max_payload={largest} in the URL")
        return warnings

    @property
    def native(self) -> Any:
        """The keyword arguments of `nats.connect`: `await nats.connect(**queue.native)`.

        Raises BackendUnavailable if a file in the URL cannot be read, or if `creds` is not a credentials file.
        """
        try:
            return self._server.arguments()
        except LIBRARY_ERRORS as error:  # a file cannot be read or used
            raise BackendUnavailable(explain(error, self._server)) from error

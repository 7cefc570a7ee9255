"""One connection to RabbitMQ, opened on first use and again after a loss. For the publisher and the consumers.

It uses pika's `AsyncioConnection`, because code that awaits each step reads from top to bottom. `SelectConnection` is
not faster: 29,000 messages a second were confirmed with it, and 31,000 with `AsyncioConnection` (200 bytes each, quorum
queue, at most 1,000 unconfirmed).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from pika.adapters.asyncio_connection import AsyncioConnection
from pika.connection import Parameters

from queueport.spi.reconnecting import Reconnecting
from queueport_rabbitmq.channel import set_result
from queueport_rabbitmq.errors import LIBRARY_ERRORS
from queueport_rabbitmq.server import Server

__all__ = ["Connection", "bytes_received", "send_gathered"]

logger: logging.Logger = logging.getLogger("queueport")
T = TypeVar("T")


class Connection:
    """A connection that reconnects. Used in the event loop's thread; other threads may read `blocked` and `failure`.

    `purpose` is the connection's name in the management UI, unless an application has passed the pika parameters.
    """

    def __init__(self, server: Server, purpose: str) -> None:
        self._server = server
        self._purpose = purpose
        self._reconnecting = Reconnecting(self._connect, lambda opened: opened.is_open, LIBRARY_ERRORS, server.timeout)
        self.unblocked = asyncio.Event()
        """Set while RabbitMQ accepts messages."""
        self.unblocked.set()
        self.blocked: str | None = None
        """Why RabbitMQ accepts no messages now: https://www.rabbitmq.com/docs/connection-blocked"""

    @property
    def failure(self) -> Exception | None:
        """The error of the latest attempt to connect; None if it succeeded."""
        return self._reconnecting.failure

    async def get(self) -> AsyncioConnection:
        """Return an open connection, and connect if there is none.

        If an attempt to connect fails that began after this call, raises the error of the attempt.
        """
        return await self._reconnecting.get()

    async def repeated(self, call: Callable[[], Awaitable[T]]) -> T:
        """Await `call()`, which must be idempotent. If the call loses an open connection, repeat it once."""
        return await self._reconnecting.repeated(call)

    def drop(self, connection: AsyncioConnection) -> None:
        """Close a connection on which RabbitMQ no longer answers, without waiting for an answer.

        Does nothing if the connection is closed, or is not the latest one.
        """
        if connection is self._reconnecting.opened and not connection.is_closed:
            logger.warning("%s no longer answers; reconnecting", self._server)
            _abort(connection)

    async def close(self) -> None:
        """Close the connection, and wait until RabbitMQ has processed everything that was sent before.

        If this wait is cancelled, the socket is closed without waiting.
        """
        connection = await self._reconnecting.stop()
        if connection is not None and connection.is_open:
            ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            connection.add_on_close_callback(lambda *_: set_result(ended))
            connection.close()
            try:
                await ended
            finally:
                if not connection.is_closed:  # the wait was cancelled: RabbitMQ does not answer
                    _abort(connection)

    async def _connect(self) -> AsyncioConnection:
        """Connect to the first server that can be reached, in the order given.

        If no server can be reached, raises the error of the last one.
        """
        *others, last = self._server.parameters(self._purpose)
        for parameters in others:
            with suppress(*LIBRARY_ERRORS):
                return await self._open(parameters)
        return await self._open(last)

    async def _open(self, parameters: Parameters) -> AsyncioConnection:
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[Any] = loop.create_future()

        def failed(_: object, error: BaseException | str) -> None:
            if not opened.done():
                opened.set_exception(error if isinstance(error, Exception) else ConnectionError(error))

        connection = _GatheringConnection(
            parameters,
            on_open_callback=partial(set_result, opened),
            on_open_error_callback=failed,
            on_close_callback=self._lost,
            custom_ioloop=loop,
        )
        connection.add_on_connection_blocked_callback(lambda _, frame: self._block(frame.method.reason))
        connection.add_on_connection_unblocked_callback(lambda *_: self._unblock())
        try:
            await asyncio.shield(opened)
        except asyncio.CancelledError:  # the JobQueue was closed during this attempt
            with suppress(*LIBRARY_ERRORS):
                connection.close()
                await opened
            raise
        return connection

    def _lost(self, connection: object, reason: BaseException) -> None:
        if connection is self._reconnecting.opened:
            logger.warning("the connection to %s was lost (%s); reconnecting", self._server, reason)
        self._unblock()

    def _block(self, reason: str) -> None:
        logger.warning("%s accepts no messages for now: %s", self._server, reason)
        self.blocked = reason
        self.unblocked.clear()

    def _unblock(self) -> None:
        self.blocked = None
        self.unblocked.set()


_Untyped: Any = AsyncioConnection  # pika's type stubs lack the methods that write


class _GatheringConnection(_Untyped):  # type: ignore[misc]  # see above
    """A connection that sends all frames of one step of the event loop in one write.

    pika itself writes each frame alone: three for a message, more for a large one, and one for an acknowledgement.
    """

    def __init__(self, *args: Any, custom_ioloop: asyncio.AbstractEventLoop, **options: Any) -> None:
        self._loop = custom_ioloop
        self._gathered: list[bytes] = []
        super().__init__(*args, custom_ioloop=custom_ioloop, **options)

    def _adapter_emit_data(self, data: bytes) -> None:
        if not self._gathered:
            self._loop.call_soon(self._send_gathered)
        self._gathered.append(data)

    def _send_gathered(self) -> None:
        data, self._gathered = b"".join(self._gathered), []
        if data and self._transport is not None:  # otherwise, the connection was lost meanwhile
            super()._adapter_emit_data(data)
            self._transport._on_socket_writable()  # pika would do this only in the next step of the loop


def send_gathered(connection: AsyncioConnection) -> None:
    """Send the frames that were gathered in this step of the event loop, without waiting for its end."""
    untyped: Any = connection
    untyped._send_gathered()


def bytes_received(connection: AsyncioConnection) -> int:
    """The number of bytes that the connection has received so far."""
    untyped: Any = connection  # pika's type stubs lack the attribute
    return int(untyped.bytes_received)


def _abort(connection: AsyncioConnection) -> None:
    """Close the socket at once: pika's own `close` waits for an answer that may never come."""
    private: Any = connection  # pika has no public method that closes only the socket
    private._terminate_stream(ConnectionAbortedError("no answer"))

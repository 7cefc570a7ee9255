"""One connection to RabbitMQ, made on first use and made again when it was lost. For publisher and consumers.

pika's `AsyncioConnection` confirms as many messages a second as its `SelectConnection` (31,000 and 29,000 of 200 bytes
into a quorum queue, 1,000 at once unconfirmed), and lets what takes several steps be written from top to bottom.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from functools import partial
from typing import Any

from pika.adapters.asyncio_connection import AsyncioConnection

from queueport_rabbitmq.channel import settle
from queueport_rabbitmq.failures import LIBRARY_ERRORS
from queueport_rabbitmq.server import Server

__all__ = ["Link", "heard_from"]

logger: logging.Logger = logging.getLogger("queueport")

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two attempts to connect: doubled each time, less up to a half of it, so that not all come at once."""


class Link:
    """A connection. `purpose` is its name in the management UI. Made and used in its event loop's thread.

    Who asks for the connection is told of an attempt that began after asking, or gets a connection.
    """

    def __init__(self, server: Server, purpose: str) -> None:
        self._server = server
        self._purpose = purpose
        self._connection: AsyncioConnection | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._began_at = 0.0
        self._not_before = 0.0
        self._pause = FIRST_PAUSE
        self._unblocked = asyncio.Event()
        self._unblocked.set()
        self.blocked: str | None = None
        """Why RabbitMQ takes no messages now: https://www.rabbitmq.com/docs/connection-blocked"""
        self.failure: Exception | None = None
        """Why the last attempt to connect failed."""

    async def connection(self) -> AsyncioConnection:
        """An open connection. Raises what went wrong."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        while self._connection is None or not self._connection.is_open:
            if self._attempt is None:
                self._began_at = float("inf")
                self._attempt = loop.create_task(self._connect())
                self._attempt.add_done_callback(self._attempted)
            try:
                await asyncio.shield(self._attempt)
            except LIBRARY_ERRORS:
                if self._began_at >= asked_at:
                    raise
        return self._connection

    async def unblocked(self) -> None:
        """Return once RabbitMQ takes messages."""
        await self._unblocked.wait()

    def drop(self, connection: AsyncioConnection) -> None:
        """Give up a connection that has gone silent."""
        if connection is self._connection and not connection.is_closed:
            logger.warning("%s has gone silent; the connection is made again", self._server)
            abort(connection)

    async def close(self) -> None:
        """Take leave; what was handed to RabbitMQ before arrives before that."""
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait([self._attempt])
        connection, self._connection = self._connection, None
        if connection is not None and connection.is_open:
            ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            connection.add_on_close_callback(lambda *_: settle(ended))
            connection.close()
            try:
                await ended
            finally:
                if not connection.is_closed:  # it does not answer
                    abort(connection)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._not_before - loop.time())
        self._began_at = loop.time()
        opened: asyncio.Future[Any] = loop.create_future()

        def failed(_: object, error: Exception | str) -> None:
            if not opened.done():
                opened.set_exception(error if isinstance(error, Exception) else ConnectionError(error))

        connection = AsyncioConnection(
            self._server.parameters(self._purpose),
            on_open_callback=partial(settle, opened),
            on_open_error_callback=failed,
            on_close_callback=self._lost,
            custom_ioloop=loop,
        )
        connection.add_on_connection_blocked_callback(lambda _, frame: self._block(frame.method.reason))
        connection.add_on_connection_unblocked_callback(lambda *_: self._unblock())
        try:
            self._connection = await asyncio.shield(opened)
        except asyncio.CancelledError:  # the queue is closed in mid-attempt
            with suppress(*LIBRARY_ERRORS):
                connection.close()
                await opened
            raise

    def _attempted(self, attempt: asyncio.Task[None]) -> None:
        self._attempt = None
        self.failure = None if attempt.cancelled() else _failure(attempt)
        if self.failure is None:
            self._pause = FIRST_PAUSE
            return
        longest = min(LONGEST_PAUSE, self._server.timeout / 2)  # so that a caller can wait for the next attempt
        self._not_before = asyncio.get_running_loop().time() + self._pause * random.uniform(0.5, 1.0)
        self._pause = min(self._pause * 2, longest)

    def _lost(self, connection: object, reason: BaseException) -> None:
        if connection is self._connection:
            self._connection = None
            logger.warning("the connection to %s was lost (%s); it is made again", self._server, reason)
        self._unblock()

    def _block(self, reason: str) -> None:
        logger.warning("%s takes no messages for now: %s", self._server, reason)
        self.blocked = reason
        self._unblocked.clear()

    def _unblock(self) -> None:
        self.blocked = None
        self._unblocked.set()


def heard_from(connection: AsyncioConnection) -> int:
    """How many bytes have come over it so far."""
    untyped: Any = connection  # the types that others have written for pika lack it
    return int(untyped.bytes_received)


def abort(connection: AsyncioConnection) -> None:
    """Close the socket at once: pika's own `close` waits for an answer that may never come."""
    private: Any = connection  # pika has no public way
    private._terminate_stream(ConnectionAbortedError("no answer"))


def _failure(attempt: asyncio.Task[None]) -> Exception | None:
    error = attempt.exception()
    return error if isinstance(error, Exception) else None

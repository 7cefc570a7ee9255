"""`AsyncTransport`: the transport of a broker whose client library is for asyncio only. For authors of adapters.

The base class provides what every such adapter needs: an event loop in a thread, time limits, reconnection, closing,
and a new thread after a fork. `adapters/nats` is an example.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar

from queueport.errors import BackendMisconfigured, BackendUnavailable
from queueport.spi.event_loop import Closed, LoopThread
from queueport.spi.reconnecting import Reconnecting
from queueport.spi.transport import Transport

__all__ = ["AsyncTransport"]

logger: logging.Logger = logging.getLogger("queueport")

CONNECTING = 0.9
"""The fraction of `call_timeout` that connecting may take. The remaining time is needed to report a failure."""

C = TypeVar("C")
T = TypeVar("T")


class AsyncTransport(Transport, Generic[C]):
    """A transport with one connection, of class C, which belongs to an event loop in a separate thread.

    The thread starts on first use. After a fork, the child process starts a thread of its own. A subclass may set
    `errors`, and implements the four abstract methods below and the verbs of `Transport`, such as `send`. Each of these
    verbs passes `call` a function that takes the connection and returns an awaitable:

        def depth(self, queue: str) -> Depth:
            return self.call(lambda connection: connection.count(queue))
    """

    errors: tuple[type[Exception], ...] = ()
    """The client library's exceptions that mean that the backend is unavailable. OSError and TimeoutError always do."""

    def __init__(self, call_timeout: float) -> None:
        """`call_timeout` is the setting of this name, in seconds. An `__init__` of a subclass must call this method.

        Raises ConfigurationError if gevent or eventlet has patched only a part of what an event loop needs.
        """
        self.call_timeout = call_timeout
        self._thread: LoopThread[_Connection[C]] = LoopThread(f"queueport-{self.name}", lambda: _Connection(self))

    @abstractmethod
    async def connect(self) -> C:
        """Open a new connection.

        Called in the event loop if a call finds no usable connection: on first use, after an attempt to connect failed,
        and after `connected` has returned False. Never called twice at the same time in one process. Must raise OSError
        or one of `errors` if it fails. Is cancelled if it takes more than nine tenths of `call_timeout`, or if the
        transport is closed, and must then release what it has opened. Should switch off the library's own reconnection,
        because that hides whether a message was sent.
        """

    @abstractmethod
    def connected(self, connection: C) -> bool:
        """Whether this connection can be used. Called in the event loop before each call, and must not block.

        Also called when an idempotent call has failed, to decide whether `call` repeats it.

        Must return False if the server has closed the connection or no longer answers, even if no call has failed yet.
        """

    @abstractmethod
    async def disconnect(self, connection: C) -> None:
        """Close this connection. Called in the event loop, also for a connection that was lost.

        May raise: the error is ignored. May be cancelled after a second, or earlier if the transport is closed.
        """

    @abstractmethod
    def explain(self, error: Exception) -> str:
        """Describe an OSError, a TimeoutError or one of `errors` for users: what failed, on which server, what to do.

        Must return one sentence without a password. Called in any thread.
        """

    def misconfigured(self, error: Exception) -> bool:
        """Return True if a repeated call would fail until the server's configuration or the URL is changed.

        `error` is the error of the call or of the attempt to connect, as for `explain`. Called in any thread. If this
        returns True, users get a BackendMisconfigured instead of a BackendUnavailable. By default, returns False.
        """
        return False

    def unavailable(self, error: Exception) -> BackendUnavailable:
        """The error for users: a BackendMisconfigured if `misconfigured` returns True, otherwise a BackendUnavailable.

        The text of the new error is what `explain` returns for `error`.
        """
        kind = BackendMisconfigured if self.misconfigured(error) else BackendUnavailable
        return kind(self.explain(error))

    def call(
        self, operation: Callable[[C], Awaitable[T]], timeout: float | None = None, *, idempotent: bool = False
    ) -> T:
        """Await `operation(connection)` in the event loop, and return its result. Call it in any thread but the loop's.

        Connects first if there is no usable connection. After `timeout` seconds (default: `call_timeout`), connecting
        included, the operation is cancelled, so that it has no later effect, unless the event loop is blocked. The
        operation may use only the connection that it was given, and must not block. If the connection was open before
        the call and was lost during it, an `idempotent` operation is repeated once over a new connection, because
        servers and firewalls close idle connections.

        For OSError, TimeoutError and `errors`, raises what `unavailable` returns. If `close` was called before or
        during the call, raises BackendUnavailable. Any other error of the operation is raised unchanged. If the calling
        thread is interrupted, the operation continues in the event loop until it ends or its time is over.
        """
        unusable: tuple[type[Exception], ...] = (OSError, *self.errors)

        async def run(holder: _Connection[C]) -> T:
            connections = holder.reconnecting

            async def once() -> T:
                return await operation(await connections.get())

            return await (connections.repeated(once) if idempotent else once())

        try:
            return self._thread.call(run, self.call_timeout if timeout is None else timeout)
        except Closed as error:
            raise BackendUnavailable(f"the connection to {self.name} is closed: open a new queue") from error
        except unusable as error:
            cause = error
            holder = self._thread.resource
            if isinstance(error, TimeoutError) and holder is not None and holder.reconnecting.failure is not None:
                cause = holder.reconnecting.failure
            raise self.unavailable(cause) from error

    def close(self) -> None:
        """Close the connection and end the thread; calls in progress raise BackendUnavailable.

        Idempotent. May be called during calls in other threads. Later calls raise BackendUnavailable.
        """
        self._thread.close()


class _Connection(Generic[C]):
    """The connection of one event loop. The first call opens it, and so does the next call after it was lost."""

    def __init__(self, transport: AsyncTransport[C]) -> None:
        self._transport = transport
        self.reconnecting: Reconnecting[C] = Reconnecting(
            self._open, transport.connected, (OSError, *transport.errors), transport.call_timeout
        )

    async def close(self) -> None:
        last = await self.reconnecting.stop()
        if last is not None:
            await self._transport.disconnect(last)

    async def _open(self) -> C:
        lost = self.reconnecting.opened
        if lost is not None:
            self.reconnecting.opened = None
            logger.warning("the connection to %s was lost; reconnecting", self._transport.name)
            with suppress(Exception):
                async with asyncio.timeout(1.0):
                    await self._transport.disconnect(lost)
        async with asyncio.timeout(self._transport.call_timeout * CONNECTING):
            return await self._transport.connect()

"""A connection that is opened on first use, and on the next use after its loss. For `AsyncTransport` and for drivers.

All coroutines of an event loop (`queueport.spi.event_loop`) share one connection.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

__all__ = ["Reconnecting"]

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two attempts to connect: the first pause and the longest pause. The pause doubles after each failed
attempt, up to the longest. A random part, up to half of the pause, is left out, so that clients do not all reconnect at
once."""

C = TypeVar("C")
T = TypeVar("T")


class Reconnecting(Generic[C]):
    """One connection for all coroutines of an event loop. `get` opens it on first use, and again after its loss.

    Use this object only in the loop's thread. `opener` opens a connection, and raises one of `errors` if it fails.
    `is_open` returns whether a connection can be used. `patience` is the number of seconds that callers wait for a
    connection; this class does not enforce it, but makes the pauses between attempts at most half as long.
    """

    def __init__(
        self,
        opener: Callable[[], Coroutine[Any, Any, C]],
        is_open: Callable[[C], bool],
        errors: tuple[type[Exception], ...],
        patience: float,
    ) -> None:
        self._opener = opener
        self._is_open = is_open
        self._errors = errors
        self._longest_pause = min(LONGEST_PAUSE, patience / 2)
        self._pause = FIRST_PAUSE
        self._attempt: asyncio.Task[None] | None = None
        self._stopped = False
        self._began_at = 0.0
        self._not_before = 0.0
        self.opened: C | None = None
        """The latest connection, which may be lost. None before the first connection and after `stop`. `opener` may set
        this attribute to None when it closes a lost connection."""
        self.failure: Exception | None = None
        """The error of the latest attempt to connect that has ended; None if it succeeded, or if none has ended."""

    async def get(self) -> C:
        """Return an open connection, and connect if there is none.

        If an attempt to connect fails that began before this call of `get`, another attempt is made. If an attempt
        fails that began after this call, or if it fails with an error that is not in `errors`, its error is raised.
        After `stop`, raises ConnectionAbortedError.
        """
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        while self.opened is None or not self._is_open(self.opened):
            if self._stopped:
                raise ConnectionAbortedError("the connection is being closed")
            if self._attempt is None:
                self._began_at = float("inf")
                self._attempt = loop.create_task(self._connect())
            try:
                await asyncio.shield(self._attempt)
            except self._errors:
                if self._began_at >= asked_at:
                    raise
        return self.opened

    async def repeated(self, call: Callable[[], Awaitable[T]]) -> T:
        """Await `call()`, which uses the connection. Repeat the call once if it fails because the connection was lost.

        Repeats it only if one of `errors` was raised, and if the connection was open before the call but not after it.
        A server or a firewall may have closed an idle connection, which often becomes known only in the next call.
        `call` must be idempotent.
        """
        before = self.opened
        if before is None or not self._is_open(before):
            return await call()
        try:
            return await call()
        except self._errors:
            if self._is_open(before):
                raise
        return await call()

    async def stop(self) -> C | None:
        """Cancel the present attempt to connect, if any, and begin no other.

        Returns the latest connection, which the caller must close; None if there is none.
        """
        self._stopped = True
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait([self._attempt])
        opened, self.opened = self.opened, None
        return opened

    async def _connect(self) -> None:
        """One attempt. Records how it ended before its task is done: `get` would not wait for a task that is done."""
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(self._not_before - loop.time())
            self._began_at = loop.time()
            self.opened = await self._opener()
            self.failure = None
            self._pause = FIRST_PAUSE
        except Exception as error:
            self.failure = error
            raise
        finally:
            self._attempt = None
            self._not_before = loop.time() + self._pause * random.uniform(0.5, 1.0)
            self._pause = min(self._pause * 2, self._longest_pause)

"""`Proxy`: a TCP proxy between the processes of a run and a server, which cuts and delays their connections.

It can also refuse calls of Amazon's services.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

__all__ = ["DELAY", "Proxy", "head_of_call"]

DELAY = 0.2
"""The seconds by which `delayed` delays each chunk of bytes."""
CHUNK = 65536
END_OF_HEAD = b"\r\n\r\n"


class Proxy:
    """Forwards connections to `port` on 127.0.0.1 to a server, in a thread of its own."""

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self._server = host, port
        self._delay = 0.0
        self._swallows = False
        self._throttles = False
        self._calls = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._listener: asyncio.Server
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos-proxy", daemon=True)
        self._thread.start()
        self._run(self._listen())

    def close(self) -> None:
        """Reset all connections and stop the thread. Called once."""
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @contextmanager
    def cut(self) -> Iterator[None]:
        """A context manager. All connections are reset at its begin, and inside it new ones are refused."""
        self._run(self._refuse())
        try:
            yield
        finally:
            self._run(self._listen())

    @contextmanager
    def delayed(self) -> Iterator[None]:
        """A context manager. Inside it, each chunk of bytes is forwarded DELAY seconds late."""
        self._delay = DELAY
        try:
            yield
        finally:
            self._delay = 0.0

    @contextmanager
    def half_open(self) -> Iterator[None]:
        """A context manager. Inside it, connections are open, but nothing is forwarded. At its end they are reset."""
        self._swallows = True
        try:
            yield
        finally:
            self._run(self._reset())
            self._swallows = False

    @contextmanager
    def throttled(self) -> Iterator[None]:
        """A context manager. Inside it, every other call of SQS or DynamoDB is not forwarded, but refused: too many."""
        self._throttles = True
        try:
            yield
        finally:
            self._throttles = False

    # -- in the thread -----------------------------------------------------------------------------

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        self._listener.close()
        await self._reset()

    async def _reset(self) -> None:
        """Reset all connections: both ends get an error."""
        for writer in self._writers:
            reset(writer)

    async def _end(self) -> None:
        await self._refuse()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks, timeout=5.0)  # they end by themselves, because their connections are reset

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            there, to_server = await asyncio.open_connection(*self._server)
        except OSError:
            writer.transport.abort()
            self._writers.discard(writer)
            return
        self._writers.add(to_server)
        if writer.is_closing():  # it was reset while the connection to the server was opened
            reset(to_server)
        try:
            there_and_back = self._pump(reader, to_server, writer), self._pump(there, writer)
            await asyncio.wait([asyncio.ensure_future(each) for each in there_and_back])
        finally:
            self._writers -= {writer, to_server}

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: asyncio.StreamWriter | None = None
    ) -> None:
        """Forward bytes until one side closes its connection. `back` is the client's side if the client sends them."""
        with suppress(OSError, asyncio.IncompleteReadError):
            while chunk := await reader.read(CHUNK):
                if self._delay > 0:
                    await asyncio.sleep(self._delay)
                if back is not None and chunk.startswith(b"POST ") and self._refuses_call():
                    back.write(too_many(await head_of_call(chunk, reader)))
                    continue
                if not self._swallows:
                    writer.write(chunk)
                    await writer.drain()
        writer.close()

    def _refuses_call(self) -> bool:
        self._calls += 1
        return self._throttles and self._calls % 2 == 0


async def head_of_call(chunk: bytes, reader: asyncio.StreamReader) -> bytes:
    """The head of an HTTP request that begins with this chunk. Reads the request to its end."""
    while END_OF_HEAD not in chunk:
        chunk += await reader.readexactly(1)
    head, _, body = chunk.partition(END_OF_HEAD)
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    await reader.readexactly(max(0, int(length[1]) - len(body)) if length else 0)
    return head


def too_many(head: bytes) -> bytes:
    """The response of DynamoDB or SQS to a request with this head, if there are too many requests."""
    dynamo = b"DynamoDB" in head
    error = "ProvisionedThroughputExceededException" if dynamo else "ThrottlingException"
    body = json.dumps({"__type": error, "message": "queueport chaos: the rate of requests is too high"})
    kind = "application/x-amz-json-1.0"
    return f"HTTP/1.1 400 Bad Request\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection in a way that the other end gets an error (RST), and not an ordinary end."""
    with suppress(OSError):  # it is already closed
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()

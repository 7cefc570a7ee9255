"""`Events`: the changes of one job as server-sent events, for one client. For the ASGI app and for WSGI frameworks."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from concurrent.futures import Future

from queueport.errors import JobNotFound, QueueClosed, QueueportError
from queueport.queue import JobQueue
from queueport.spi.record import Record
from queueport.status import JobStatus
from queueport.web.answers import JobAnswer, job_answer

__all__ = ["Events", "event_id"]

POLL = 1.0
"""Seconds between two reads of a job that has not ended."""


class Events:
    """The changes of one job until it has ended, as texts to send. Iterate it once, with `for` or with `async for`.

    `async for` needs no thread while it waits; `for` blocks its thread. All clients share the reads, see
    `JobQueue.watch`. The first event is the present status. While nothing changes, and while the store does not answer,
    there is a comment every `keep_alive` seconds, so that proxies keep the connection, and the server notices that a
    client is gone. The texts end after `max_duration` seconds, also if the job has not ended: a browser then connects
    again, and a client that is gone unnoticed does not occupy the server for ever.
    """

    code: int = 200
    media_type: str = "text/event-stream"

    def __init__(
        self, queue: JobQueue, first: JobStatus, show: Collection[str], keep_alive: float, max_duration: float
    ) -> None:
        self._queue = queue
        self._first = first
        self._show = show
        self._keep_alive = keep_alive
        self._poll = min(POLL, keep_alive, max_duration)
        self._end = time.monotonic() + max_duration

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the response, without the content type."""
        return {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the second one is for nginx

    def __iter__(self) -> Iterator[str]:
        shown: JobAnswer | None = None
        found: JobStatus | QueueportError = self._first
        while True:
            text, shown, ended = self._text(found, shown)
            yield text
            if ended or time.monotonic() >= self._end:
                return
            found = self._next(shown)

    async def __aiter__(self) -> AsyncIterator[str]:
        shown: JobAnswer | None = None
        found: JobStatus | QueueportError = self._first
        while True:
            text, shown, ended = self._text(found, shown)
            yield text
            if ended or time.monotonic() >= self._end:
                return
            found = await self._anext(shown)

    def _text(self, found: JobStatus | QueueportError, shown: JobAnswer | None) -> tuple[str, JobAnswer | None, bool]:
        """The text to send now, what the client then knows of the job, and whether this is the last text."""
        if isinstance(found, JobNotFound):
            return _event("missing", {"error": str(found)}), shown, True
        if isinstance(found, QueueportError):
            return ": the job store does not answer\n\n", shown, isinstance(found, QueueClosed)
        answer = job_answer(found, self._show)
        if answer == shown:
            return ": no change\n\n", shown, False
        return _event("status", answer, event_id(found)), answer, found.finished

    def _next(self, shown: JobAnswer | None) -> JobStatus | QueueportError:
        """Wait until the job differs from what the client knows, at most `keep_alive` seconds. Returns its status."""
        deadline = min(time.monotonic() + self._keep_alive, self._end)
        while True:
            try:
                found: JobStatus | QueueportError = self._status(self._watch().result())
            except QueueportError as error:
                found = error
            if self._is_news(found, shown) or time.monotonic() >= deadline:
                return found
            if isinstance(found, QueueportError):  # some errors come at once
                time.sleep(self._poll)

    async def _anext(self, shown: JobAnswer | None) -> JobStatus | QueueportError:
        deadline = min(time.monotonic() + self._keep_alive, self._end)
        while True:
            try:
                found: JobStatus | QueueportError = self._status(await asyncio.wrap_future(self._watch()))
            except QueueportError as error:
                found = error
            if self._is_news(found, shown) or time.monotonic() >= deadline:
                return found
            if isinstance(found, QueueportError):
                await asyncio.sleep(self._poll)

    def _watch(self) -> Future[Record]:
        return self._queue.watch(self._first.id, self._poll)

    def _status(self, record: Record) -> JobStatus:
        return self._queue.operations.status(record)

    def _is_news(self, found: JobStatus | QueueportError, shown: JobAnswer | None) -> bool:
        if isinstance(found, JobStatus):
            return job_answer(found, self._show) != shown
        return isinstance(found, JobNotFound | QueueClosed)


def event_id(status: JobStatus) -> str:
    """The id of the event for this status. A client that connects again sends the id of the last event that it got."""
    return f"{status.state}-{status.attempts}"


def _event(kind: str, data: object, identity: str | None = None) -> str:
    first = "" if identity is None else f"id: {identity}\n"
    return f"{first}event: {kind}\ndata: {json.dumps(data)}\n\n"

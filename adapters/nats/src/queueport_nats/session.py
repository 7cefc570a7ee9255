"""One connection to NATS, and the requests that the transport makes on it. Used in the event loop only."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, Error, MaxPayloadError
from nats.js.api import AccountInfo, StreamInfo
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from queueport.spi.message import Depth, SendOutcome
from queueport_nats.server import NatsClient
from queueport_nats.topology import CONSUMER, Stream, WrongStream

__all__ = ["Outgoing", "Session"]

T = TypeVar("T")

WINDOW = 500
"""Maximum number of messages of a batch that wait for JetStream's confirmation at the same time."""
REFUSALS = (APIError, NoStreamResponseError, MaxPayloadError, WrongStream)
"""The errors that prove that a message is not in its stream."""
TOO_LARGE = 10054
"""The code of JetStream's error for a message that is larger than the stream's `max_msg_size`:
https://github.com/nats-io/nats-server/blob/main/server/errors.json"""
NEXT = "$JS.API.CONSUMER.MSG.NEXT"
"""The beginning of the subject of a request for messages: https://docs.nats.io/reference/reference-protocols/nats_api_reference"""
OTHER_STREAM = 10060
"""JetStream's error code for a message whose subject belongs to another stream than the message names."""
NOTHING = frozenset({"404", "408"})
"""The status codes with which JetStream ends a request because there are no more messages, or none arrived in time."""


@dataclass(slots=True)
class Outgoing:
    """A message to publish, and its outcome: FAILED until it is written, then UNKNOWN until JetStream answers."""

    subject: str
    body: bytes
    headers: dict[str, str] | None = None
    outcome: SendOutcome = SendOutcome.FAILED
    error: Exception | None = None
    """The error that proves that the message is not in its stream: one of REFUSALS."""


class Session:
    """One connection. A lost connection is not opened again. `timeout` is the time limit of a call in seconds."""

    def __init__(self, client: NatsClient, timeout: float) -> None:
        self.client = client
        self._stream = JetStreamContext(client, timeout=2 * timeout)  # a call's own time limit ends earlier
        self._ready: set[str] = set()
        """The names of the streams that `prepare` need not check, because their consumers existed before."""
        self._giving_back: set[asyncio.Task[None]] = set()

    async def run(self, operation: Coroutine[Any, Any, T]) -> T:
        """Return the operation's result or raise its error. Raises ConnectionClosedError once the connection is lost.

        Without this method, nats-py would notice the loss only at the request's time limit.
        """
        task = asyncio.ensure_future(operation)
        try:
            ends: set[asyncio.Future[Any]] = {task, self.client.closed}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ConnectionClosedError
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)  # wait until the task has ended

    # -- publish -----------------------------------------------------------------------------------

    async def publish(self, stream: Stream, messages: Sequence[Outgoing]) -> None:
        """Publish messages to a stream, and set the outcome of each message. Creates the stream if it is missing.

        Raises nats-py's errors if JetStream did not answer for a message, or if the stream cannot be created. The
        outcomes set so far are valid even then.
        """
        await self._write(stream, messages)
        homeless = [message for message in messages if isinstance(message.error, NoStreamResponseError)]
        if homeless:
            for message in homeless:
                message.error = None  # if `prepare` fails, only its error is reported
            self._ready.discard(stream.name)
            await self.prepare(stream)
            await self._write(stream, homeless)
        still = [message for message in homeless if isinstance(message.error, NoStreamResponseError)]
        if still:
            try:
                await self.check(stream)
            except WrongStream as error:
                for message in still:
                    message.error = error

    async def _write(self, stream: Stream, messages: Sequence[Outgoing]) -> None:
        window = asyncio.Semaphore(WINDOW)

        async def write(message: Outgoing) -> None:
            async with window:
                message.outcome, message.error = SendOutcome.UNKNOWN, None
                try:
                    stored = await self._stream.publish(message.subject, message.body, headers=message.headers)
                    if stored.stream != stream.name:
                        raise _taken(stream, f"the stream {stored.stream}")
                except REFUSALS as error:
                    message.outcome, message.error = _outcome(error), error
                else:
                    message.outcome = SendOutcome.SENT

        ended = await asyncio.gather(*map(write, messages), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error

    # -- receive -----------------------------------------------------------------------------------

    async def receive(self, streams: Sequence[Stream], limit: int, wait: float) -> list[tuple[Stream, Msg]]:
        """Return at most `limit` messages of these streams, in the order of the streams. Creates a
        stream or its consumer, if missing, before reading from the stream.

        If there are no messages, wait up to `wait` seconds for one. If a stream cannot be used, return the messages of
        the other streams; raise the first such error only if there are no messages.
        """
        found: list[tuple[Stream, Msg]] = []
        failed: Error | None = None
        try:
            for stream in streams:
                try:
                    if len(found) < limit:
                        await self.prepare(stream)
                        found += [(stream, message) for message in await self._pull(stream, limit - len(found))]
                except Error as error:
                    failed = failed or error
            if not found and failed is not None:
                raise failed
            return found or (await self._await_one(streams, wait) if wait > 0 else [])
        except BaseException:
            self._ready.difference_update(stream.name for stream in streams)  # `prepare` must check each stream again
            self._give_back([message for _, message in found])
            raise

    async def _await_one(self, streams: Sequence[Stream], wait: float) -> list[tuple[Stream, Msg]]:
        """Wait up to `wait` seconds for one message of any of these streams; return [] if none arrives.

        Further messages that arrive are given back.
        """
        pulls = {asyncio.ensure_future(self._pull(stream, 1, wait)): stream for stream in streams}
        waiting = set(pulls)
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for pull in done:
                    if pull.result():
                        return [(pulls.pop(pull), pull.result()[0])]
            return []
        finally:
            for pull in pulls:
                pull.add_done_callback(self._late)

    def _late(self, pull: asyncio.Future[list[Msg]]) -> None:
        if not pull.cancelled() and pull.exception() is None:
            self._give_back(pull.result())

    def _give_back(self, messages: Sequence[Msg]) -> None:
        """Let JetStream deliver these messages again at once; if the connection is lost, after ACK_WAIT."""

        async def give_back() -> None:
            with suppress(Error):
                await self.answer(b"-NAK", [message.reply for message in messages])

        if messages:
            task = asyncio.ensure_future(give_back())
            self._giving_back.add(task)
            task.add_done_callback(self._giving_back.discard)

    async def _pull(self, stream: Stream, limit: int, wait: float | None = None) -> list[Msg]:
        """Return at most `limit` messages of a stream. With `wait`, wait up to that many seconds for `limit` messages.

        Without `wait`, return only messages that are there already.

        JetStream sends the messages, and its own status messages, to an inbox. Only a status message has the inbox as
        its subject.
        """
        inbox = self.client.new_inbox()
        until = {"no_wait": True} if wait is None else {"expires": int(wait * 1e9)}
        subscription = await self.client.subscribe(inbox, pending_bytes_limit=0)
        found: list[Msg] = []
        try:
            request = json.dumps({"batch": limit, **until}).encode()
            await self.client.publish(f"{NEXT}.{stream.name}.{CONSUMER.durable_name}", request, inbox)
            while len(found) < limit:
                message = await subscription.next_msg(timeout=None)
                if message.subject != inbox:
                    found.append(message)
                elif (message.header or {}).get("Status") in NOTHING:
                    break
                else:
                    APIError.from_msg(message)
            return found
        except BaseException:
            self._give_back(found)
            raise
        finally:
            with suppress(Error):  # the connection may be lost
                await subscription.unsubscribe()

    async def answer(self, answer: bytes, replies: Sequence[str]) -> None:
        """Send an answer for each delivery to JetStream: `+ACK` (acknowledge) or `-NAK` (deliver again)."""
        for reply in replies:
            await self.client.publish(reply, answer)

    # -- streams -----------------------------------------------------------------------------------

    async def prepare(self, stream: Stream) -> None:
        """Create a stream and, if it carries jobs, its consumer, unless they exist."""
        if stream.name in self._ready:
            return
        if not stream.work:
            await self._create(stream)
            return
        try:
            await self._stream.consumer_info(stream.name, CONSUMER.durable_name or "")
        except NotFoundError:
            await self._create(stream)
            await self._stream.add_consumer(stream.name, CONSUMER)
        self._ready.add(stream.name)

    async def _create(self, stream: Stream) -> None:
        try:
            await self._stream.stream_info(stream.name)  # any configuration is accepted; `NatsTransport.check` warns
        except NotFoundError:
            await self._stream.add_stream(stream.config)

    async def depth(self, stream: Stream) -> Depth:
        """Count the messages of a stream that carries jobs: those that wait, and those that are delivered but
        not acknowledged. Before the consumer exists, all messages count as waiting. A missing stream counts as empty.
        """
        try:
            found = await self._stream.consumer_info(stream.name, CONSUMER.durable_name or "")
            return Depth(found.num_pending or 0, found.num_ack_pending or 0)
        except NotFoundError:  # the stream or its consumer does not exist
            messages = await self._or_nothing(self._stream.stream_info(stream.name))
            return Depth(0 if messages is None else messages.state.messages, 0)

    async def purge(self, stream: Stream, subjects: Sequence[str | None]) -> None:
        """Delete the messages with these subjects. A subject of None deletes all messages.

        Ignores a missing stream.
        """
        for subject in subjects:
            await self._or_nothing(self._stream.purge_stream(stream.name, subject=subject))

    async def account(self) -> AccountInfo:
        """The limits of the account, and how much of them is used. Raises an error if the account has no JetStream."""
        return await self._stream.account_info()

    async def streams(self) -> list[StreamInfo]:
        """All streams of the account."""
        # Keyed by name, because NATS lists a stream twice if another stream is added between two pages.
        found: dict[str | None, StreamInfo] = {}
        while page := await self._stream.streams_info(offset=len(found)):
            found.update((info.config.name, info) for info in page)
        return list(found.values())

    async def check(self, stream: Stream) -> None:
        """Raise WrongStream if messages for this stream would not arrive in it. Also raises nats-py's errors."""
        found = await self._or_nothing(self._stream.stream_info(stream.name))
        without = None if found is None else stream.without_subjects(found.config)
        if without is not None:
            raise WrongStream(without)
        if await self.try_to_publish(stream) and found is None:
            raise _taken(stream, "another stream")

    async def try_to_store(self, stream: Stream, subject: str) -> None:
        """Test whether the server has space: publish an empty message, then delete all messages with this subject.

        Raises nats-py's errors.
        """
        await self._stream.publish(subject, b"")
        await self.purge(stream, [subject])

    async def try_to_publish(self, stream: Stream) -> bool:
        """Test whether a publish works: send a message that JetStream must refuse, because it names a wrong stream.

        Returns whether any stream takes messages with the first subject of `stream`. Raises nats-py's errors if no
        publish is possible.
        """
        try:
            await self._stream.publish(stream.subjects[0], b"", stream=f"{stream.name}-check")
        except NoStreamResponseError:  # the stream is missing; the first job creates it
            return False
        except APIError as error:
            if error.err_code != OTHER_STREAM:
                raise
        return True

    async def _or_nothing(self, request: Awaitable[T]) -> T | None:
        """The result of a request, or None if the stream does not exist."""
        try:
            return await request
        except NotFoundError:
            return None


def _taken(stream: Stream, by: str) -> WrongStream:
    subjects = ", ".join(stream.subjects)
    return WrongStream(
        f"{by} takes {subjects}, which queueport needs: delete that stream, or choose another prefix= or namespace for "
        "this queue"
    )


def _outcome(refusal: Exception) -> SendOutcome:
    """The outcome of a message after one of REFUSALS: REFUSED if the message is too large, otherwise FAILED."""
    large = isinstance(refusal, MaxPayloadError) or (isinstance(refusal, APIError) and refusal.err_code == TOO_LARGE)
    return SendOutcome.REFUSED if large else SendOutcome.FAILED

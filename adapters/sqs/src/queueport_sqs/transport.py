"""Carries jobs as messages in Amazon SQS. Each queue's jobs wait in one SQS queue. For `get_queue("sqs://...")`."""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from queueport.capability import Capability, Limits
from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.spi.message import Depth, Message, SendResult
from queueport.spi.settings import Duration, Settings, options
from queueport.spi.store import JobStore
from queueport.spi.transport import Delivery, Transport
from queueport.spi.url import BackendURL
from queueport.tasks import registry
from queueport_sqs import entries
from queueport_sqs.client import Client, code_of
from queueport_sqs.dead_letters import DeadLetters
from queueport_sqs.queues import LONGEST_HIDDEN, MISSING, Names, Queues
from queueport_sqs.sending import Sending

__all__ = ["SqsOptions", "SqsTransport"]

LONGEST_WAIT = 20
"""Maximum seconds of a long poll. See "Amazon SQS short and long polling"."""
TAKING_TURNS = 1.0
"""Maximum seconds of a long poll if a worker has several queues: a poll of one queue delays the polls of the others."""
HIDDEN = 60
"""Seconds for which SQS hides a message of a standard queue after a worker has received it. The worker acknowledges the
message as soon as its job has begun, so this time is enough unless the store is very slow. If the worker crashes
before that acknowledgement, SQS delivers the message again after this time."""
CHECKED = "default"
"""The name of the queue that `check` checks if no queue has been used yet and no task is registered."""


class SqsOptions(BaseModel):
    """The options of `sqs://` URLs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str | None = Field(
        None, pattern=r"^https?://[^/\s]+", description="URL of an emulator or of a VPC endpoint, instead of AWS's"
    )
    prefix: str = Field("", pattern=r"^[A-Za-z0-9_-]{0,40}$", description="prefix of every queue's name in SQS")
    fifo: bool = Field(
        False, description="use FIFO queues, which keep the order within a `group=`; they are separate queues"
    )
    create: bool = Field(False, description="create missing queues on first use; otherwise run `queueport setup URL`")
    wait: Annotated[float, Duration] = Field(
        5.0,
        ge=1,
        le=LONGEST_WAIT,
        description="seconds that an idle worker waits in one request; to stop, it takes up to that long",
    )


@dataclass(frozen=True, slots=True)
class Receipt:
    """The handle by which a message is acknowledged, and the message's attributes."""

    handle: str
    attributes: Mapping[str, Any]


class SqsTransport(Transport):
    """Carries messages over SQS."""

    name = "sqs"
    capabilities = frozenset(
        {Capability.DEPTH, Capability.PERSISTENT, Capability.NATIVE_DEAD_LETTERS, Capability.THREADS}
    )
    url_options: ClassVar[Mapping[Capability, str]] = {Capability.GROUPS: "fifo=true"}
    limits = Limits(
        payload=entries.LARGEST - entries.ATTRIBUTES - entries.ENVELOPE, message=entries.LARGEST - entries.ATTRIBUTES
    )
    settings: ClassVar[type[Any] | None] = SqsOptions

    def __init__(self, region: str, options: SqsOptions, settings: Settings) -> None:
        """If `region` is "", botocore finds the region in the environment or a profile, as for any AWS client.

        Raises ConfigurationError if `options.fifo` is set and the lease is longer than SQS can hide a message.
        """
        self.idle_wait = options.wait
        self.pushes = self.holds = options.fifo  # a received message locks its group while it is hidden
        if options.fifo:
            self.capabilities = self.capabilities | {Capability.GROUPS}
        where, timeout = f"in {region}" if region else "of AWS", settings.call_timeout
        place: dict[str, Any] = {"region": region, "endpoint": options.endpoint, "call_timeout": timeout}
        self._client = Client(f"SQS {where}", "sqs", **place)
        self._poller = Client(f"SQS {where}", "sqs", **place, wait=options.wait)
        names = Names(options.prefix, settings.namespace, fifo=options.fifo)
        self._queues = Queues(self._client, names, where, create=options.create)
        self._sending = Sending(self._queues, call_timeout=timeout)
        self._dead = DeadLetters(self._queues, call_timeout=timeout)
        self.call_timeout = timeout
        self._fifo = options.fifo
        # On FIFO queues a hidden message locks its group. So a message is hidden only for about a lease, and a live
        # worker hides the messages of its running jobs again at each heartbeat.
        self._hidden = math.ceil(settings.lease) + 1 if options.fifo else HIDDEN
        self.returns_fetched = options.fifo or settings.lease >= HIDDEN
        if self._hidden > LONGEST_HIDDEN:
            raise ConfigurationError(
                f"lease={settings.lease:g} is too long for FIFO queues: SQS hides a message for at most 12 hours; "
                f"set it to {LONGEST_HIDDEN - 1} seconds or less"
            )
        self._turn = itertools.count()

    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        if url.path or not re.fullmatch("[a-z0-9-]*", url.parts.netloc):
            raise ConfigurationError(
                f"{url} is not 'sqs://REGION': give credentials in the environment or an AWS profile, and the address "
                "of an emulator in endpoint="
            )
        return cls(url.parts.netloc, options(url, SqsOptions), settings)

    # -- jobs --------------------------------------------------------------------------------------

    def send(self, queue: str, messages: Sequence[Message]) -> Sequence[SendResult]:
        return self._sending.send(queue, [entries.job(message, fifo=self._fifo) for message in messages])

    def receive(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        """Poll the queues one after the other until `limit` messages are received. Each call begins with another queue.

        Only the poll of the last queue waits, and only if no other queue returned a message: with several queues, for
        at most about a second. After a poll that gets no answer, no other queue is polled. Raises BackendUnavailable if
        a poll failed and no queue returned a message.
        """
        first = next(self._turn) % len(queues)
        turns = [*queues[first:], *queues[:first]]
        longest = min(wait, self.idle_wait if len(queues) == 1 else TAKING_TURNS)
        taken: list[Delivery] = []
        failed: BackendUnavailable | None = None
        for queue in turns:
            if len(taken) < limit:
                try:
                    taken += self._take(queue, limit - len(taken), 0 if taken or queue != turns[-1] else longest)
                except BackendUnavailable as error:  # raised below if no queue returned messages
                    failed = failed or error
                    if not code_of(error.__cause__):  # no answer: the other queues would not answer either
                        break
        if failed is not None and not taken:
            raise failed
        return taken

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        self._for_each(deliveries, self._queues.delete)

    def prolong(self, deliveries: Sequence[Delivery]) -> None:
        self._for_each(deliveries, lambda queue, receipts: self._queues.hide(queue, receipts, self._hidden))

    def _for_each(self, deliveries: Sequence[Delivery], call: Callable[[str, list[str]], None]) -> None:
        """Make the call for each batch, even if SQS has refused an earlier call. Raise the first error at the end.

        After a call that gets no answer, no more calls are made.
        """
        failed: BackendUnavailable | None = None
        for queue, receipts in _by_queue(deliveries):
            try:
                call(queue, receipts)
            except BackendUnavailable as error:
                failed = failed or error
                if not code_of(error.__cause__):  # no answer: the other calls would get none either
                    break
        if failed is not None:
            raise failed

    def put_aside(self, delivery: Delivery) -> None:
        """Move the message to the dead-letter queue, which operators watch, and from which SQS can redrive it."""
        aside = entries.aside(delivery.body.decode(), delivery.receipt.attributes, fifo=self._fifo)
        self._sending.must_send(delivery.queue, aside, dead=True)
        self.ack([delivery])

    def depth(self, queue: str) -> Depth | None:
        """Count messages; zero if the queue does not exist. Messages that the queue delays count as ready.

        SQS reports approximate numbers.
        """
        counts = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesDelayed")
        hidden = "ApproximateNumberOfMessagesNotVisible"
        found = self._queues.attributes(queue, *counts, hidden)
        if found is None:
            return Depth(0, 0)
        return Depth(sum(int(found.get(name, 0)) for name in counts), int(found.get(hidden, 0)))

    def purge(self, queue: str) -> None:
        """Receive and delete messages until none is ready.

        After half of `call_timeout`, calls SQS's own purge for the rest. SQS allows one purge a minute, and its purge
        may also delete messages that are sent within the next minute.
        """
        deadline = time.monotonic() + self.call_timeout / 2
        while (depth := self.depth(queue)) is not None and depth.ready:
            if time.monotonic() < deadline:
                self.ack(self._take(queue, entries.BATCH, 0))
                continue
            try:
                self._queues.call("purge_queue", queue)
            except BackendUnavailable as error:
                # These errors mean that there is nothing to purge, or that SQS is already purging the queue.
                if code_of(error.__cause__) not in MISSING | {"PurgeQueueInProgress"}:
                    raise
            return

    # -- dead jobs ---------------------------------------------------------------------------------

    def bury(self, queue: str, messages: Sequence[Message]) -> Sequence[SendResult]:
        return self._sending.send(queue, [entries.buried(message, fifo=self._fifo) for message in messages], dead=True)

    def unbury(self, queue: str, messages: Sequence[Message]) -> None:
        self._dead.take_out(queue, {(message.id, str(message.life)) for message in messages})

    # -- the service -------------------------------------------------------------------------------

    def setup(self, queues: Sequence[str]) -> None:
        for queue in queues:
            self._queues.make(queue)

    def check(self) -> Sequence[str]:
        """Check the settings of each queue that this object has used so far or that a registered task declares, or of
        `CHECKED` if there is none. A queue that does not exist causes no warning, and no error unless its name is too
        long for SQS.
        """
        queues = [*dict.fromkeys([*self._queues.used, *(task.queue for task in registry.tasks())])] or [CHECKED]
        return [warning for queue in queues for warning in self._queues.warnings(queue)]

    def check_queue(self, queue: str) -> None:
        self._queues.try_to_send(queue)

    def close(self) -> None:
        self._client.close()
        self._poller.close()

    @property
    def native(self) -> Any:
        return self._client.get()

    def _take(self, queue: str, limit: int, wait: float) -> list[Delivery]:
        """Receive at most `limit` messages, and at most one batch, from one queue.

        From a FIFO queue, receive one message in each request, because one request for more may return several messages
        of a group, whose jobs must not run at the same time.
        """
        limit = min(limit, entries.BATCH)
        taken = self._receive(queue, 1 if self._fifo else limit, wait)
        while self._fifo and taken and len(taken) < limit:
            try:
                found = self._receive(queue, 1, 0)
            except BackendUnavailable:  # return what was received; if the fault lasts, the next call raises
                break
            if not found:
                break
            taken += found
        return taken

    def _receive(self, queue: str, limit: int, wait: float) -> list[Delivery]:
        answer = self._queues.call(
            "receive_message",
            queue,
            by=self._poller,
            MaxNumberOfMessages=limit,
            VisibilityTimeout=self._hidden,
            WaitTimeSeconds=math.ceil(wait),
            MessageAttributeNames=["All"],
        )
        return [
            Delivery(m["Body"].encode(), queue, Receipt(m["ReceiptHandle"], m.get("MessageAttributes", {})))
            for m in answer.get("Messages", [])
        ]


def _by_queue(deliveries: Sequence[Delivery]) -> list[tuple[str, list[str]]]:
    """The receipt handles of these deliveries in batches, each with the name of its queue."""
    batches: list[tuple[str, list[str]]] = []
    for queue in dict.fromkeys(delivery.queue for delivery in deliveries):
        receipts = [delivery.receipt.handle for delivery in deliveries if delivery.queue == queue]
        batches += [(queue, receipts[i : i + entries.BATCH]) for i in range(0, len(receipts), entries.BATCH)]
    return batches

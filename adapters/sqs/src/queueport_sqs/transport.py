"""The transport of `sqs://`: jobs travel in Amazon SQS, a queue of its own for each queue. For `get_queue`."""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from queueport.capability import Capability, Limits
from queueport.driver import Depth, Sent
from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.message import Message
from queueport.settings import Settings
from queueport.transport import Delivery, Transport
from queueport.url import BackendURL
from queueport_sqs import entries
from queueport_sqs.client import Client, code_of
from queueport_sqs.dead_letters import DeadLetters
from queueport_sqs.names import Names
from queueport_sqs.queues import MISSING, Queues
from queueport_sqs.sending import Sending

__all__ = ["SqsOptions", "SqsTransport"]

LONGEST_WAIT = 20
"""Seconds of a long poll, at most. "Amazon SQS short and long polling"."""
TAKING_TURNS = 1.0
"""Seconds of a long poll where there are several queues: it is of one, and the others wait meanwhile."""
HIDDEN = 60
"""Seconds that a message stays out of other workers' sight. It is acknowledged as soon as its job has begun, so this
covers a slow store, and is what the messages wait whose worker died in between."""
CHECKED = "default"
"""The queue that `check` asks for where none was used yet."""


class SqsOptions(BaseModel):
    """The options of `sqs://` URLs; another one is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str | None = Field(
        None, pattern=r"^https?://[^/\s]+", description="URL of an emulator, or of a VPC endpoint, instead of AWS's"
    )
    prefix: str = Field("", pattern=r"^[A-Za-z0-9_-]{0,40}$", description="stands before every queue's name in SQS")
    fifo: bool = Field(
        False, description="FIFO queues, which keep the order within `group=`; other queues than without"
    )
    create: bool = Field(False, description="make missing queues on first use; else `queueport setup URL` makes them")
    wait: float = Field(
        5.0,
        ge=1,
        le=LONGEST_WAIT,
        description="seconds that an idle worker waits in one request; it stops so much later",
    )


@dataclass(frozen=True, slots=True)
class Receipt:
    """What acknowledges a message, and what came beside its body."""

    handle: str
    attributes: Mapping[str, Any]


class SqsTransport(Transport):
    """Carries messages over SQS. What it makes of queueport's names is in `queueport_sqs.names`."""

    name = "sqs"
    capabilities = frozenset({Capability.DEPTH, Capability.PERSISTENT, Capability.NATIVE_DEAD_LETTERS})
    limits = Limits(
        payload=entries.LARGEST - entries.ATTRIBUTES - entries.ENVELOPE, message=entries.LARGEST - entries.ATTRIBUTES
    )
    settings: ClassVar[type[Any] | None] = SqsOptions

    def __init__(self, region: str, options: SqsOptions, settings: Settings) -> None:
        """`region` may be "": then it is that of the usual AWS chain."""
        self.wait = options.wait
        self.pushes = self.holds = options.fifo  # in flight until its job has ended, a message locks its group
        if options.fifo:
            self.capabilities = self.capabilities | {Capability.GROUPS}
        where, patience = f"in {region}" if region else "of AWS", settings.call_timeout
        place: dict[str, Any] = {"region": region, "endpoint": options.endpoint, "call_timeout": patience}
        self._client = Client(f"SQS {where}", "sqs", **place)
        self._poller = Client(f"SQS {where}", "sqs", **place, wait=options.wait)
        names = Names(options.prefix, settings.namespace, fifo=options.fifo)
        self._queues = Queues(self._client, names, where, create=options.create)
        self._sending = Sending(self._queues, where, call_timeout=patience, ordered=options.fifo)
        self._dead = DeadLetters(self._queues, self._sending, call_timeout=patience)
        self._call_timeout = patience
        self._fifo = options.fifo
        # On FIFO a dead worker's group is locked for so long, and a live one prolongs it at each beat.
        self._hidden = math.ceil(settings.lease) + 1 if options.fifo else HIDDEN
        self._turn = itertools.count()

    @classmethod
    def open(cls, url: BackendURL, settings: Settings) -> Self:
        if url.path or not re.fullmatch("[a-z0-9-]*", url.parts.netloc):
            raise ConfigurationError(
                f"{url} is not 'sqs://REGION': credentials come from the usual AWS chain, another place is endpoint="
            )
        return cls(url.parts.netloc, url.settings(SqsOptions), settings)

    # -- jobs --------------------------------------------------------------------------------------

    def send(self, queue: str, messages: Sequence[Message]) -> Sequence[Sent]:
        return self._sending.send(queue, [entries.job(message, fifo=self._fifo) for message in messages])

    def receive(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        """One queue is waited for as long as asked. Several take turns: each is looked at, another one first each
        time, and where nothing was found the last one is waited for, a second at most.
        """
        first = next(self._turn) % len(queues)
        turns = [*queues[first:], *queues[:first]]
        patience = min(wait, self.wait if len(queues) == 1 else TAKING_TURNS)
        taken: list[Delivery] = []
        failed: BackendUnavailable | None = None
        for queue in turns:
            if len(taken) < limit:
                try:
                    taken += self._take(queue, limit - len(taken), 0 if taken or queue != turns[-1] else patience)
                except BackendUnavailable as error:  # what other queues gave must not be lost
                    failed = failed or error
                    if not code_of(error.__cause__):  # no answer: neither would it come for the others
                        break
        if failed is not None and not taken:
            raise failed
        return taken

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        for queue, some in _by_queue(deliveries):
            named = [{"Id": str(i), "ReceiptHandle": d.receipt.handle} for i, d in enumerate(some)]
            self._queues.call("delete_message_batch", queue, Entries=named)

    def prolong(self, deliveries: Sequence[Delivery]) -> None:
        for queue, some in _by_queue(deliveries):
            named = [
                {"Id": str(i), "ReceiptHandle": d.receipt.handle, "VisibilityTimeout": self._hidden}
                for i, d in enumerate(some)
            ]
            self._queues.call("change_message_visibility_batch", queue, Entries=named)

    def put_aside(self, delivery: Delivery) -> None:
        self._dead.put_aside(delivery.queue, delivery.body.decode(), delivery.receipt.attributes)
        self.ack([delivery])

    def depth(self, queue: str) -> Depth | None:
        """Approximate, as SQS says; what a delay of the queue's holds back counts as ready."""
        counts = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesDelayed")
        hidden = "ApproximateNumberOfMessagesNotVisible"
        found = self._queues.attributes(queue, *counts, hidden)
        if found is None:
            return Depth(0, 0)
        return Depth(sum(int(found.get(name, 0)) for name in counts), int(found.get(hidden, 0)))

    def purge(self, queue: str) -> None:
        """Receive and delete, as long as there is time: SQS's own purge would also delete what is sent in the minute
        after it, so it is for what is left, and not more often than SQS allows.
        """
        deadline = time.monotonic() + self._call_timeout / 2
        while (depth := self.depth(queue)) is not None and depth.ready:
            if time.monotonic() >= deadline:
                return self._purge(queue)
            self.ack(self._take(queue, entries.BATCH, 0))
        return None

    # -- dead jobs ---------------------------------------------------------------------------------

    def bury(self, messages: Sequence[Message]) -> None:
        for queue in dict.fromkeys(message.queue for message in messages):
            self._dead.bury(queue, [message for message in messages if message.queue == queue])

    def unbury(self, messages: Sequence[Message]) -> None:
        for queue in dict.fromkeys(message.queue for message in messages):
            self._dead.take_out(queue, {(m.id, str(m.life)) for m in messages if m.queue == queue})

    # -- the service -------------------------------------------------------------------------------

    def setup(self, queues: Sequence[str]) -> None:
        for queue in queues:
            self._queues.make(queue)

    def check(self) -> Sequence[str]:
        """Two requests for each queue used so far."""
        return [said for queue in self._queues.used() or [CHECKED] for said in self._queues.warnings(queue)]

    def close(self) -> None:
        self._client.close()
        self._poller.close()

    @property
    def native(self) -> Any:
        return self._client.get()

    def _take(self, queue: str, limit: int, wait: float) -> list[Delivery]:
        """Messages of one queue, at most a batch. Of a FIFO queue one by one: several may be of the same group."""
        if not self._fifo:
            return self._receive(queue, min(limit, entries.BATCH), wait)
        taken = self._receive(queue, 1, wait)
        while taken and len(taken) < min(limit, entries.BATCH):
            try:
                found = self._receive(queue, 1, 0)
            except BackendUnavailable:  # what came must not be lost; the next call says it again
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

    def _purge(self, queue: str) -> None:
        try:
            self._queues.call("purge_queue", queue)
        except BackendUnavailable as error:
            if code_of(error.__cause__) not in MISSING | {"PurgeQueueInProgress"}:  # then it is being done
                raise


def _by_queue(deliveries: Sequence[Delivery]) -> list[tuple[str, list[Delivery]]]:
    """In batches of what is of one queue."""
    made: list[tuple[str, list[Delivery]]] = []
    for queue in dict.fromkeys(delivery.queue for delivery in deliveries):
        of_it = [delivery for delivery in deliveries if delivery.queue == queue]
        made += [(queue, of_it[i : i + entries.BATCH]) for i in range(0, len(of_it), entries.BATCH)]
    return made

"""SQS's dead-letter queue beside each queue: the dead, and what is none of queueport's. For the transport.

What is put aside lies with the dead, as there is where operators look, what they have alarms on, and from where SQS can
redrive it, such as a message of a newer version once the workers are upgraded.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from queueport.driver import SendOutcome
from queueport.errors import BackendUnavailable
from queueport.message import Message
from queueport_sqs import entries
from queueport_sqs.client import code_of
from queueport_sqs.queues import MISSING, Queues
from queueport_sqs.sending import Sending

__all__ = ["DeadLetters"]

SEARCHING, RELEASING = 0.35, 0.35
"""Shares of `call_timeout` for a search among the dead, and for making visible again what was looked at; the rest is
for a last call that is not answered."""
PAUSE = 0.1
"""Seconds before another look for what was not there to be seen."""

Key = tuple[str, str]
"""A job's id and its life, as they stand in the attributes."""


class DeadLetters:
    """The dead letters of one namespace's queues. Thread-safe."""

    def __init__(self, queues: Queues, sending: Sending, *, call_timeout: float) -> None:
        self._queues = queues
        self._sending = sending
        self._call_timeout = call_timeout
        self._fifo = queues.names.fifo

    def bury(self, queue: str, messages: Sequence[Message]) -> None:
        """Send copies there. Raises BackendUnavailable where one did not arrive."""
        self._send(queue, [entries.buried(message, fifo=self._fifo) for message in messages])

    def put_aside(self, queue: str, body: str, attributes: Mapping[str, Any]) -> None:
        """Send a message there as it came. Raises BackendUnavailable."""
        self._send(queue, [entries.aside(body, attributes, fifo=self._fifo)])

    def take_out(self, queue: str, jobs: Collection[Key]) -> None:
        """Delete the copies of these jobs, as far as they are found in time. Raises BackendUnavailable.

        A queue cannot be searched: its messages are received until those sought have come by, and are hidden from
        everybody else meanwhile. So where others look too, or SQS gave but some of them, this looks again.
        """
        sought = set(jobs)
        deadline = time.monotonic() + SEARCHING * self._call_timeout
        while sought:
            held: list[str] = []
            try:
                missed = self._search(queue, sought, held, deadline)
            except BackendUnavailable as error:
                if code_of(error.__cause__) in MISSING:  # then nothing is in it
                    return
                raise
            self._release(queue, held)
            if not missed or time.monotonic() + PAUSE >= deadline:
                return
            time.sleep(PAUSE)

    def _search(self, queue: str, sought: set[Key], held: list[str], deadline: float) -> bool:
        """Receive until all are found, nothing more comes, or the time is over; `held` gets the others' receipts.

        True where there are more messages than were looked at.
        """
        while sought and time.monotonic() < deadline:
            found = self._receive(queue)
            if not found:
                return self._count(queue) > len(held)
            mine = [message for message in found if _key(message) in sought]
            held += [message["ReceiptHandle"] for message in found if _key(message) not in sought]
            self._delete(queue, [message["ReceiptHandle"] for message in mine])
            sought -= {_key(message) for message in mine}
        return False

    def _receive(self, queue: str) -> list[dict[str, Any]]:
        answer = self._queues.call(
            "receive_message",
            queue,
            dead=True,
            MaxNumberOfMessages=entries.BATCH,
            VisibilityTimeout=math.ceil(2 * self._call_timeout),  # unless they are released before
            WaitTimeSeconds=0,
            MessageAttributeNames=["id", "life"],
        )
        found: list[dict[str, Any]] = answer.get("Messages", [])
        return found

    def _delete(self, queue: str, receipts: Sequence[str]) -> None:
        if receipts:
            named = [{"Id": str(place), "ReceiptHandle": receipt} for place, receipt in enumerate(receipts)]
            self._queues.call("delete_message_batch", queue, dead=True, Entries=named)

    def _release(self, queue: str, receipts: Sequence[str]) -> None:
        """Make visible again what was looked at; where time is over, it becomes so by itself."""
        deadline = time.monotonic() + RELEASING * self._call_timeout
        for first in range(0, len(receipts), entries.BATCH):
            if time.monotonic() >= deadline:
                return
            some = receipts[first : first + entries.BATCH]
            named = [{"Id": str(i), "ReceiptHandle": r, "VisibilityTimeout": 0} for i, r in enumerate(some)]
            self._queues.call("change_message_visibility_batch", queue, dead=True, Entries=named)

    def _count(self, queue: str) -> int:
        """The messages of the queue, those that somebody looks at included; approximate."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = self._queues.call("get_queue_attributes", queue, dead=True, AttributeNames=names)
        return sum(int(answer.get("Attributes", {}).get(name, 0)) for name in names)

    def _send(self, queue: str, batch: Sequence[entries.Entry]) -> None:
        for sent in self._sending.send(queue, batch, dead=True):
            if sent.outcome is not SendOutcome.SENT:
                if isinstance(sent.error, BackendUnavailable):
                    raise sent.error
                raise BackendUnavailable(f"a dead letter of {queue} was not sent: {sent.error}") from sent.error


def _key(message: Mapping[str, Any]) -> Key:
    attributes = message.get("MessageAttributes", {})
    return (
        attributes.get("id", {}).get("StringValue", ""),
        attributes.get("life", {}).get("StringValue", ""),
    )

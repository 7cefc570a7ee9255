"""Removes copies from a dead-letter queue by receiving its messages, as SQS has no search. For the transport."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from queueport.errors import BackendUnavailable
from queueport_sqs import entries
from queueport_sqs.client import code_of
from queueport_sqs.queues import LONGEST_HIDDEN, MISSING, Queues

__all__ = ["DeadLetters"]

SEARCHING, RELEASING = 0.35, 0.35
"""The shares into which `call_timeout` is divided: SEARCHING for searches, and RELEASING for making the messages
that were received but not sought visible again. The rest is for a last call that gets no answer."""
PAUSE = 0.1
"""Seconds to wait before the search is repeated, because the queue has messages that the search did not receive."""

Key = tuple[str, str]
"""A job's id and its life, as in the attributes of a message."""


class DeadLetters:
    """Searches the dead-letter queues of one namespace. Thread-safe."""

    def __init__(self, queues: Queues, *, call_timeout: float) -> None:
        self._queues = queues
        self._call_timeout = call_timeout

    def take_out(self, queue: str, jobs: Collection[Key]) -> None:
        """Delete the copies of these jobs that are found in time. All other copies stay. Raises BackendUnavailable.

        A search receives messages until all copies are found, SQS returns no more, or the time is over. Meanwhile the
        messages are hidden from other readers. If SQS does not return some messages, or another reader hides them, the
        search is repeated as long as there is time. A missing queue counts as empty.
        """
        sought = set(jobs)
        deadline = time.monotonic() + SEARCHING * self._call_timeout
        while sought:
            held: list[str] = []
            try:
                missed = self._search(queue, sought, held, deadline)
            except BackendUnavailable as error:
                if code_of(error.__cause__) in MISSING:  # the queue does not exist, so it has no copies
                    return
                raise
            self._release(queue, held)
            if not missed or time.monotonic() + PAUSE >= deadline:
                return
            time.sleep(PAUSE)

    def _search(self, queue: str, sought: set[Key], held: list[str], deadline: float) -> bool:
        """Receive messages until all copies are found, no more messages arrive, or the deadline passes.

        Deletes the copies that are found, and removes their jobs from `sought`. Adds the receipts of the other messages
        to `held`. Returns True if no more messages arrive, but the queue has more: SQS did not return them, or another
        reader hides them.
        """
        while sought and time.monotonic() < deadline:
            answer = self._queues.call(
                "receive_message",
                queue,
                dead=True,
                MaxNumberOfMessages=entries.BATCH,
                # long enough to hide the messages until `take_out` ends
                VisibilityTimeout=min(math.ceil(2 * self._call_timeout), LONGEST_HIDDEN),
                WaitTimeSeconds=0,
                MessageAttributeNames=["id", "life"],
            )
            found = answer.get("Messages", [])
            if not found:
                return self._count(queue) > len(held)
            mine = {message["ReceiptHandle"]: _key(message) for message in found if _key(message) in sought}
            held += [message["ReceiptHandle"] for message in found if _key(message) not in sought]
            if mine:
                self._queues.delete(queue, list(mine), dead=True)
            sought -= set(mine.values())
        return False

    def _release(self, queue: str, receipts: Sequence[str]) -> None:
        """Make these messages visible again. If time runs out, the rest become visible after `VisibilityTimeout`."""
        deadline = time.monotonic() + RELEASING * self._call_timeout
        for first in range(0, len(receipts), entries.BATCH):
            if time.monotonic() >= deadline:
                return
            self._queues.hide(queue, receipts[first : first + entries.BATCH], 0, dead=True)

    def _count(self, queue: str) -> int:
        """The approximate number of messages in the dead-letter queue of `queue`, including hidden messages."""
        counts = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        return sum(map(int, (self._queues.attributes(queue, *counts, dead=True) or {}).values()))


def _key(message: Mapping[str, Any]) -> Key:
    attributes = message.get("MessageAttributes", {})
    job_id, life = (attributes.get(name, {}).get("StringValue", "") for name in ("id", "life"))
    return job_id, life

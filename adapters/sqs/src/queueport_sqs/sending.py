"""Sends messages in batches and reports the outcome of each. For the transport."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from botocore.exceptions import ClientError

from queueport.errors import BackendUnavailable, PayloadTooLarge
from queueport.spi.message import SendOutcome, SendResult
from queueport_sqs.client import failed_fast, refused_for_certain, refused_for_good, unavailable
from queueport_sqs.entries import LARGEST, Entry, batches
from queueport_sqs.queues import Queues

__all__ = ["Sending"]

AT_ONCE = 8
"""Maximum number of batches of one `send` that are sent at the same time. Requests mostly wait for SQS: with 15 ms for
each, eight at a time sent six times as many messages a second as one at a time."""
SENT, UNKNOWN = SendResult(SendOutcome.SENT), SendResult(SendOutcome.UNKNOWN)


class Sending:
    """Sends to the queues of one namespace. Thread-safe. `send` sends one batch at a time to a FIFO queue, in order."""

    def __init__(self, queues: Queues, *, call_timeout: float) -> None:
        self._queues = queues
        self._call_timeout = call_timeout

    def send(self, queue: str, entries: Sequence[Entry], *, dead: bool = False) -> list[SendResult]:
        """Send these entries. Returns an outcome for each, in order. Never raises.

        When half of `call_timeout` is over, or after a call has failed for another reason than the size or content of a
        message, no more batches are begun, so that `send` ends in time. The outcome is FAILED for each message of a
        batch that was not begun.
        """
        latest = time.monotonic() + self._call_timeout / 2
        outcomes = [UNKNOWN if entry.size <= LARGEST else self._too_large(entry) for entry in entries]
        fitting = [place for place, entry in enumerate(entries) if entry.size <= LARGEST]
        packed = [[fitting[i] for i in batch] for batch in batches([entries[place].size for place in fitting])]
        broken: list[BackendUnavailable] = []

        def run(places: list[int]) -> None:
            if not broken and time.monotonic() > latest:
                text = f"SQS {self._queues.where} is too slow to take all messages in time"
                broken.append(BackendUnavailable(f"{text}: enqueue fewer at once, or raise call_timeout"))
            if broken:
                answers = [SendResult(SendOutcome.FAILED, broken[0])] * len(places)
            else:
                answers = self._send(queue, [entries[place] for place in places], dead, broken)
            for place, answer in zip(places, answers, strict=True):
                outcomes[place] = answer

        if len(packed) < 2 or self._queues.names.fifo:
            for places in packed:
                run(places)
        else:
            with ThreadPoolExecutor(min(AT_ONCE, len(packed)), "queueport-send") as threads:
                list(threads.map(run, packed))
        return outcomes

    def must_send(self, queue: str, entry: Entry, *, dead: bool = False) -> None:
        """Send this entry. Raises BackendUnavailable unless SQS has confirmed that it took the message."""
        (sent,) = self.send(queue, [entry], dead=dead)
        if isinstance(sent.error, BackendUnavailable):
            raise sent.error
        if sent.outcome is not SendOutcome.SENT:
            why = sent.error or f"SQS {self._queues.where} has not confirmed it"
            raise BackendUnavailable(f"a message of the queue {queue} may not have been sent: {why}") from sent.error

    def _too_large(self, entry: Entry) -> SendResult:
        error = PayloadTooLarge(
            f"a message has {entry.size} bytes with its attributes; SQS {self._queues.where} accepts {LARGEST}: "
            "store large data elsewhere and pass its key"
        )
        return SendResult(SendOutcome.REFUSED, error)

    def _send(
        self,
        queue: str,
        batch: Sequence[Entry],
        dead: bool,
        broken: list[BackendUnavailable],
        since: float | None = None,
    ) -> list[SendResult]:
        """Send a batch. Returns an outcome for each entry. If no further batch may be begun, adds an error to `broken`.

        If a call fails fast, and its messages may nevertheless have been sent, the call is repeated once: a message
        that is sent twice is harmless. If SQS refuses the batch because of an entry, each half of the batch is sent,
        until that entry is alone. `since` is the time of the first call: a half is sent only if there is time left.
        """
        fields = [{"Id": str(place), **entry.fields} for place, entry in enumerate(batch)]
        started, doubtful = time.monotonic(), False
        since = started if since is None else since
        while True:
            try:
                answer = self._queues.call("send_message_batch", queue, dead=dead, Entries=fields)
                return self._outcomes(answer, len(batch), doubtful)
            except BackendUnavailable as error:
                if refused_for_good(error.__cause__):
                    if len(batch) == 1:
                        return [SendResult(SendOutcome.REFUSED, error)]
                    if failed_fast(since, self._call_timeout):
                        first, second = batch[: len(batch) // 2], batch[len(batch) // 2 :]
                        sent = self._send(queue, first, dead, broken, since)
                        if not broken and failed_fast(since, self._call_timeout):
                            return sent + self._send(queue, second, dead, broken, since)
                        not_sent = SendOutcome.UNKNOWN if doubtful else SendOutcome.FAILED
                        return sent + [SendResult(not_sent, error)] * len(second)
                certain = error.__cause__ is None or refused_for_certain(error.__cause__)
                if not certain and not doubtful and failed_fast(started, self._call_timeout):
                    doubtful = True
                    continue
                broken.append(error)
                outcome = SendOutcome.FAILED if certain and not doubtful else SendOutcome.UNKNOWN
                return [SendResult(outcome, error)] * len(batch)

    def _outcomes(self, answer: Any, count: int, doubtful: bool) -> list[SendResult]:
        """The outcome of each entry. If SQS reports a sender fault for an entry, this call has not sent the entry.

        `doubtful` means that an earlier call may have sent these entries. The outcome is UNKNOWN for an entry that the
        answer does not name.
        """
        results: dict[str, SendResult] = {entry["Id"]: SENT for entry in answer.get("Successful", ())}
        for entry in answer.get("Failed", ()):
            cause = ClientError({"Error": {"Code": entry["Code"], "Message": entry.get("Message", "")}}, "SendMessage")
            error = unavailable(f"SQS {self._queues.where}", cause)
            error.__cause__ = cause
            outcome = SendOutcome.UNKNOWN
            if entry.get("SenderFault", False) and refused_for_good(cause):
                outcome = SendOutcome.REFUSED
            elif entry.get("SenderFault", False) and not doubtful:
                outcome = SendOutcome.FAILED
            results[entry["Id"]] = SendResult(outcome, error)
        return [results.get(str(place), UNKNOWN) for place in range(count)]

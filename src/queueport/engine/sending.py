"""Sends messages and dead-letter copies in batches: one message cannot make other messages fail. For `Operations`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from queueport.engine.batches import call_batch
from queueport.engine.rules import Rules
from queueport.engine.runtime import Runtime
from queueport.errors import BackendUnavailable, log_error, message_of
from queueport.spi.message import SendOutcome, SendResult
from queueport.spi.record import Record

__all__ = ["Sending", "log_unsent", "reason"]

logger: logging.Logger = logging.getLogger("queueport")

Send = Callable[[Sequence[Record]], Sequence[SendResult]]
"""Sends the messages or the copies of these records; returns a result for each, in order."""


class Sending:
    """Sends batches to the backend. Thread-safe, if the runtime is."""

    def __init__(self, rules: Rules, runtime: Runtime) -> None:
        self._rules = rules
        self._runtime = runtime

    def send(self, what: str, send: Send, records: Sequence[Record], *, alone: bool = True) -> list[SendResult]:
        """Send a batch; returns a result for each record, in order. `what` is the verb in logs, such as "published".

        With `alone`, each message that is FAILED or UNKNOWN after the call for a batch of several is sent again by a
        call of its own, because one message may have made the whole batch fail. These calls end after two failures in a
        row, or when half of `call_timeout` is over, because the backend is then probably down.
        """
        latest = self._runtime.monotonic() + self._rules.claim / 4
        results = self._call(what, send, records)
        left = [i for i, sent in enumerate(results) if _again(sent)]
        if not alone or len(records) == 1:
            return results
        # The loop below ends when two messages in a row fail. In random order, two bad messages do not come first each
        # time. But messages with a group must keep their order.
        if not any(record.group for record in records):
            left.sort(key=lambda _: self._runtime.random())
        failures = 0
        for i in left:
            if self._runtime.monotonic() >= latest:
                break
            (sent,) = self._call(what, send, [records[i]])
            if not _again(sent) or results[i].outcome is SendOutcome.FAILED:
                results[i] = sent
            failures = failures + 1 if _again(sent) else 0
            if failures == 2:  # the backend is probably down
                break
        return results

    def _call(self, what: str, send: Send, records: Sequence[Record]) -> list[SendResult]:
        def failed(record: Record, error: Exception) -> SendResult:
            log_error(logger, error, "job %s could not be %s", record.id, what)
            return SendResult(SendOutcome.UNKNOWN, error)

        try:
            return call_batch(send, records, failed)
        except BackendUnavailable as error:
            return [SendResult(SendOutcome.UNKNOWN, error)] * len(records)


def _again(sent: SendResult) -> bool:
    """True if the message was not confirmed, and sending it again may succeed."""
    return sent.outcome in (SendOutcome.FAILED, SendOutcome.UNKNOWN)


def reason(sent: SendResult) -> str:
    """The reason why the backend did not confirm a message, for a log line and for the job's error."""
    return "the backend did not confirm the message" if sent.error is None else message_of(sent.error)


def log_unsent(what: str, pairs: Iterable[tuple[Record, SendResult]]) -> None:
    """Log the jobs whose message or copy was not confirmed, in one line for each queue and reason."""
    found: dict[tuple[str, str, bool], list[str]] = {}
    for record, sent in pairs:
        if sent.outcome is not SendOutcome.SENT:
            for_good = sent.outcome is SendOutcome.REFUSED
            found.setdefault((record.queue, reason(sent), for_good), []).append(record.id)
    for (queue, why, for_good), ids in found.items():
        others = len(ids) - 1
        jobs = f"job {ids[0]}" + (f" and {others} other{'s' if others > 1 else ''}" if others else "")
        then = "the backend refuses it for good" if for_good else "this will be tried again"
        logger.warning("%s of queue %s could not be %s; %s: %s", jobs, queue, what, then, why)

"""How new jobs come in: record, message and mark, and what is said where one of them fails. For the queue.

The steps are those of PROTOCOL's *enqueue*: where a job was not accepted, it will not run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from queueport import lifecycle
from queueport.driver import SendOutcome
from queueport.errors import BackendUnavailable, DuplicateJob
from queueport.message import Message
from queueport.operations import Operations, new_id
from queueport.record import Change, Record, Then
from queueport.status import JobState
from queueport.store import Insert, Outcome, Swap, Written

__all__ = ["Accepting"]

logger: logging.Logger = logging.getLogger("queueport")

QUICK = 0.5
"""Seconds within which a call must have failed to be repeated at once: then only the connection was stale."""


class Accepting:
    """Takes new jobs into the store and the backend of these operations. Thread-safe, for they are."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._store = operations.store
        self._driver = operations.driver

    def enqueue(self, records: Sequence[tuple[Record, Change]]) -> list[str]:
        """Insert, publish, mark; the ids to answer with (the holder's, where a key is held), in order.

        Raises DuplicateJob for an id that exists, and BackendUnavailable with `accepted` and `rejected`.
        """
        inserts = self._alongside([Insert(record, change, new_id()) for record, change in records])
        written = [self._insert_again(i, w) for i, w in zip(inserts, self._insert(inserts), strict=True)]
        mine = [w.record for i, w in zip(inserts, written, strict=True) if w.applied and Then.PUBLISH in i.change.then]
        rejected = self._publish_new([record for record in mine if record is not None])
        rejected |= {i.record.id: w.error for i, w in zip(inserts, written, strict=True) if w.error is not None}
        taken = [i.record.id for i, w in zip(inserts, written, strict=True) if w.outcome is Outcome.REFUSED]
        ids = [w.record.id if w.record is not None else i.record.id for i, w in zip(inserts, written, strict=True)]
        if rejected:
            why = next(iter(rejected.values()))
            told = f"{why}; " if isinstance(why, BackendUnavailable) else ""
            accepted = [job_id for job_id in ids if job_id not in rejected and job_id not in taken]
            raise BackendUnavailable(
                f"{told}{self._driver.name} did not take {len(rejected)} of {len(records)} jobs; they will not run",
                accepted=accepted,
                rejected=[job_id for job_id in ids if job_id in rejected],
            ) from (why.__cause__ if told and why is not None else why)
        if taken:
            accepted = [job_id for job_id in ids if job_id not in taken]
            message = f"a job with the id {taken[0]!r} exists already: choose another job_id"
            raise DuplicateJob(message, accepted=accepted, rejected=taken)
        return ids

    def _alongside(self, inserts: list[Insert]) -> list[Insert]:
        """The same with their messages, where these go out in the step that inserts: then no producer marks them."""
        new = [i for i in inserts if Then.PUBLISH in i.change.then]
        if not self._driver.alongside or not new:
            return inserts
        now = self._store.reckoned()
        messages = [Message.of(i.change.applied(i.record, i.rev, now), now) for i in new]
        sent = {
            i.rev: replace(i, change=i.change.with_next(lifecycle.mark(i.record)), along=tuple(along))
            for i, along in zip(new, self._driver.along(messages), strict=True)
        }
        return [sent.get(i.rev, i) for i in inserts]

    def _insert(self, inserts: Sequence[Insert]) -> Sequence[Written]:
        since = self._store.reckoned() if self._driver.alongside else 0.0
        started = time.monotonic()
        try:
            return self._store.insert(inserts)
        except BackendUnavailable:
            if time.monotonic() - started > QUICK:
                raise
            again = self._store.insert(inserts)  # by my own revs I know again what the first call did
            return [self._known_again(i, w, since) for i, w in zip(inserts, again, strict=True)]

    def _known_again(self, insert: Insert, written: Written, since: float) -> Written:
        """The same where a worker has begun what the first call sent, and gave it another rev: by all that is left."""
        old, found = insert.record, written.record
        if not insert.along or written.outcome is not Outcome.REFUSED or found is None or found.enqueued_at < since:
            return written
        same = (found.task, found.queue, found.payload) == (old.task, old.queue, old.payload)
        return Written(Outcome.APPLIED, found) if same else written

    def _insert_again(self, insert: Insert, written: Written) -> Written:
        """Settle what the first insert met: my own lost answer, or a key whose holder must stay."""
        while True:
            found = written.record
            if written.outcome is Outcome.REFUSED and found is not None and found.rev == insert.rev:
                return Written(Outcome.APPLIED, found)
            if written.outcome is not Outcome.KEY_HELD or found is None:
                return written
            if found.sent or found.state is not JobState.QUEUED:
                return written
            touch = Swap(found.id, found.rev, Change({"sends": found.sends}), new_id())
            if self._store.swap([touch])[0].applied:  # its producer can no longer withdraw it
                return written
            written = self._store.insert([insert])[0]

    def _publish_new(self, records: Sequence[Record]) -> dict[str, BaseException | None]:
        """Publish what was just inserted; what failed is withdrawn again. The ids that will not run, with the cause."""
        rejected: dict[str, BaseException | None] = {}
        for record, sent in zip(records, self._operations.publish(records, new=True), strict=True):
            if sent.outcome is not SendOutcome.SENT:
                change = lifecycle.withdraw(self._operations.rules, certain=sent.outcome is SendOutcome.FAILED)
                if self._withdrawn(record, change):
                    rejected[record.id] = sent.error
        return rejected

    def _withdrawn(self, record: Record, change: Change) -> bool:
        """Whether my own insert is taken back; False where somebody took the job up, which then is accepted."""
        swap = Swap(record.id, record.rev, change, new_id())
        for last in (False, True):
            try:
                written = self._store.swap([swap])[0]
            except BackendUnavailable as error:
                if last:  # neither answers: all that can be said is that it was not accepted
                    logger.warning("job %s could not be taken back: %s", record.id, error)
                continue
            return written.applied or written.record is None or written.record.rev == swap.rev
        return True

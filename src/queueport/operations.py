"""The verbs of PROTOCOL.md that take several steps over store and backend: publish, swap and what follows, dispatch.

Queue, runner and dispatcher are built on these; each step asks the lifecycle and lets nothing else decide.
"""

from __future__ import annotations

import functools
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from queueport import hooks, lifecycle
from queueport.capability import Limits
from queueport.driver import Driver, SendOutcome, Sent
from queueport.errors import BackendUnavailable, DuplicateJob
from queueport.job import Options
from queueport.lifecycle import Refusal, Rules
from queueport.message import Message
from queueport.record import Change, Record, Then
from queueport.retry import Retry
from queueport.status import JobState, JobStatus
from queueport.store import JobStore, Outcome, Swap
from queueport.tasks import registry

__all__ = ["Operations", "Settled"]

logger: logging.Logger = logging.getLogger("queueport")


def new_id() -> str:
    """A random id, for revs and tokens: another process makes another one."""
    return secrets.token_hex(8)


def frozen_options(options: Options) -> dict[str, Any]:
    """Those options that a record keeps, plain JSON."""
    kept = {name: getattr(options, name) for name in ("timeout", "crash_limit", "keep_result")}
    kept["retry"] = None if options.retry is None else options.retry.as_dict()
    return {name: value for name, value in kept.items() if value is not None}


def _copy(record: Record, change: Change) -> Message:
    """The copy that was buried before this change: where the change began a new life, that of the old one."""
    life = record.life - 1 if "life" in change.set else record.life
    return Message.of(replace(record, life=life), 0.0, buried=True)


@dataclass(frozen=True, slots=True)
class Settled:
    """The end of a swap: `change` was applied and `record` is the job after it, or it was refused."""

    record: Record | None
    change: Change | None = None
    refusal: Refusal | None = None


Decide = Callable[[Record | None], Change | Refusal]


class Operations:
    """Store, backend and rules together. Thread-safe, for they are."""

    def __init__(self, store: JobStore, driver: Driver, rules: Rules) -> None:
        self.store = store
        self.driver = driver
        self.rules = rules
        self._dispatching = threading.Lock()

    @property
    def limits(self) -> Limits:
        """What backend and store both take."""
        return self.driver.limits.smaller(self.store.limits)

    def status(self, record: Record) -> JobStatus:
        """What a caller sees of that record."""
        return record.status(self.policy(record.task))

    def policy(self, task: str) -> Retry:
        """The retry policy of that task where its producer named none, as far as this process knows."""
        known = registry.get(task)
        return self.rules.retry if known is None or known.options.retry is None else known.options.retry

    # -- publish, mark, bury -----------------------------------------------------------------------

    def publish(self, records: Sequence[Record], *, new: bool = False) -> Sequence[Sent]:
        """Publish claimed records and mark those that were taken; a claim lost meanwhile refuses the mark."""
        if not records:
            return []
        messages = [Message.of(record, self._claimed_at(record)) for record in records]
        outcomes = self.driver.publish(messages)
        swaps = []
        for record, sent in zip(records, outcomes, strict=True):
            if sent.outcome is SendOutcome.SENT:
                swaps.append(Swap(record.id, record.rev, lifecycle.mark(record), new_id()))
            elif sent.outcome is SendOutcome.UNKNOWN and not new:
                swaps.append(Swap(record.id, record.rev, lifecycle.send_unknown(self.rules, record), new_id()))
        try:
            self.store.swap(swaps)
        except BackendUnavailable as error:
            logger.warning("%d sent jobs could not be marked; they are sent once more: %s", len(swaps), error)
        return outcomes

    def _claimed_at(self, record: Record) -> float:
        """The store's clock as it was when this process claimed the record."""
        return time.time() if record.wake_at is None else record.wake_at - self.rules.claim

    def bury(self, ids: Sequence[str]) -> None:
        """Put copies of these dead jobs into the backend's dead letters, if they still are dead."""
        dead = [
            r
            for r in (self.store.get(ids) if ids else ())
            if r is not None and r.state is JobState.DEAD and not r.buried
        ]
        if not dead:
            return
        limit = self.limits.message
        copies = [Message.of(record, record.finished_at or 0.0, buried=True, limit=limit) for record in dead]
        self.driver.bury(copies)
        swaps = [Swap(r.id, r.rev, lifecycle.buried(self.rules, r), new_id()) for r in dead]
        for copy, answer in zip(copies, self.store.swap(swaps), strict=True):
            now = answer.record
            if now is None or now.state is not JobState.DEAD or now.life != copy.life:
                self.driver.unbury([copy])

    # -- swap --------------------------------------------------------------------------------------

    def settle(self, job_id: str, decide: Decide, record: Record | None = None) -> Settled:
        """Ask the lifecycle, swap, and ask again where the swap was refused; then do what follows.

        `record`: the job as last read, to save a read. Raises DuplicateJob where a held key forbids the change.
        """
        settled = self.decide(job_id, decide, record)
        if settled.change is not None and settled.record is not None:
            self.follow([(settled.record, settled.change)])
        return settled

    def cancel(self, job_id: str, *, interrupts: bool = True) -> Settled:
        """Cancel a waiting job, or ask a running one to stop."""
        return self.settle(job_id, lambda record: lifecycle.cancel(self.rules, record, interrupts=interrupts))

    def decide(self, job_id: str, decide: Decide, record: Record | None = None) -> Settled:
        """`settle` without what follows."""
        record = self.store.get([job_id])[0] if record is None else record
        while True:
            change = decide(record)
            if isinstance(change, Refusal):
                return Settled(record, refusal=change)
            if record is None:
                raise AssertionError("the lifecycle changed a job that is not there")
            rev = new_id()
            written = self.store.swap([Swap(record.id, record.rev, change, rev)])[0]
            if written.outcome is Outcome.KEY_HELD and written.record is not None:
                raise DuplicateJob(
                    f"job {job_id} cannot be retried: job {written.record.id} holds its key {record.key!r}"
                )
            if written.applied or (written.record is not None and written.record.rev == rev):
                return Settled(written.record or record, change)
            record = written.record

    def follow(self, done: Sequence[tuple[Record, Change]]) -> None:
        """Do what applied swaps ask for. A backend that does not answer is no error: the dispatcher comes by later."""
        asked = {then: [(record, change) for record, change in done if then in change.then] for then in Then}
        self._try(lambda: self.publish([record for record, _ in asked[Then.PUBLISH]]))
        self._try(lambda: self.bury([record.id for record, _ in asked[Then.BURY]]))
        if asked[Then.UNBURY]:
            self._try(lambda: self.driver.unbury([_copy(record, change) for record, change in asked[Then.UNBURY]]))
        for record, change in done:
            if Then.TELL_DEATH in change.then:
                hooks.tell_death(self.status(record))

    def _try(self, step: Callable[[], object]) -> None:
        try:
            step()
        except BackendUnavailable as error:
            logger.warning("the dispatcher will finish what could not be done now: %s", error)

    # -- dispatch ----------------------------------------------------------------------------------

    def dispatch(self, limit: int, *, leases: bool = True) -> int:
        """Claim what is due and move it on, as the lifecycle says; how many were claimed."""
        with self._dispatching:  # so that who waits here finds moved what another thread has claimed
            return self._dispatch(limit, leases)

    def _dispatch(self, limit: int, leases: bool) -> int:
        called_at = time.monotonic()
        claimed = self.store.claim_due(limit, self.rules.claim, new_id(), leases=leases)
        if not claimed:
            return 0
        slow = time.monotonic() - called_at > self.rules.lease / 3  # then their holders' heartbeats had to wait too
        known = self._known()
        pairs: list[tuple[Record, Change]] = []
        for record in claimed:
            change = lifecycle.dispatch(self.rules, record, now=self._claimed_at(record), known=known)
            if slow and record.state is JobState.RUNNING:
                change = lifecycle.spare(self.rules)
            if isinstance(change, Change):
                pairs.append((record, change))
        self.apply(pairs)
        return len(claimed)

    def apply(self, pairs: Sequence[tuple[Record, Change]]) -> int:
        """Swap many at once, each on the rev it was read with; how many applied. The others are somebody else's."""
        writing = [(record, change) for record, change in pairs if change.writes]
        swaps = [Swap(record.id, record.rev, change, new_id()) for record, change in writing]
        written = self.store.swap(swaps) if swaps else []
        done = [(record, change) for record, change in pairs if not change.writes]
        for (record, change), swap, answer in zip(writing, swaps, written, strict=True):
            if answer.applied:
                done.append((answer.record or replace(record, rev=swap.rev), change))
        self.follow(done)
        return sum(answer.applied for answer in written)

    def find_lost(self, queue: str, priority: int, frontier: float, limit: int) -> int:
        """Send again what should have arrived before `frontier`; how many."""
        found = self.store.unreceived(
            queue, priority, frontier - 2 * self.rules.lost_after, limit
        )  # sent at least once
        changes = [(record, lifecycle.lost(self.rules, record, frontier=frontier)) for record in found]
        return self.apply([(record, change) for record, change in changes if isinstance(change, Change)])

    def _known(self) -> Callable[[Record], bool]:
        """Whether a live worker knows a record's task; the workers are read once, and only if it is asked."""
        workers = functools.cache(self.store.workers)
        return lambda record: any(record.queue in w.queues and record.task in w.tasks for w in workers())

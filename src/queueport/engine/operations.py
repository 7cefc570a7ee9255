"""The steps of the protocol over a store and a backend: publish, bury, settle, follow up, dispatch. For the core.

`JobQueue`, the workers and the dispatcher call these steps. Each step that changes a record asks the `Lifecycle`.
`docs/protocol.md` specifies the steps.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from queueport import hooks
from queueport.capability import Limits
from queueport.engine.arguments import PAGE, checked, missing
from queueport.engine.batches import call_batch, call_each
from queueport.engine.events import Events
from queueport.engine.lifecycle import PUBLISH_FAILED, Lifecycle, publish_failed
from queueport.engine.limits import StartLimits
from queueport.engine.marks import Marks
from queueport.engine.pauses import Pauses
from queueport.engine.rules import CLAIM, Refusal, Rules
from queueport.engine.runtime import Runtime
from queueport.engine.sending import Sending, log_unsent, reason
from queueport.errors import BackendUnavailable, DuplicateJob, log_error
from queueport.spi.driver import Driver
from queueport.spi.failures import FailureLog
from queueport.spi.message import Message, SendOutcome, SendResult, by_queue
from queueport.spi.record import Change, FollowUp, Record
from queueport.spi.signing import Signer
from queueport.spi.storage import room, start_in
from queueport.spi.store import MOST_LIMITS, HeldJobs, JobStore, Query, Swap, WriteOutcome, WriteResult
from queueport.status import JobState, JobStatus
from queueport.tasks import registry

__all__ = ["Changed", "Decide", "Operations", "SettleResult"]

logger: logging.Logger = logging.getLogger("queueport")
T = TypeVar("T")
LET_ON = 100
"""The maximum number of jobs of one limit that are let on in one step."""
HELD_PAGES = 4
"""The maximum number of calls of `held` in one round of a dispatcher."""
MOST_READ = 32
"""A search for lost messages that may publish `limit` jobs again reads at most `MOST_READ * limit` records."""
ANSWERED = frozenset({SendOutcome.SENT, SendOutcome.REFUSED})
"""The outcomes that show that the backend has answered. FAILED may mean that no connection could be opened."""


@dataclass(frozen=True, slots=True)
class SettleResult:
    """The result of `Operations.settle`: either a `change` that was applied, or a `refusal`.

    `record` is the record after the change, or as it was read before the refusal; None if the job has no record.
    """

    record: Record | None
    change: Change | None = None
    refusal: Refusal | None = None

    @property
    def applied(self) -> bool:
        """True if this call has written the change, or if no write was needed, for example because an earlier call has
        written the change.
        """
        return self.change is not None or self.refusal is Refusal.NOTHING


@dataclass(frozen=True, slots=True)
class Changed:
    """The number of changed jobs, and of the jobs that matched but were left as they are."""

    changed: int = 0
    skipped: int = 0


Decide = Callable[[Record], Change | Refusal]
"""A function that takes a record and returns what the lifecycle decides about it: a change or a refusal."""


class Operations:
    """The steps of the protocol over one store and backend. Thread-safe."""

    def __init__(
        self,
        store: JobStore,
        driver: Driver,
        rules: Rules,
        runtime: Runtime | None = None,
        signer: Signer | None = None,
    ) -> None:
        self.store = store
        self.driver = driver
        self.rules = rules
        self.signer = signer
        self.lifecycle: Lifecycle = Lifecycle(rules)
        self.runtime: Runtime = Runtime() if runtime is None else runtime
        self.events: Events = Events(driver, self.runtime)
        self._sending = Sending(rules, self.runtime)
        self.marks: Marks = Marks(self._mark, self.runtime)
        self._dispatching = self.runtime.lock()
        self._failures = FailureLog(logger, self.runtime.monotonic)
        self.pauses: Pauses = Pauses(store, self.runtime)
        self.limits_at_begin: StartLimits = StartLimits(store, self.runtime)
        self._resting: list[tuple[float, str, str]] = []
        """The jobs that this process has let rest: the time on the monotonic clock, the id, and the queue. A job is
        removed when the pauses were read again after that time."""
        self._held_after = ""
        """The name of the limit after which the next search for held jobs begins."""
        self._smaller: tuple[Limits, Limits, Limits] | None = None
        """The limits of the backend and of the store when they were last compared, and their minimum."""

    @property
    def limits(self) -> Limits:
        """The maximum sizes in bytes that the backend and the store both accept."""
        carried, stored, known = self.driver.limits, self.store.limits, self._smaller
        if known is None or known[0] is not carried or known[1] is not stored:
            known = self._smaller = (carried, stored, carried.smaller(stored))
        return known[2]

    def read(self, job_id: str) -> Record:
        """The job's record. Raises JobNotFound."""
        record = self.store.get([checked(job_id)])[0]
        if record is None:
            raise missing(job_id)
        return record

    def status(self, record: Record) -> JobStatus:
        """The record as a `JobStatus`.

        Its `max_attempts` is that of the retry policy in the record. If the record has no policy, and an attempt has
        begun, `max_attempts` is that of the default policy. If no attempt has begun, it is that of the task's policy,
        or None if this process has not registered the task. Raises CorruptRecord.
        """
        known = registry.get(record.task)
        if record.attempts:
            return record.status(self.rules.retry)
        return record.status(None if known is None else known.options.retry or self.rules.retry)

    def find(self, query: Query) -> list[JobStatus]:
        """The jobs that match the query. If there are none and the job of `after` was deleted, raises JobNotFound."""
        found = self.store.find(query)
        if not found and query.after is not None and self.store.get([query.after])[0] is None:
            raise missing(query.after)
        return [self.status(record) for record in found]

    def warnings(self) -> list[str]:
        """One sentence if queued jobs wait because the backend did not confirm their messages; else an empty list."""
        query = Query(state=JobState.QUEUED, error=PUBLISH_FAILED, limit=1)
        found = self.store.find(query) if self.driver.carries else ()
        if not found:
            return []
        number, (record,) = self.store.count(query), found
        jobs = "1 queued job" if number == 1 else f"{number} queued jobs"
        which = f"such as job {record.id} of queue {record.queue}: {record.errors[-1].message}"
        return [f"{jobs} could not be published and will be published again, {which}"]

    # -- publish, mark, bury -----------------------------------------------------------------------

    def publish(self, records: Sequence[Record], *, new: bool = False) -> Sequence[SendResult]:
        """Publish the messages of jobs that this process has claimed, and record the outcomes. Returns the outcomes.

        If another process has changed a record meanwhile, for example because the claim has ended, the outcome is not
        recorded for this job, which is not an error. If the store does not answer, a warning is logged.

        With `new`, only confirmed publishes are recorded, because the producer withdraws the other jobs; see `Enqueue`.
        They are recorded soon after this call, see `Marks`; but at once for a job with a key, because what another job
        with this key does depends on it.
        """
        if not records:
            return []
        results = self._sending.send("published", self._send, records, alone=not new)
        pairs = list(zip(records, results, strict=True))
        if new:
            pairs = [(record, sent) for record, sent in pairs if sent.outcome is SendOutcome.SENT]
            self.marks.add([record for record, _ in pairs if record.key is None])
            pairs = [(record, sent) for record, sent in pairs if record.key is not None]
        log_unsent("published", [pair for pair in pairs if not _logged(*pair)])
        try:
            self.apply([(record, self._published(record, sent)) for record, sent in pairs])
        except BackendUnavailable as error:
            message = "the outcome of publishing %d jobs could not be recorded; they may be published again: %s"
            self._failures.warning(message, len(pairs), error)
        return results

    def _mark(self, records: Sequence[Record]) -> None:
        self.apply([(record, self.lifecycle.mark(record)) for record in records])

    def _published(self, record: Record, sent: SendResult) -> Change:
        """The change that records the outcome of a publish."""
        if sent.outcome is SendOutcome.SENT:
            return self.lifecycle.mark(record)
        decide = {
            SendOutcome.FAILED: self.lifecycle.send_failed,
            SendOutcome.REFUSED: self.lifecycle.send_refused,
            SendOutcome.UNKNOWN: self.lifecycle.send_unknown,
        }[sent.outcome]
        return decide(record, why=reason(sent), now=self._claimed_at(record))

    def _in_time(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, but end early if half of `call_timeout` is over. Always yields the first item.

        A backend that does not answer thus delays the caller once, not once for each item.
        """
        started = self.runtime.monotonic()
        for number, item in enumerate(items):
            if number and self._late(started):
                return
            yield item

    def _late(self, started: float, limit: float = 0.5) -> bool:
        """True if more than `limit` x `call_timeout` seconds have passed since `started`."""
        return self.runtime.monotonic() - started > limit * self.rules.claim / CLAIM

    def _send(self, records: Sequence[Record]) -> Sequence[SendResult]:
        signer = self.signer
        return self.driver.publish([Message.of(r, self._claimed_at(r), signer=signer) for r in records])

    def _swap(self, swaps: Sequence[Swap]) -> list[WriteResult]:
        """Write swaps. A swap that raises an unexpected error is logged and counts as refused. It does not
        make other swaps fail.

        If an earlier call has already applied a swap, the swap counts as applied. Raises BackendUnavailable.
        """

        def failed(swap: Swap, error: Exception) -> WriteResult:
            log_error(logger, error, "the record of job %s could not be written", swap.id)
            return WriteResult(WriteOutcome.REFUSED, None)

        written = call_batch(self.store.swap, swaps, failed)
        return [
            replace(answer, outcome=WriteOutcome.APPLIED) if _applied(answer, swap.rev) else answer
            for swap, answer in zip(swaps, written, strict=True)
        ]

    def _claimed_at(self, record: Record) -> float:
        """The store's time at which this process claimed the record. Without a `wake_at`, the time of this machine."""
        return self.runtime.wall() if record.wake_at is None else record.wake_at - self.rules.claim

    def bury(self, ids: Sequence[str]) -> bool:
        """Put dead-letter copies of these jobs into the backend. Skips jobs that are not dead or are already buried.

        A failed burial is logged, and a dispatcher repeats it, unless the backend refuses the copy for good. If half of
        `call_timeout` is over, the copies of the remaining queues are left to a dispatcher. Returns True if the backend
        has answered for each copy. Raises BackendUnavailable if the store does not answer.
        """

        def failed(job_id: str, error: Exception) -> None:
            log_error(logger, error, "job %s could not be buried, because its record could not be read", job_id)

        found = call_batch(self.store.get, ids, failed)
        dead = [r for r in found if r is not None and r.state is JobState.DEAD and not r.buried]
        queues = {record.queue: [each for each in dead if each.queue == record.queue] for record in dead}
        answered = [self._bury(queue, queues[queue]) for queue in self._in_time(queues)]
        return all(answered) and len(answered) == len(queues)

    def _bury(self, queue: str, records: Sequence[Record]) -> bool:
        def send(batch: Sequence[Record]) -> Sequence[SendResult]:
            results = self.driver.bury(queue, [self._copy(record) for record in batch])
            return [SendResult(SendOutcome.SENT)] * len(batch) if results is None else results

        results = self._sending.send("buried", send, records)
        pairs = list(zip(records, results, strict=True))
        log_unsent("buried", pairs)
        swaps = [Swap(r.id, r.rev, self._buried(r, sent), self.runtime.new_id()) for r, sent in pairs]
        for (record, sent), answer in zip(pairs, self._swap(swaps), strict=True):
            now = answer.record
            moved = now is None or now.state is not JobState.DEAD or now.life != record.life
            if moved and sent.outcome is SendOutcome.SENT:
                self._try(partial(self.driver.unbury, queue, [self._copy(record)]))
        return all(sent.outcome in ANSWERED for sent in results)

    def _buried(self, record: Record, sent: SendResult) -> Change:
        """The change that records the outcome of a burial."""
        if sent.outcome is SendOutcome.SENT:
            return self.lifecycle.mark_buried(record)
        if sent.outcome is SendOutcome.REFUSED:
            return self.lifecycle.bury_refused(record)
        return self.lifecycle.bury_failed(record, now=self._claimed_at(record))

    def _copy(self, record: Record) -> Message:
        return Message.of(record, record.finished_at or 0.0, buried=True, limit=self.limits.message, signer=self.signer)

    # -- settle ------------------------------------------------------------------------------------

    def settle(self, job_id: str, decide: Decide, record: Record | None = None) -> SettleResult:
        """Ask `decide` for a change, write it, and take its follow-ups.

        If the write is refused, `decide` is asked again, with the record that the store returned. `record` is the job's
        record if the caller has read it. If the job has no record, the result is the refusal GONE. Raises DuplicateJob
        if another job holds the key, and BackendUnavailable if the store does not answer.
        """
        record = self.store.get([job_id])[0] if record is None else record
        while record is not None:
            change = decide(record)
            if isinstance(change, Refusal):
                return SettleResult(record, refusal=change)
            rev = self.runtime.new_id()
            written = self.store.swap([Swap(record.id, record.rev, change, rev, record)])[0]
            if written.outcome is WriteOutcome.KEY_HELD and written.record is not None:
                raise DuplicateJob(
                    f"job {job_id} cannot be retried while job {written.record.id} holds its key {record.key!r}: wait "
                    "until that job has ended, or cancel it"
                )
            if _applied(written, rev):
                record = written.record or record
                self.follow([(record, change)])
                return SettleResult(record, change)
            record = written.record
        return SettleResult(None, refusal=Refusal.GONE)

    def settle_all(self, asked: Sequence[tuple[Record, Decide]]) -> list[SettleResult | Exception]:
        """`settle` for several jobs, with the records as last read, in one call to the store.

        A job whose write is refused or raises an error is then settled by a call of its own. If its own call raises an
        unexpected error, the error is the answer for this job, and the other jobs are settled nevertheless. Raises
        BackendUnavailable if the store does not answer; the caller may then repeat `settle_all`.
        """
        decided = call_each(lambda one: one[1](one[0]), asked if len(asked) > 1 else (), _error_itself)
        swaps = {
            i: Swap(record.id, record.rev, change, self.runtime.new_id(), record)
            for i, ((record, _), change) in enumerate(zip(asked, decided, strict=False))
            if isinstance(change, Change)
        }
        written = dict(zip(swaps, call_batch(self.store.swap, [*swaps.values()], _error_itself), strict=True))
        done = {
            i: (answer.record or asked[i][0], swaps[i].change)
            for i, answer in written.items()
            if isinstance(answer, WriteResult) and _applied(answer, swaps[i].rev)
        }
        self.follow([*done.values()])

        def result(i: int) -> SettleResult | Exception:
            if i in done:
                return SettleResult(*done[i])
            (record, decide), answer = asked[i], written.get(i)
            return self.settle(record.id, decide, answer.record if isinstance(answer, WriteResult) else record)

        return call_each(result, range(len(asked)), lambda _, error: error)

    def cancel(self, job_id: str, *, interrupts: bool = True) -> SettleResult:
        """Cancel a waiting job, or record a cancel request for a running one."""
        return self.settle(job_id, lambda record: self.lifecycle.cancel(record, interrupts=interrupts))

    def change_pages(self, query: Query, decide: Decide, size: int) -> Iterator[Changed]:
        """Change all jobs that match the query as `decide` decides, the latest enqueued first, in pages of `size` jobs.

        Yields the numbers of each page. If another process has changed the record meanwhile, for example by a heartbeat
        or after a burial, but the job is still in the same state and life, decides again. A job is skipped if `decide`
        refuses, if it has left its state, if another job holds its key, or if its record cannot be written.
        """
        page, answered = list[str](), True
        while True:
            records = left = self._next_page(query, page, size)
            count = 0
            while left:
                # If the backend has not answered for a page, change the later pages without calling the backend.
                # Dispatchers then publish the jobs of these pages.
                applied, answers, changed = self._apply([(record, decide(record)) for record in left], follow=answered)
                count += applied
                answered = answered and answers
                read = {record.id: (record.state, record.life) for record in left}
                left = [record for record in changed if (record.state, record.life) == read[record.id]]
            yield Changed(count, len(records) - count)
            if len(records) < size:
                return
            page = [record.id for record in records]

    def _next_page(self, query: Query, previous: Sequence[str], size: int) -> Sequence[Record]:
        """The next records of the query after those with the ids `previous`; if there are none, the first records.

        A store finds nothing after a deleted record. The page then begins after the last of the previous records that
        still exists, or again at the first record.
        """
        left = list(previous)
        while True:
            records = self.store.find(replace(query, after=left[-1] if left else None, limit=size))
            if records or not left or self.store.get(left[-1:])[0] is not None:
                return records
            read = zip(left, self.store.get(left), strict=True)
            left = [job_id for job_id, record in read if record is not None]

    def apply(self, decided: Sequence[tuple[Record, Change | Refusal]], *, follow: bool = True) -> int:
        """Write each change if its record still has the rev that was read, and take the follow-ups of applied changes.

        Returns the number of applied writes. If a write is refused, because another process has changed the record or
        another job holds the job's key, the record stays as it is. A write that fails with an unexpected error is
        logged. Without `follow`, the backend is not called: dispatchers later publish and bury the jobs, but
        dead-letter copies that should be removed stay in the backend.
        """
        return self._apply(decided, follow=follow)[0]

    def _apply(
        self, decided: Sequence[tuple[Record, Change | Refusal]], *, follow: bool
    ) -> tuple[int, bool, list[Record]]:
        """Like `apply`. Returns the number of applied writes, the result of `Operations.follow`, and the present
        records of the jobs that were changed since they were read.
        """
        pairs = [(record, change) for record, change in decided if isinstance(change, Change)]
        writing = [(record, change) for record, change in pairs if change.writes]
        swaps = [Swap(record.id, record.rev, change, self.runtime.new_id(), record) for record, change in writing]
        written = self._swap(swaps)
        done = [(record, change) for record, change in pairs if not change.writes]
        for (record, change), swap, answer in zip(writing, swaps, written, strict=True):
            if answer.applied:
                done.append((answer.record or replace(record, rev=swap.rev), change))
        answers = self.follow(done, send=follow)
        refused = [
            (swap, answer.record)
            for swap, answer in zip(swaps, written, strict=True)
            if answer.outcome is WriteOutcome.REFUSED and answer.record is not None
        ]
        changed = [record for swap, record in refused if record.rev != swap.expected]
        return sum(answer.applied for answer in written), answers, changed

    def follow(self, done: Sequence[tuple[Record, Change]], *, send: bool = True) -> bool:
        """Take the follow-ups of applied changes, and call the on_event hooks for these changes.

        If the backend does not answer, a dispatcher later publishes and buries the jobs, but dead-letter copies that
        should be removed stay in the backend. Without `send`, the backend is not called, with the same consequences.
        The hooks are called in any case. Returns False if the backend probably does not answer: a step has
        failed, and half of `call_timeout` is over.
        """
        following = [(record, change) for record, change in done if change.then]
        confirmed = self._follow(following, send) if following else True
        if hooks.event_hooks:
            self.events.changed(done)
        return confirmed

    def _follow(self, done: Sequence[tuple[Record, Change]], send: bool) -> bool:
        pairs = {then: [(record, change) for record, change in done if then in change.then] for then in FollowUp}
        copies = [_buried_copy(record, change) for record, change in pairs[FollowUp.UNBURY]]
        started, confirmed = self.runtime.monotonic(), True
        if send:
            confirmed = self._try(partial(self._publish_all, [record for record, _ in pairs[FollowUp.PUBLISH]]))
            if not self._late(started):
                confirmed &= self._try(partial(self.bury, [record.id for record, _ in pairs[FollowUp.BURY]]))
            for queue, at in by_queue(copies).items():
                # No dispatcher repeats an unburial, so it is left out only if the backend seems to be down or too slow.
                if self._late(started, 1.0 if confirmed else 0.5):
                    break
                confirmed &= self._try(partial(self.driver.unbury, queue, [copies[i] for i in at]))
        for _, change in pairs[FollowUp.START] if send else ():
            for release in change.releases:
                self._try(partial(self.settle, release.id, self.lifecycle.start))
        for record, _ in pairs[FollowUp.CALL_ON_DEAD]:
            self._try(partial(self._call_on_dead, record))
        return confirmed or not self._late(started)

    def _publish_all(self, records: Sequence[Record]) -> bool:
        """Publish the messages of these records. Returns True if the backend has answered for each."""
        return all(sent.outcome in ANSWERED for sent in self.publish(records))

    def _call_on_dead(self, record: Record) -> None:
        hooks.call_on_dead(self.status(record))

    def _try(self, step: Callable[[], object]) -> bool:
        """Take a step, and log its error. Returns False if the step has raised an error or returned False."""
        try:
            return step() is not False
        except BackendUnavailable as error:
            message = "a job could not be published, or its dead-letter copy not written or removed: %s"
            self._failures.warning(message, error)
        except Exception as error:  # noqa: BLE001  # an error must not stop the follow-ups of other jobs
            message = (
                "an unexpected error occurred when a job was published or died, or its dead-letter copy was removed"
            )
            self._failures.error(error, message)
        return False

    # -- dispatch ----------------------------------------------------------------------------------

    def dispatch(self, limit: int, *, leases: bool = True) -> int:
        """Claim at most `limit` records that are due, and change each one as the lifecycle decides.

        Returns the number of claimed records. Without `leases`, running jobs are left out.
        """
        # Another thread waits here until this thread has changed the records that it claimed. A burst worker, which
        # ends if `dispatch` returns 0, could otherwise end too early.
        with self._dispatching:
            called_at = self.runtime.monotonic()
            claimed = self.store.claim_due(limit, self.rules.claim, self.runtime.new_id(), leases=leases)
            if not claimed:
                return 0
            seconds = self.runtime.monotonic() - called_at
            workers = functools.cache(self.store.workers)  # reads the workers once, and only if needed

            def known(record: Record) -> bool:
                return any(record.queue in w.queues and record.task in w.tasks for w in workers())

            # Read before the first decision, because `call_each` would log an error of the store for each record.
            paused = self.pauses.current() if self.driver.carries and not all(r.state.final for r in claimed) else {}

            needed = self.needed(claimed)

            def decide(record: Record) -> Change:
                now, rests, kept = self._claimed_at(record), record.queue in paused, record.id in needed
                return self.lifecycle.dispatch(record, now=now, known=known, seconds=seconds, paused=rests, needed=kept)

            try:
                self.apply(list(zip(claimed, call_each(decide, claimed, _undecided), strict=True)))
            finally:  # even without an answer, the store may have let the jobs rest
                self._note_resting(record for record in claimed if record.queue in paused)
            return len(claimed)

    def needed(self, records: Sequence[Record]) -> frozenset[str]:
        """The ids of those ended jobs whose result a job that follows them may still read.

        That job has neither succeeded nor was it cancelled. Calls the store once, and only if a job follows one of
        these. Raises BackendUnavailable.
        """
        ended = JobState.SUCCEEDED, JobState.CANCELLED
        linked = [(record.id, record.links) for record in records if record.state in ended and record.links is not None]
        after = {job_id: {links.then, links.on_dead} - {None} for job_id, links in linked}
        asked = sorted({following for each in after.values() for following in each if following is not None})
        found = call_batch(self.store.get, asked, lambda _, __: None) if asked else []
        reads = {following.id for following in found if following is not None and following.state not in ended}
        return frozenset(job_id for job_id, following in after.items() if following & reads)

    def resume(self, queue: str) -> bool:
        """End the pause of a queue, and make its resting jobs due, oldest first. Returns whether it was paused.

        Raises BackendUnavailable; a repeated call wakes the remaining jobs.
        """
        resumed = self.pauses.remove(queue)
        resting: dict[str, None] = {}  # an ordered set, because a page can contain jobs of an earlier one again
        page: Sequence[Record] = ()
        while self.driver.carries:
            page = self._next_page(Query(state=JobState.QUEUED, queue=queue), [record.id for record in page], PAGE)
            resting |= dict.fromkeys(r.id for r in page if isinstance(self.lifecycle.wake(r), Change))
            if len(page) < PAGE:
                break
        ids = [*reversed(resting)]  # `find` returns the newest first
        for start in range(0, len(ids), PAGE):
            self._wake(ids[start : start + PAGE])
        return resumed

    def wake_resting(self) -> None:
        """Wake the jobs that this process has let rest although their queue had been resumed, because its copy of the
        pauses was old. A dispatcher calls this in each round. Raises BackendUnavailable.
        """
        if self._resting:
            with self._dispatching:
                self.pauses.current()  # reads the pauses again if the copy is too old
                read_at = self.pauses.read_at
                paused = self.pauses.current()  # after `read_at`, because another thread may read the pauses meanwhile
                decided = [one for one in self._resting if read_at is not None and one[0] < read_at]
                self._wake([job_id for _, job_id, queue in decided if queue not in paused])
                self._resting = self._resting[len(decided) :]

    def let_on(self, names: Sequence[str] | None = None) -> dict[str, float]:
        """Let as many held jobs on as may begin now: those of the limits with these names, or of all limits.

        Limits that this process does not know are left out. Raises BackendUnavailable.

        Returns, for limits whose rate lets the next job begin later, in how many seconds that is. Leaves out a limit of
        which another process lets jobs on: if `names` is None, also one of which this call has let none on.
        """
        waits, paused = {}, self.pauses.current()
        for held in self._held(names):
            limit = self.limits_at_begin.named(held.name)
            if limit is None:
                continue
            self._let_rest(held, [record for record in held.jobs if record.queue in paused])
            ready = [record for record in held.jobs if record.queue not in paused]
            free = room(limit, held.state, held.now, ahead=held.state.passed)
            number = int(min(max(free, 0), len(ready)))  # `free` may be infinite
            changes = [(record, self.lifecycle.let_on(record, held.now, paused=False)) for record in ready[:number]]
            done, left = self.apply(changes), held.state.held - len(held.jobs) + len(ready)
            wait = start_in(limit, held.state, held.now, ahead=held.state.passed + number)
            if wait > 0 and done == number < left and (number or names is not None):
                waits[held.name] = wait
        return waits

    def _held(self, names: Sequence[str] | None) -> Iterator[HeldJobs]:
        """The limits with these names for which jobs are held. None: all limits, at most HELD_PAGES * MOST_LIMITS in a
        call; the next call goes on after the last one.
        """
        if names is not None:
            for start in range(0, len(names), MOST_LIMITS):
                yield from self.store.held(names[start : start + MOST_LIMITS], LET_ON)
            return
        for _ in range(HELD_PAGES):
            page = self.store.held(None, LET_ON, self._held_after)
            self._held_after = page[-1].name if len(page) == MOST_LIMITS else ""
            yield from page
            if not self._held_after:
                return

    def _let_rest(self, held: HeldJobs, records: Sequence[Record]) -> None:
        """Let held jobs of paused queues wait for the end of the pause."""
        if records:
            self.apply([(record, self.lifecycle.let_on(record, held.now, paused=True)) for record in records])
            if self.driver.carries:
                with self._dispatching:
                    self._note_resting(records)

    def _note_resting(self, records: Iterable[Record]) -> None:
        """Remember the jobs that this process has let rest. The caller holds `_dispatching`."""
        now = self.runtime.monotonic()
        self._resting += [(now, record.id, record.queue) for record in records]

    def _wake(self, ids: Sequence[str]) -> None:
        found = call_batch(self.store.get, ids, lambda _, __: None)  # leaves out a record that cannot be read
        self.apply([(record, self.lifecycle.wake(record)) for record in found if record is not None])

    def find_lost(self, queue: str, priority: int, frontier: float, limit: int) -> int:
        """Publish jobs again whose messages count as lost, because they should have arrived before `frontier`.

        Publishes at most `limit` jobs of this queue and priority. Returns their number, in which jobs whose publish has
        failed are included.
        """
        # A message sent after `sent_before` does not count as lost yet. The lifecycle decides about earlier messages.
        sent_before = frontier - 2 * self.rules.lost_after
        decide = partial(self.lifecycle.resend, frontier=frontier)
        read = limit
        while True:
            found = self.store.unreceived(queue, priority, sent_before, read)
            decided = zip(found, call_each(decide, found, _undecided), strict=True)
            lost = [(record, change) for record, change in decided if isinstance(change, Change)]
            if lost or len(found) < read or read >= MOST_READ * limit:
                return self.apply(lost[:limit])
            read *= 2  # all of these jobs wait longer for a further message: read those after them, too

    def resend_fetched(self, queue: str, priority: int, before: float, limit: int) -> tuple[int, int]:
        """Publish jobs again whose messages were sent before `before`, because a lost worker may have fetched them.

        Tries at most `limit` jobs of this queue and priority, oldest first. Returns the number of jobs that it has
        tried, and the number of jobs whose publish it has begun. Usually, the remaining jobs were changed meanwhile by
        another dispatcher.
        """
        found = self.store.unreceived(queue, priority, before, limit)
        decide = partial(self.lifecycle.resend_fetched, before=before)
        return len(found), self.apply(list(zip(found, call_each(decide, found, _undecided), strict=True)))


def _applied(answer: WriteResult, rev: str) -> bool:
    """Whether this write, or an earlier one with the same rev whose answer was lost, was applied."""
    return answer.applied or (answer.record is not None and answer.record.rev == rev)


def _error_itself(_: object, error: Exception) -> Exception:
    return error


def _undecided(record: Record, error: Exception) -> Refusal:
    """Leave the record unchanged if the lifecycle raised an error, for example because an option in the record is
    damaged.
    """
    log_error(logger, error, "no decision about job %s is possible; its record is left unchanged", record.id)
    return Refusal.NOT_ALLOWED


def _logged(record: Record, sent: SendResult) -> bool:
    """True if a failed publish needs no log line, because the previous publish of the job failed for the same reason.

    A REFUSED publish is always logged.
    """
    same = publish_failed(record) and record.errors[-1].message == reason(sent)
    return same and sent.outcome is not SendOutcome.REFUSED


def _buried_copy(record: Record, change: Change) -> Message:
    """The dead-letter copy to remove after `change`. `record` is the record after the change.

    If the change began a new life, the copy has the number of the life before.
    """
    life = record.life - 1 if "life" in change.set else record.life
    return Message.of(replace(record, life=life), 0.0, buried=True)

"""The promises of DESIGN, held against every single write: what the machine asserts. Read this file first.

The ledger looks at the records after each call to the store. It knows who made the call, so that it can tell a job
that was moved by the one who may from a job that was moved by somebody stale.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable

from queueport.lifecycle import Rules
from queueport.record import Record
from queueport.status import JobState
from queueport.store import JobStore
from queueport.testing.machine.world import Actor, Attempt, Clock, T

S, Q, R, A = JobState.SCHEDULED, JobState.QUEUED, JobState.RUNNING, JobState.RETRYING
OK, DEAD, CANCELLED = JobState.SUCCEEDED, JobState.DEAD, JobState.CANCELLED
PRODUCER, DISPATCHER, WORKER, HEART = "producer", "dispatcher", "worker", "heart"

MOVES: dict[tuple[JobState | None, JobState | None], set[str]] = {
    (None, S): {PRODUCER},
    (None, Q): {PRODUCER},
    (None, DEAD): {PRODUCER},  # put into the dead letters by hand
    (S, Q): {DISPATCHER, PRODUCER},  # due | retry
    (S, CANCELLED): {DISPATCHER, PRODUCER},  # expired | cancel
    (Q, None): {PRODUCER},  # withdrawn
    (Q, R): {WORKER},
    (Q, DEAD): {DISPATCHER},  # unknown task
    (Q, CANCELLED): {DISPATCHER, PRODUCER, WORKER},  # expired | cancel | expired
    (R, Q): {DISPATCHER, WORKER},  # lapsed | interrupted
    (R, A): {WORKER},
    (R, OK): {WORKER},
    (R, DEAD): {DISPATCHER, WORKER},  # lapsed too often | failed
    (R, CANCELLED): {DISPATCHER, WORKER},  # cancel was requested
    (A, Q): {DISPATCHER, PRODUCER},  # due | retry
    (A, CANCELLED): {DISPATCHER, PRODUCER},  # expired | cancel
    (DEAD, Q): {PRODUCER, WORKER},  # retry | native redrive
    (DEAD, CANCELLED): {PRODUCER},  # discard
    (CANCELLED, Q): {PRODUCER},  # retry
    (OK, None): {DISPATCHER},
    (DEAD, None): {DISPATCHER},
    (CANCELLED, None): {DISPATCHER},
}
"""Who may move a job from where to where; None: no record."""


class Ledger:
    """What was promised to whom, and what has become of it. Raises AssertionError where a promise is broken."""

    def __init__(self, store: JobStore, rules: Rules, clock: Clock) -> None:
        self.store, self.rules, self.clock = store, rules, clock
        self.records: dict[str, Record | None] = {}
        """Every job ever inserted, as it is now."""
        self.before: dict[str, Record | None] = {}
        """The same, as it was before its latest write."""
        self.due: dict[str, float] = {}
        """When a scheduled or retrying job may be queued."""
        self.running: list[Attempt] = []
        self.accepted: set[str] = set()
        """Its producer got a handle."""
        self.rejected: set[str] = set()
        """Its producer got an exception."""
        self.cancelled: set[tuple[str, int]] = set()
        """(id, life): cancel() answered CANCELLED."""
        self.requested: set[tuple[str, int]] = set()
        """(id, life): cancel() answered REQUESTED."""
        self.holders: dict[str, str] = {}
        """The process that made each token."""
        self.excused: set[str] = set()
        """Tokens whose process was killed, frozen or unheard: their leases may lapse."""
        self.unanswered: set[str] = set()
        """Tokens of calls that are still to be answered: theirs too."""
        self.begins: Counter[str] = Counter()
        self.deaths: Counter[tuple[str, int]] = Counter()
        self.told: Counter[tuple[str, int]] = Counter()
        self.processed = self.failed = 0

    def watch(self, actor: Actor, do: Callable[[], T]) -> T:
        """Make a call to the store, and judge what it wrote."""
        answer = do()
        for job_id, after in zip(self.records, self.store.get(list(self.records)), strict=True):
            before = self.records[job_id]
            if before != after:
                self.before[job_id], self.records[job_id] = before, after
                self._written(actor, job_id, before, after)
        self._counts()
        self.bodies()
        return answer

    def excuse(self, process: str) -> None:
        """What this process holds may lapse."""
        self.excused.update(token for token, holder in self.holders.items() if holder == process)

    def started(self, attempt: Attempt) -> None:
        """A task's code starts."""
        assert self.clock.now < attempt.until, "a task starts though its lease may have lapsed"
        assert attempt.token not in {other.token for other in self.running}, "an attempt runs twice"
        self.running.append(attempt)
        self.bodies()

    def bodies(self) -> None:
        """Never twice at the same time while the heart beats: whose lease lasts by its own reckoning has the job."""
        self.running = [attempt for attempt in self.running if attempt.running]
        for attempt in self.running:
            if self.clock.now < attempt.until:
                record = self.records[attempt.job_id]
                assert record is not None, "a job vanishes while it runs"
                assert record.state is R, f"a job is {record.state} while it runs"
                assert record.token == attempt.token, "a job runs twice at the same time"

    def claimed(self, records: Iterable[Record], *, leases: bool) -> None:
        """A dispatcher was given these."""
        for record in records:
            before = self.before[record.id]
            assert before is not None, "a job without a record is claimed"
            assert before.wake_at is not None, "a job that waits for nothing is claimed"
            assert before.wake_at <= self.clock.now, "a job is claimed before its time, or twice within a claim"
            assert record.wake_at == self.clock.now + self.rules.claim, "a claim holds for another time than it should"
            assert leases or record.state is not R, "a lease is judged by one who has just come back"

    def tell_death(self, record: Record) -> None:
        """The on_dead hooks are called."""
        self.told[record.id, record.life] += 1
        assert self.told[record.id, record.life] == 1, "on_dead is told twice of one death"

    def at_rest(self, copies: Collection[tuple[str, int]], *, faultless: bool) -> None:
        """The faults have stopped and nothing is left to do. `copies`: id and life of each of the dead letters."""
        for job_id, record in self.records.items():
            assert record is None or record.state.final, f"job {job_id} never ends: {record}"
            last = self.before.get(job_id) if record is None else record
            assert job_id not in self.accepted or (last is not None and last.state.final), (
                "an accepted job is forgotten"
            )
        dead = {(r.id, r.life) for r in self.records.values() if r is not None and r.state is DEAD}
        assert not self.rules.buries or dead <= set(copies), "a dead job is not among the backend's dead letters"
        if faultless:
            assert not self.rules.buries or dead == set(copies), "a job that is not dead is among the dead letters"
            assert self.told == self.deaths, "on_dead was not told of a death"

    # -- one write ----------------------------------------------------------------------------------------------------

    def _written(self, actor: Actor, job_id: str, before: Record | None, after: Record | None) -> None:
        move = (None if before is None else before.state, None if after is None else after.state)
        assert move[0] is move[1] or actor.kind in MOVES.get(move, ()), f"a {actor.kind} moves a job {move}"
        if before is not None and before.state is R and move[1] is not R:
            self._left_running(actor, before, after)
        if after is None:
            self._removed(job_id, before)
            return
        self._bounds(before, after)
        if before is not None and move[0] is move[1]:
            assert _budgets(before) == _budgets(after), "a budget is burned by the way"
        elif after.state is Q:
            self._entered_queued(actor, before, after)
        elif after.state is R:
            self._begun(actor, before, after)
        elif after.state in (S, A):
            self.due[job_id] = after.wake_at or 0.0
        elif move != (DEAD, CANCELLED):
            self._ended(before, after)

    def _bounds(self, before: Record | None, after: Record) -> None:
        """What holds for every record at any time."""
        assert before is None or before.rev != after.rev, "a write without a new rev"
        assert after.failures <= self.rules.retry.max_attempts, "more failures than attempts allowed"
        assert after.crashes <= after.option("crash_limit", self.rules.crash_limit), "more crashes than allowed"
        assert after.attempts == self.begins[after.id] + (
            after.state is R and (before is None or before.state is not R)
        )
        published = after.state is Q and after.sent
        assert published or after.state.final or after.wake_at is not None, f"nobody will look at this job: {after}"
        assert not (published and self.rules.carries) or after.wake_at is None, "a sent job is looked at in vain"
        assert after.id not in self.rejected or after.state.final, "a job runs though its producer got an exception"

    def _entered_queued(self, actor: Actor, before: Record | None, after: Record) -> None:
        fence = (after.token, after.interrupted, after.cancel_requested, after.sends)
        assert fence == (None, False, False, 0), "queued with something left of the last attempt"
        if before is None:
            return
        if before.state in (S, A):
            assert actor.kind is PRODUCER or self.clock.now >= self.due[after.id], "queued before its time"
        if not before.state.final:
            assert before.life == after.life, "a new life without a retry"
            return
        clean = (after.failures, after.crashes, after.expires_at, after.reason, after.buried)
        assert clean == (0, 0, None, None, False), "a new life with something left of the old one"
        assert after.life == before.life + 1, "retried in the same life"
        assert actor.kind is not WORKER or actor.redriven == before.life, "redriven by a copy from another life"

    def _begun(self, actor: Actor, before: Record | None, after: Record) -> None:
        self.begins[after.id] += 1
        assert before is not None, "begun without having been queued"
        assert after.token == actor.token, "begun under a strange token"
        assert before.expires_at is None or self.clock.now < before.expires_at, "an expired job runs"
        assert (after.id, after.life) not in self.cancelled, "a cancelled job runs"
        assert (after.id, after.life) not in self.requested, "a job runs again though its cancellation was promised"

    def _left_running(self, actor: Actor, before: Record, after: Record | None) -> None:
        assert after is not None, "a running job is removed"
        assert actor.kind is not WORKER or before.token == actor.token, "a stale worker is heard"
        assert not before.cancel_requested or after.state is CANCELLED, "a requested cancellation is forgotten"
        crashes, failures = after.crashes - before.crashes, after.failures - before.failures
        assert not crashes or actor.kind is DISPATCHER, "a crash without a lapsed lease"
        assert not crashes or not before.interrupted, "a graceful stop is counted as a crash"
        assert not crashes or before.token in self.excused | self.unanswered, "a healthy worker is counted as crashed"
        assert not failures or actor.kind is WORKER, "a failure that no worker reports"
        self.failed += crashes + failures

    def _ended(self, before: Record | None, after: Record) -> None:
        self.processed += 1
        job = (after.id, after.life)
        assert job not in self.requested or after.state is CANCELLED, "a requested cancellation is forgotten"
        assert after.reason != "not_sent" or after.id not in self.accepted, "an accepted job is withdrawn"
        assert after.reason != "expired" or self.clock.now >= (after.expires_at or 0.0), "expired before its time"
        if after.state is DEAD and before is not None:
            self.deaths[job] += 1

    def _removed(self, job_id: str, before: Record | None) -> None:
        assert before is not None, "removed without having been there"
        if not before.state.final:
            assert job_id not in self.accepted, "an accepted job is removed before its end"
            return
        keep = self.rules.keep_dead if before.state is DEAD else self.rules.keep_succeeded or 0.0
        assert self.clock.now >= (before.finished_at or 0.0) + keep, "removed before its retention is over"

    # -- the whole ----------------------------------------------------------------------------------------------------

    def _counts(self) -> None:
        alive = [record for record in self.records.values() if record is not None]
        stats = self.store.stats()
        assert (stats.processed, stats.failed) == (self.processed, self.failed), "the counters are off"
        counted: Counter[JobState] = Counter()
        for queue in stats.queues.values():
            counted.update(queue.states)
        assert +counted == Counter(record.state for record in alive), "the counts are off"
        keys = [(record.task, record.key) for record in alive if record.key is not None and not record.state.final]
        assert len(keys) == len(set(keys)), "two living jobs hold one key"


def _budgets(record: Record) -> tuple[int, ...]:
    return record.life, record.attempts, record.failures, record.crashes

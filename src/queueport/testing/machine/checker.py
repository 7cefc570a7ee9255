"""`Checker`, which checks the promises of the protocol after every write. Read this file first in the package.

The checker compares all records after each call that may write. It knows which actor made the call, so it notices a job
that is moved by the wrong role, or by a worker that has lost its lease.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any

from queueport.engine.rules import Rules
from queueport.errors import BackendUnavailable, DuplicateJob
from queueport.spi.record import Record
from queueport.spi.storage import is_held, is_passed
from queueport.spi.store import JobStore
from queueport.status import JobState, JobStatus, utc
from queueport.testing.machine.promises import FollowUps, Limited, Limits, Ticks
from queueport.testing.machine.scheduler import Actor
from queueport.testing.machine.simulation import SimulatedRuntime

S, Q, R, A = JobState.SCHEDULED, JobState.QUEUED, JobState.RUNNING, JobState.RETRYING
OK, DEAD, CANCELLED = JobState.SUCCEEDED, JobState.DEAD, JobState.CANCELLED
PRODUCER, DISPATCHER, WORKER, HEARTBEAT = "producer", "dispatcher", "worker", "heartbeat thread"

MOVES: dict[tuple[JobState | None, JobState | None], set[str]] = {
    (None, S): {PRODUCER},
    (None, Q): {PRODUCER},
    (None, DEAD): {PRODUCER},  # added with `dead_letters.add`
    (S, Q): {DISPATCHER, PRODUCER},  # dispatcher: due; producer: retry, replace
    (S, CANCELLED): {DISPATCHER, PRODUCER},  # dispatcher: expired; producer: cancel, purge
    (Q, None): {PRODUCER},  # withdrawn
    (Q, S): {PRODUCER},  # replaced
    (Q, R): {WORKER},
    (Q, DEAD): {DISPATCHER, PRODUCER, WORKER},  # dispatcher: unknown task; each role: the broker refuses the message
    (Q, CANCELLED): {DISPATCHER, PRODUCER, WORKER},  # dispatcher, worker: expired; producer: cancel, purge, withdrawal
    (R, Q): {DISPATCHER, WORKER},  # dispatcher: lease lapsed; worker: interrupted because it stops
    (R, A): {WORKER},
    (R, OK): {WORKER},
    (R, DEAD): {DISPATCHER, WORKER},  # dispatcher: leases lapsed too often; worker: failed, no retry left or allowed
    (R, CANCELLED): {DISPATCHER, WORKER},  # cancel was requested
    (A, Q): {DISPATCHER, PRODUCER},  # dispatcher: due; producer: retry, replace
    (A, S): {PRODUCER},  # replaced
    (A, CANCELLED): {DISPATCHER, PRODUCER},  # dispatcher: expired; producer: cancel, purge
    (DEAD, Q): {PRODUCER, WORKER},  # producer: retry; worker: native redrive
    (DEAD, CANCELLED): {PRODUCER},  # discard
    (CANCELLED, Q): {PRODUCER},  # retry
    (OK, None): {DISPATCHER},
    (DEAD, None): {DISPATCHER},
    (CANCELLED, None): {DISPATCHER},
}
"""The roles that may move a job from one state to another. None: the job has no record. An operator acts as a producer.

RELEASED has further moves of jobs that follow others.

The comments name the causes that are not obvious, each with its role if the roles have different causes.
"""

RELEASED: dict[tuple[JobState | None, JobState | None], set[str]] = {
    (S, Q): {WORKER},  # the worker has recorded the end of the job before it
    (S, CANCELLED): {WORKER},  # the same, and that job was cancelled
    (S, None): {PRODUCER},  # the jobs that it follows were not accepted
}

TICK = "queueport-tick"
"""The header of the jobs of schedules."""

Death = tuple[str, int, datetime | None]
"""One death of a job: the id of the job, its number of attempts, and the time of the death."""


class Checker:
    """Records what callers were promised and how each job changes. Raises AssertionError if a promise is broken."""

    def __init__(
        self, store: JobStore, rules: Rules, runtime: SimulatedRuntime, max_attempts: int, limited: Limited
    ) -> None:
        self.get, self.stats, self.documents = store.get, store.stats, store.documents
        self.rules, self.runtime, self.max_attempts = rules, runtime, max_attempts
        self.records: dict[str, Record | None] = {}
        """Every job, as it is now."""
        self.before: dict[str, Record | None] = {}
        """Every job, as it was before its latest write."""
        self.due: dict[str, float] = {}
        """The time at which each scheduled or retrying job is due."""
        self.accepted: set[str] = set()
        """Jobs whose producers got a handle."""
        self.rejected: set[str] = set()
        """Jobs whose producers were told that the job does not run."""
        self.cancelled: set[tuple[str, int]] = set()
        """Ids and lives for which cancel() has answered CANCELLED."""
        self.requested: set[tuple[str, int]] = set()
        """Ids and lives for which cancel() has answered REQUESTED."""
        self.running: dict[str, str] = {}
        """The attempts whose task's code runs: the id of the job by the token of the attempt."""
        self.holders: dict[str, str] = {}
        """The name of the process that has tried to begin each attempt, by the token of the attempt."""
        self.leases: dict[str, float] = {}
        """The time until which each token's lease certainly lasts, counted from the start of the call that set it."""
        self.may_lapse: set[str] = set()
        """Tokens whose leases may lapse: the store was unreachable or slow, or the process was killed, frozen or told
        to stop.
        """
        self.unanswered: set[str] = set()
        """Tokens of calls to begin that were not answered. The leases of these tokens may lapse, too."""
        self.lost: set[str] = set()
        """Tokens whose heartbeat was rejected while the task's code ran."""
        self.stopped: set[str] = set()
        """Tokens whose task was interrupted because its worker stops."""
        self.kept_keys: dict[tuple[str, str], float] = {}
        """The time until which an ended job keeps each key, by task and key."""
        self.begins: Counter[str] = Counter()
        self.deaths: Counter[Death] = Counter()
        self.hook_calls: Counter[Death] = Counter()
        self.processed = self.failed = 0
        self.limits = Limits(limited)
        self.follow_ups = FollowUps()
        self.ticks = Ticks()

    @property
    def now(self) -> float:
        """The simulated time in seconds."""
        return self.runtime.now

    def watch(self, actor: Actor, do: Callable[[], Any], verb: str, leases: bool) -> Any:
        """Make a call to the store. Check the changed records, the counts, and that no job runs twice at a time."""
        answer = do()
        for job_id, after in zip(self.records, self.get(list(self.records)), strict=True):
            before = self.records[job_id]
            if before != after:
                self.before[job_id], self.records[job_id] = before, after
                self._written(actor, job_id, before, after)
        if verb == "claim_due":
            self._claimed(answer, leases)
        if verb == "put_document":
            self.ticks.moved(next(iter(self.documents("schedule")), None), self.records)
        self.follow_ups.settled(self.records)
        self._counts()
        self._running_once()
        return answer

    # -- attempts and their leases --------------------------------------------------------------------

    def before_call(self, actor: Actor, verb: str, tokens: Iterable[str]) -> None:
        """Note that an actor is about to call begin or take with these tokens. Does nothing for heartbeats.

        If the call repeats an earlier call with the same token, the lease counts from the earlier call.
        """
        for token in tokens if verb != "heartbeat" else ():
            actor.token, actor.begun, self.holders[token] = token, False, actor.process
            self.unanswered.add(token)
            self.leases.setdefault(token, self.now + self.rules.lease)

    def after_call(self, actor: Actor, verb: str, tokens: Iterable[str], answer: Any, called_at: float) -> None:
        """Note the store's answer: which heartbeats were accepted and which rejected, or that a begin was answered.

        If the begin took longer than a third of a lease, the first heartbeat may be too late, so the lease may lapse.
        """
        for number, token in enumerate(tokens):
            if verb == "heartbeat" and answer[number].applied:
                self.leases[token] = max(self.leases[token], called_at + self.rules.lease)
            elif verb == "heartbeat":
                self.lost.update({token} & self.running.keys())
            else:
                actor.begun = True
                self.unanswered.discard(token)
                if self.now > self.leases[token] - self.rules.lease * 2 / 3:
                    self.may_lapse.add(token)

    def finished(self, token: str) -> None:
        """Check that a worker has recorded the end of the attempt with this token before it takes its next job.

        This is not required if the lease of the attempt may lapse.
        """
        held = [record for record in self.records.values() if record is not None and record.token == token]
        lapses = token in self.may_lapse | self.unanswered
        assert lapses or all(record.state is not R for record in held), (
            "a worker takes its next job before it has recorded the end of this one"
        )

    def cut_off(self, process: str) -> None:
        """Record that the leases that this process has now may lapse."""
        self.may_lapse.update(token for token, holder in self.holders.items() if holder == process)

    def ended(self, process: str) -> None:
        """Record that this process has ended, and that the code of its tasks no longer runs."""
        self.cut_off(process)
        self.running = {token: job for token, job in self.running.items() if self.holders[token] != process}

    def task_starts(self, token: str, job_id: str) -> None:
        """Record that a task's code starts, and check that the attempt has a valid lease and runs only once."""
        assert self.now < self.leases[token], "a task starts though its lease may have lapsed"
        assert token not in self.running, "an attempt runs twice"
        self.running[token] = job_id
        self._running_once()

    def task_goes_on(self, token: str) -> None:
        """Check that the task's code does not continue after a heartbeat with this token was rejected."""
        assert token not in self.lost, "a task goes on though a heartbeat has shown that its job is lost"

    def _running_once(self) -> None:
        """Check that no job runs twice at the same time: if the code of an attempt runs and its lease lasts, the record
        must have the token of this attempt.
        """
        for token, job_id in self.running.items():
            if self.now < self.leases[token]:
                record = self.records[job_id]
                assert record is not None, "a job is deleted while it runs"
                assert record.state is R, f"a job is {record.state} while it runs"
                assert record.token == token, "a job runs twice at the same time"

    def _claimed(self, records: Iterable[Record], leases: bool) -> None:
        """Check that a dispatcher has claimed only due records, and each for the right number of seconds.

        If `leases` is False, the dispatcher must not have claimed records of running jobs.
        """
        for record in records:
            before = self.before[record.id]
            assert before is not None, "a job without a record is claimed"
            assert before.wake_at is not None, "a job that is never due is claimed"
            assert before.wake_at <= self.now, "a job is claimed before it is due, or twice within a claim"
            assert record.wake_at == self.now + self.rules.claim, "a claim does not last as long as it should"
            assert leases or record.state is not R, "a lapsed lease is handled right after a reconnect"

    # -- what callers learn ---------------------------------------------------------------------------

    def told(self, error: BackendUnavailable | DuplicateJob, answered: bool) -> None:
        """Note which error a producer got for its job, and check that a rejected job cannot run.

        `answered` is True if the producer's last call, to the store or the broker, was answered. The error must then
        not list the job as unknown, but may list it as rejected, for example because the broker did not
        take the job's message.
        """
        assert isinstance(error, BackendUnavailable), "a producer is told that its own job is a duplicate"
        assert not (error.unknown and answered), "a producer is told that a job is unknown, but each call was answered"
        for job_id in error.rejected:
            self.rejected.add(job_id)
            self._withdrawn(self.records[job_id])

    def promise_cancelled(self, record: Record) -> None:
        """Note which answer a caller of cancel() got: CANCELLED if the record is cancelled, otherwise REQUESTED."""
        promised = self.cancelled if record.state is CANCELLED else self.requested
        promised.add((record.id, record.life))

    def on_dead(self, status: JobStatus) -> None:
        """Note that the on_dead hooks of a job were called. Check that this is the first call for this death."""
        death = (status.id, status.attempts, status.finished_at)
        self.hook_calls[death] += 1
        assert self.hook_calls[death] == 1, "the on_dead hooks are called twice for one death"

    def at_rest(self, copies: Collection[tuple[str, int]], *, faultless: bool) -> None:
        """Check, when no work is left, that each job has ended, no accepted job is lost, and each dead job is buried.

        `copies` are the ids and lives of the dead-letter copies that the broker has or has refused. If `faultless`,
        also check that each copy is that of a dead job, and that the hooks of each death were called.
        """
        for job_id, record in self.records.items():
            assert record is None or self.rests(record), f"job {job_id} never ends: {record}"
            if record is not None and not record.state.final:
                continue
            last = self.before.get(job_id) if record is None else record
            assert job_id not in self.accepted or (last is not None and last.state.final), "an accepted job is lost"
        dead = {(r.id, r.life) for r in self.records.values() if r is not None and r.state is DEAD}
        assert not self.rules.buries or dead <= set(copies), "a dead job is not in the backend's dead letters"
        if faultless:
            assert not self.rules.buries or dead == set(copies), "a job that is not dead is in the dead letters"
            assert self.hook_calls == self.deaths, "the on_dead hooks are not called for a death"

    def rests(self, record: Record) -> bool:
        """True if the job has ended, or waits for one that an operator must retry or discard."""
        return record.state.final or self.follow_ups.may_wait(record, self.records)

    # -- one write ------------------------------------------------------------------------------------

    def _written(self, actor: Actor, job_id: str, before: Record | None, after: Record | None) -> None:
        move = (None if before is None else before.state, None if after is None else after.state)
        assert move[0] is move[1] or actor.role in self._movers(job_id, move, after), (
            f"a {actor.role} moves a job {move}"
        )
        if before is not None and before.state is R and move[1] is not R:
            self._left_running(actor, before, after)
        self.limits.written(before, after, self.records, self.now)
        self.follow_ups.written(before, after, self.now, job_id in self.accepted)
        if after is None:
            self._deleted(job_id, before)
            return
        self._any_record(before, after)
        if before is not None and before.headers != after.headers:
            self._replaced(actor, before, after)
        elif before is not None and move[0] is move[1]:
            assert before.key == after.key or after.state is R, "a waiting job gives up its key"
            assert _budgets(before) == _budgets(after), "a budget is burned without a move"
            if after.interrupted and not before.interrupted:
                assert self.holders.get(before.token or "") == actor.process, (
                    "a stale worker marks an attempt interrupted"
                )
        elif after.state is Q:
            self._entered_queued(actor, before, after)
        elif after.state is R:
            self._begun(actor, before, after)
        elif after.state in (S, A):
            self.due[job_id] = after.wake_at or 0.0
        elif move != (DEAD, CANCELLED):
            self._ended(before, after)

    def _movers(self, job_id: str, move: tuple[JobState | None, JobState | None], after: Record | None) -> set[str]:
        """The roles that may make this move of this job."""
        if move[0] is None and after is not None and TICK in after.headers:
            return {DISPATCHER}
        released = RELEASED.get(move, set[str]()) if job_id in self.follow_ups.parents else set[str]()
        return MOVES.get(move, set[str]()) | released

    def _replaced(self, actor: Actor, before: Record, after: Record) -> None:
        """Check a job that has taken over the fields of another job."""
        assert actor.role is PRODUCER, "a job is replaced by another role than a producer"
        assert before.state in (S, Q, A), f"a job is replaced while it is {before.state}"
        assert after.state in (S, Q), f"a job is {after.state} after it was replaced"
        assert (before.id, before.key, before.attempts) == (after.id, after.key, after.attempts), "another job"
        assert (after.failures, after.crashes) == (0, 0), "budgets of other arguments count"
        if after.state is S:
            self.due[after.id] = after.wake_at or 0.0
        elif not (before.sent and after.sent):
            assert (after.token, after.interrupted, after.sends) == (None, False, 0), "values of another job"

    def _any_record(self, before: Record | None, after: Record) -> None:
        """Check the rules that hold for a record after every write."""
        begun_now = after.state is R and (before is None or before.state is not R)
        published = after.state is Q and after.sent
        new = before is None or before.rev != after.rev or _held_again(before, after)
        assert new, "a write without a new rev"
        assert after.failures <= self.max_attempts, "more failures than attempts allowed"
        assert after.crashes <= after.option("crash_limit", self.rules.crash_limit), "more crashes than allowed"
        assert after.attempts == self.begins[after.id] + begun_now, "an attempt is counted twice or not at all"
        due = after.wake_at is not None or after.waits_for > 0
        assert published or after.state.final or due, f"a job is never due: {after}"
        sent = published and self.rules.carries and not is_passed(after)
        assert not sent or after.wake_at is None, "a sent job is due"
        self._withdrawn(after)
        if after.key is not None and not after.state.final and (before is None or before.state.final):
            until = self.kept_keys.pop((after.task, after.key), 0.0)
            assert before is not None or self.now >= until, "a job gets a key that is still taken"

    def _withdrawn(self, record: Record | None) -> None:
        if record is not None and record.id in self.rejected:
            over = record.state.final or record.life > 1  # life > 1: an operator has retried or redriven the job
            assert over, "a job waits or runs though its producer was told that it does not"

    def _entered_queued(self, actor: Actor, before: Record | None, after: Record) -> None:
        attempt = (after.token, after.interrupted, after.cancel_requested, after.sends)
        assert attempt == (None, False, False, 0), "queued with values of the previous attempt"
        if before is None:
            if TICK in after.headers:
                self.ticks.inserted(after, self.now)
            return
        if before.state is S and after.id in self.follow_ups.parents:
            assert actor.role is PRODUCER or self.follow_ups.due(after.id), "queued before those that it follows ended"
        elif before.state in (S, A):
            assert actor.role is PRODUCER or self.now >= self.due[after.id], "queued before it is due"
        if not before.state.final:
            assert before.life == after.life, "a new life without a retry"
            return
        life = (after.failures, after.crashes, after.expires_at, after.reason, after.buried)
        assert life == (0, 0, None, None, False), "a new life with values of the previous one"
        assert after.life == before.life + 1, "retried in the same life"
        assert actor.role is not WORKER or actor.redriven == before.life, "redriven by a copy of another life"

    def _begun(self, actor: Actor, before: Record | None, after: Record) -> None:
        self.begins[after.id] += 1
        assert before is not None, "a job without a record is begun"
        assert after.token == actor.token, "begun with a token that is not its worker's"
        assert before.expires_at is None or self.now < before.expires_at, "an expired job runs"
        assert (after.id, after.life) not in self.cancelled, "a cancelled job runs"
        assert (after.id, after.life) not in self.requested, "a job runs again though its cancellation was promised"

    def _left_running(self, actor: Actor, before: Record, after: Record | None) -> None:
        assert after is not None, "a running job is deleted"
        assert actor.role is not WORKER or before.token == actor.token, "a stale worker moves a job"
        assert not before.cancel_requested or after.state is CANCELLED, "a cancel request is forgotten"
        crashes, failures = after.crashes - before.crashes, after.failures - before.failures
        assert not crashes or actor.role is DISPATCHER, "a crash is counted by another role than a dispatcher"
        assert not crashes or not before.interrupted, "a graceful stop is counted as a crash"
        assert not crashes or before.token in self.may_lapse | self.unanswered, "a healthy worker is counted as crashed"
        assert not failures or actor.role is WORKER, "a failure is counted by another role than a worker"
        assert not failures or before.token not in self.stopped, "a graceful stop is counted as a failure"
        self.failed += crashes + failures

    def _ended(self, before: Record | None, after: Record) -> None:
        self.processed += 1
        cancels = (after.id, after.life) in self.requested
        assert not cancels or after.state is CANCELLED, "a cancel request is forgotten"
        unique_for = after.options.get("unique_for")
        if after.state in (OK, DEAD) and before is not None and unique_for is not None and after.key is not None:
            until = self.kept_keys[after.task, after.key] = self.now + unique_for
            assert after.key_until == until, "a key is not kept after the end"
        assert after.reason != "not_sent" or after.id not in self.accepted, "an accepted job is withdrawn"
        assert after.reason != "expired" or self.now >= (after.expires_at or 0.0), "a job expires too early"
        if after.state is DEAD and before is not None:
            self.deaths[after.id, after.attempts, utc(after.finished_at)] += 1

    def _deleted(self, job_id: str, before: Record | None) -> None:
        assert before is not None, "a job is deleted twice"
        if not before.state.final:
            assert job_id not in self.accepted, "an accepted job is deleted before its end"
            return
        self.follow_ups.deleted(before, self.records)
        keep = self.rules.keep_dead if before.state is DEAD else self.rules.keep_succeeded or 0.0
        assert self.now >= (before.finished_at or 0.0) + keep, "a job is deleted before its retention is over"

    # -- all records ----------------------------------------------------------------------------------

    def _counts(self) -> None:
        present = [record for record in self.records.values() if record is not None]
        stats = self.stats()
        assert (stats.processed, stats.failed) == (self.processed, self.failed), "the counters are wrong"
        counted: Counter[JobState] = Counter()
        for queue in stats.queues.values():
            counted.update(queue.states)
        assert +counted == Counter(record.state for record in present), "the counts are wrong"
        keys = [(record.task, record.key) for record in present if record.key is not None and not record.state.final]
        assert len(keys) == len(set(keys)), "two jobs that are alive hold one key"


def _budgets(record: Record) -> tuple[int, ...]:
    return record.life, record.attempts, record.failures, record.crashes


def _held_again(before: Record, after: Record) -> bool:
    """True if a worker has repeated a call to begin that was not answered, and its limit still holds the job."""
    return is_held(before) and replace(before, wake_at=after.wake_at) == after

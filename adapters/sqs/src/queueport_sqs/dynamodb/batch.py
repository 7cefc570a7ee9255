"""Runs one call of a verb that writes, such as `swap`, step by step. Each step sees the effects of the steps before it.

For readers of the DynamoDB store. The steps are applied in memory to the records as they were last read or written. The
results are written on the condition that each record is unchanged. If the condition of a job fails, DynamoDB returns
the job's present item, and the steps of this job are applied again to that item. If a step needs a key that another job
of the batch takes or releases, or that a changed job of the batch holds, the step waits until that other job is
written. The results are thus those of steps that are applied one after the other, in their order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from queueport.spi.history import Counted, events, nothing
from queueport.spi.record import Record
from queueport.spi.storage import Transition, Verb, begin, unreadable_holder
from queueport.spi.store import Begin, LimitState, WriteOutcome, WriteResult
from queueport_sqs.dynamodb.commit import Action, Failed, Write
from queueport_sqs.dynamodb.limits import actions as limit_actions
from queueport_sqs.dynamodb.limits import limits_of, state_in
from queueport_sqs.dynamodb.reading import Known, Reading
from queueport_sqs.dynamodb.records import Item, attributes, fitted, label_item, labels, size, value
from queueport_sqs.dynamodb.stats import Delta, moved

__all__ = ["Batch", "BesideFailed", "Step"]


@dataclass(frozen=True, slots=True)
class Step:
    """The part of a call that changes one job, such as one swap of a call with many swaps."""

    id: str
    decide: Verb
    known: Record | None = None
    """The record as this process has last written or just read it, if it meets the verb's condition. The job is then
    not read first."""
    seq: str | None = None
    """For an insert: the new record's place in the order of insertion. An insert does not read the job first."""
    begin: Begin | None = None
    """For a begin with limits: its item. `decide` is then not called."""


@dataclass(slots=True)
class Work:
    """One job in one round of the batch: its record before and after the steps that were applied, and their results by
    the numbers of the steps.
    """

    old: Record | None
    new: Record | None
    counts: Delta = field(default_factory=Delta)
    counted: Counted = field(default_factory=nothing)
    """The numbers to add to the history."""
    limits: dict[int, str] = field(default_factory=dict)
    """The names of limits, by the numbers of the actions of the write that concern them; "" for other such actions."""
    seq: str = ""
    results: dict[int, WriteResult] = field(default_factory=dict)
    dirty: bool = False
    """True if the steps have changed the record."""
    read: dict[str, LimitState] = field(default_factory=dict)
    """The states of limits with which the steps were decided, by name."""
    full_at: dict[str, float] = field(default_factory=dict)
    keeps: float | None = None
    """The time until which the job keeps its key, if the steps end the job and say so."""

    def apply(self, number: int, made: Transition, new: Record | None, now: float) -> None:
        """Apply a step, after which the record is `new`."""
        self._count(made, now)
        self.counts.update(moved(self.new, new, made.change.processed, made.change.failed))
        self.new, self.dirty, self.keeps = new, True, _keeps(made, new)
        self.full_at |= made.full_at
        self.results[number] = WriteResult(WriteOutcome.LIMITED if made.limited else WriteOutcome.APPLIED, new)

    def _count(self, made: Transition, now: float) -> None:
        """Count a change of `new` for the history."""
        where, name = made.new or self.new, events(self.new, made.new, made.change, now)
        if where is not None and name:
            self.counted[where.queue, where.task][name] += 1


class BesideFailed(Exception):
    """The condition of an action in `beside` failed, so nothing was written. `item` is the present item, and `number`
    is the place of the action in `beside`.
    """

    def __init__(self, item: Item | None, number: int = 0) -> None:
        super().__init__()
        self.item = item
        self.number = number


class Batch:
    """Runs all steps of one call of the store. Puts small records that it writes into `known`, this process's cache.

    `beside` are actions that must be part of the transaction which writes the job. The batch then has only one step.
    `released` is a running job that gives up its key in this transaction: its record before that, and after.
    """

    def __init__(
        self,
        reading: Reading,
        known: Known,
        beside: Sequence[Action] = (),
        released: tuple[Record, Record] | None = None,
    ) -> None:
        self._beside = beside
        self._reading, self._names, self._commit = reading, reading.names, reading.commit
        self._known = known
        self._deadline = reading.table.deadline()
        self.written: set[str] = set()
        """The ids of the jobs that were written, or may have been because DynamoDB did not answer."""
        self._records: dict[str, Record | None] = {}
        self._unread: set[str] = set()
        """The ids of inserts that were not read. Until DynamoDB answers otherwise, they are assumed to be unused."""
        self._holders: dict[str, str | None] = {}
        """For each key whose holder is known: the id of the job that holds or keeps it, or None if no job does."""
        self._limits: dict[str, LimitState] = {}
        """The states of limits that were read, by name, and have probably not changed since."""
        self._kept: dict[str, float] = {}
        """For each of these keys that an ended job keeps: the time until which the job keeps the key."""
        if released is not None:
            held, free = released
            self._beside = [*beside, self._commit.update(held, free), *self._commit.relabel(held, free)]
            self._records[free.id] = free
            if (key := self._names.key(held)) is not None:
                self._holders[key] = held.id  # the key's item still names this job, so it may be overwritten

    def run(self, steps: Sequence[Step]) -> list[WriteResult]:
        """Run all steps and return their results in order.

        Raises BackendUnavailable if DynamoDB does not answer or refuses a call, or if the steps conflict with other
        writes for too long, and BesideFailed.
        """
        self._load(steps)
        results: dict[int, WriteResult] = {}
        waiting: Sequence[int] = range(len(steps))
        while waiting:
            works = self._apply(steps, waiting)
            done = self._write({job_id: work for job_id, work in works.items() if work.dirty})
            for job_id, work in works.items():
                if not work.dirty or job_id in done:
                    results |= work.results
            left = [number for number in waiting if number not in results]
            if len(left) == len(waiting):
                self._deadline.again(None)
            waiting = left
            # This round may have found holders of keys, so the next round may answer an insert with KEY_HELD. But if
            # a job with the insert's id exists, the answer must be REFUSED. So read the jobs that were not read yet.
            self._read(self._unread.intersection(steps[number].id for number in waiting))
        return [results[number] for number in range(len(steps))]

    def _load(self, steps: Sequence[Step]) -> None:
        unknown: set[str] = set()
        for step in steps:
            if step.id not in self._records:
                known = self._records[step.id] = self._reading.known(step.known)
                if known is None:
                    (unknown if step.seq is None else self._unread).add(step.id)
        self._read(unknown)

    def _read(self, ids: Collection[str]) -> None:
        found = self._reading.found(ids) if ids else {}
        self._records |= {job_id: found[job_id].record if job_id in found else None for job_id in ids}
        self._unread.difference_update(ids)

    def _apply(self, steps: Sequence[Step], waiting: Collection[int]) -> Mapping[str, Work]:
        """Apply the waiting steps in memory, and return the work of each job.

        A step waits for the next round if an earlier step on which it depends is not written yet: a step of another job
        with the same key, or a step of the same job that takes a key or waits itself. If an insert has the id of an
        earlier step that is not written yet, the insert and all later steps wait. A begin waits for an earlier step
        that changes the state of one of its limits.
        """
        works: dict[str, Work] = {}
        taken: dict[str, str] = {}
        stopped: set[str] = set()
        limited: set[str] = set()
        for number in waiting:
            step = steps[number]
            if step.seq is not None and (step.id in works or step.id in stopped):
                break  # this and all later steps wait, because the earlier insert of the same id may fail
            record = works[step.id].new if step.id in works else self._records[step.id]
            if step.id in stopped or _limits(step, record) & limited:
                stopped.add(step.id)
                continue
            if step.id in self._reading.closed:
                works.setdefault(step.id, Work(None, None)).results[number] = WriteResult(WriteOutcome.REFUSED, None)
                continue
            work = works.setdefault(step.id, Work(record, record))
            made = self._decide(step, work)
            if made is None:
                work.results[number] = WriteResult(WriteOutcome.REFUSED, work.new)
                continue
            limited |= _limits(step, record).union(name for name, _ in limits_of(record) | limits_of(made.new))
            new = None if made.new is None else fitted(made.new)
            had, wants = self._keys(work.new, new)
            key, moves = wants or had, had != wants
            added = work.new is None
            held = self._held(wants, new, added) if moves and wants is not None and new is not None else None
            if key is not None and (taken.get(key, step.id) != step.id or _changed(works, held)):
                stopped.add(step.id)
                taken[key] = step.id  # later steps that need the key must wait for this step
                continue
            if held is not None:
                work.results[number] = held
                continue
            if key is not None and moves:
                taken[key] = step.id
                if wants is not None:
                    stopped.add(step.id)  # DynamoDB may refuse the key, so the job's later steps wait
            work.apply(number, made, new, self._reading.now)
            work.seq = step.seq or work.seq
        return works

    def _decide(self, step: Step, work: Work) -> Transition | None:
        if step.begin is None:
            return step.decide(self._reading.now, work.new)

        def state_of(name: str) -> LimitState:
            if name not in self._limits:
                key = self._names.limit(name)
                self._limits[name] = state_in(self._reading.table.get([key]).get(key))
            work.read[name] = self._limits[name]
            return self._limits[name]

        return begin(step.begin, self._reading.now, work.new, state_of)

    def _held(self, key: str, wanting: Record, added: bool) -> WriteResult | None:
        """Return the result KEY_HELD if the batch knows that another job holds the key; else None.

        A job that a newer queueport wrote counts as the holder if the key's item names the job. If `wanting` is to be
        added, a job that has ended and keeps the key counts, too.
        """
        holder = self._holders.get(key)
        kept = key in self._kept
        if holder is None or (kept and not (added and self._kept[key] > self._reading.now)):
            return None
        if holder == wanting.id and not kept:
            return None
        if holder not in self._records or (kept and holder in self._unread):
            self._read([holder])
        record = self._records[holder]
        if kept:
            return WriteResult(WriteOutcome.KEY_HELD, record or unreadable_holder(holder))
        if holder in self._reading.closed:  # a newer queueport wrote this job: only the job's id is known
            return WriteResult(WriteOutcome.KEY_HELD, unreadable_holder(holder))
        holds = record is not None and self._names.key(record) == key
        return WriteResult(WriteOutcome.KEY_HELD, record) if holds else None

    def _write(self, works: Mapping[str, Work]) -> set[str]:
        """Write these jobs, and return the ids of the jobs that were written.

        If DynamoDB refuses to write a job, remember the job's item, or the key's holder, that DynamoDB returned. Raises
        BackendUnavailable, and BesideFailed.
        """
        unsent: set[str] = set()
        self.written.update(works)
        writes = [self._composed(job_id, work) for job_id, work in works.items()]
        try:
            whole = [replace(one, actions=[*one.actions, *self._beside]) for one in writes]
            answers = self._commit(whole, unsent, self._reading.now)
        finally:
            self.written -= unsent
        for write in writes if self._beside else ():
            answer = answers[write.id]
            own = len(write.actions)
            for number, item in answer.found.items() if isinstance(answer, Failed) else ():
                if number >= own:
                    raise BesideFailed(item, number - own)
        self.written.difference_update(job_id for job_id in works if isinstance(answers[job_id], Failed))
        return {job_id for job_id, work in works.items() if self._settled(job_id, work, answers[job_id])}

    def _composed(self, job_id: str, work: Work) -> Write:
        old, new = work.old, work.new
        if new is None:
            actions = [] if old is None else [self._commit.delete(self._names.job(job_id), "rev", value(old.rev))]
        else:
            actions = [self._commit.put(new, work.seq) if old is None else self._commit.update(old, new)]
        if old is None and new is not None:
            items = [label_item(self._names, job_id, label, work.seq) for label in labels(new)]
            actions += [self._commit.action("Put", Item=item) for item in items]
        if old is not None:
            actions += self._commit.relabel(old, new)
        had, wants = self._keys(work.old, work.new)
        if had is not None and had != wants and self._holders.get(had, job_id) == job_id:
            ends = self._commit.delete(had, "holder", value(job_id))
            actions.append(ends if work.keeps is None else self._commit.keep(had, job_id, work.keeps))
        if wants is not None and had != wants:
            ended = self._reading.now if old is None else None
            actions.append(self._commit.hold(wants, job_id, self._holders.get(wants) or job_id, ended))
        limits = limit_actions(self._commit, old, new, work.read, work.full_at)
        work.limits = dict(enumerate((name for name, _ in limits), len(actions)))
        actions += [action for _, action in limits]
        room = 0 if new is None else size(attributes(self._names, new))
        return Write(job_id, actions, work.counts, work.counted, bool(limits), room)

    def _forget(self, work: Work) -> None:
        """Forget the states of the limits that a write has changed, or that have changed before it."""
        for name in work.limits.values():
            self._limits.pop(name, None)

    def _settled(self, job_id: str, work: Work, answer: Item | Failed | None) -> bool:
        if isinstance(answer, Failed):
            self._learn(job_id, work, answer)
            return False
        self._records[job_id] = work.new
        self._forget(work)
        if answer is not None and self._reading.job_in(job_id, answer) is None:
            self._records[job_id] = None  # the item was damaged after it was read
            return False
        had, wants = self._keys(work.old, work.new)
        if had is not None:
            self._holds(had, None if work.keeps is None else job_id, work.keeps)
        if wants is not None:
            self._holds(wants, job_id)
        if work.new is not None:
            self._known.remember(work.new)
        return True

    def _learn(self, job_id: str, work: Work, failed: Failed) -> None:
        self._forget(work)
        self._unread.discard(job_id)
        if 0 in failed.found:
            found = self._reading.job_in(job_id, failed.found[0])
            self._records[job_id] = None if found is None else found.record
        had, wants = self._keys(work.old, work.new)
        for number, item in failed.found.items():
            key = wants or had
            if number in work.limits:
                continue
            if number > 0 and key is not None:
                until = (item or {}).get("until")
                holder = None if item is None else item["holder"]["S"]
                self._holds(key, holder, None if until is None else float(until["N"]))

    def _holds(self, key: str, holder: str | None, until: float | None = None) -> None:
        """Note which job holds a key, or keeps it until a time."""
        self._holders[key] = holder
        self._kept.pop(key, None)
        if until is not None:
            self._kept[key] = until

    def _keys(self, old: Record | None, new: Record | None) -> tuple[str | None, str | None]:
        """The names of the key items that the job holds before and after a change; None where it holds no key."""
        had, wants = (None if record is None else self._names.key(record) for record in (old, new))
        return had, wants


def _limits(step: Step, record: Record | None) -> set[str]:
    """The names of the limits that a begin must read."""
    if step.begin is None or record is None:
        return set()
    return {limit.name_for(record.limit_key) for limit in step.begin.limits}


def _keeps(made: Transition, new: Record | None) -> float | None:
    """The time until which a job keeps its key after this change; None if the change does not say so."""
    if new is None or not new.state.final or new.key is None:
        return None
    return new.key_until if "key_until" in made.change.stamp or "key_until" in made.change.set else None


def _changed(works: Mapping[str, Work], held: WriteResult | None) -> bool:
    """Whether an earlier step has changed the job that holds the key. The change is not written yet."""
    return held is not None and held.record is not None and held.record.id in works and works[held.record.id].dirty

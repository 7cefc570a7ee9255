"""One call of a verb that writes: its steps, in order, each seeing those before it. For readers of the DynamoDB store.

The steps are played on what is known of the records, and what comes of it is written on the condition that this was so;
a condition that fails says how it is, and the steps of that job are played again. A job that needs a key which another
job of the batch is about to take or to leave waits until that is written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from queueport.record import Change, Record
from queueport.status import JobState
from queueport.store import Outcome, Written
from queueport_sqs.dynamodb_commit import Commit, Failed, Write
from queueport_sqs.dynamodb_counts import Delta, moved, summed
from queueport_sqs.dynamodb_items import Item, Names, fitted
from queueport_sqs.dynamodb_reading import Known, Reading
from queueport_sqs.dynamodb_table import Deadline

__all__ = ["Batch", "Move", "Step"]

OVERHEAD = 2048
"""Bytes of a write beside payload, result and errors, about."""


@dataclass(frozen=True, slots=True)
class Move:
    """What a record is to become; None: it goes. `change` has what is counted."""

    new: Record | None
    change: Change


@dataclass(frozen=True, slots=True)
class Step:
    """One item of a verb's call. `decide` answers None where the verb's condition does not hold."""

    id: str
    decide: Callable[[Record | None], Move | None]
    seq: str | None = None
    """For an insert: the place of the new record; nothing is read before it."""
    expected: str | None = None
    """The rev that it needs, if it does."""


@dataclass(slots=True)
class Work:
    """What the steps of one job have made of it so far."""

    old: Record | None
    new: Record | None
    counts: Delta = field(default_factory=dict)
    seq: str = ""
    answers: dict[int, Written] = field(default_factory=dict)
    dirty: bool = False


class Batch:
    """The state of one call."""

    def __init__(self, names: Names, commit: Commit, reading: Reading, known: Known, deadline: Deadline) -> None:
        self._names = names
        self._commit = commit
        self._reading = reading
        self._known = known
        self._deadline = deadline
        self._records: dict[str, Record | None] = {}
        self._holders: dict[str, str | None] = {}
        """Who holds a key, as far as that is known."""

    def run(self, steps: Sequence[Step]) -> list[Written]:
        """The answers, in the order of the steps."""
        self._load(steps)
        answers: dict[int, Written] = {}
        waiting: Sequence[int] = range(len(steps))
        while waiting:
            works = self._play(steps, waiting)
            done = self._write({job_id: work for job_id, work in works.items() if work.dirty})
            for job_id, work in works.items():
                if not work.dirty or job_id in done:
                    answers |= work.answers
            left = [number for number in waiting if number not in answers]
            if len(left) == len(waiting):
                self._deadline.again(None)
            waiting = left
        return [answers[number] for number in range(len(steps))]

    def _load(self, steps: Sequence[Step]) -> None:
        unknown: set[str] = set()
        for step in steps:
            if step.id not in self._records:
                known = self._reading.known(self._known.get(step.id, step.expected))
                self._records[step.id] = known
                if known is None and step.seq is None:
                    unknown.add(step.id)
        self._read(unknown)

    def _read(self, ids: Collection[str]) -> None:
        found = self._reading.found(ids) if ids else {}
        self._records.update({job_id: found[job_id].record if job_id in found else None for job_id in ids})

    def _play(self, steps: Sequence[Step], waiting: Collection[int]) -> Mapping[str, Work]:
        """Play the waiting steps, in memory, as far as they do not depend on what is not yet written."""
        works: dict[str, Work] = {}
        taken: dict[str, str] = {}
        stopped: set[str] = set()
        for number in waiting:
            step = steps[number]
            if step.id in stopped:
                continue
            record = self._records[step.id]
            if step.id in self._reading.closed:
                works.setdefault(step.id, Work(None, None)).answers[number] = Written(Outcome.REFUSED, None)
                continue
            work = works.setdefault(step.id, Work(record, record))
            move = step.decide(work.new)
            if move is None:
                work.answers[number] = Written(Outcome.REFUSED, work.new)
                continue
            new = None if move.new is None else fitted(move.new)
            had, wants = (None if r is None else self._names.key(r) for r in (work.new, new))
            key = None if had == wants else (wants or had)
            if key is not None and taken.get(key, step.id) != step.id:
                stopped.add(step.id)
                continue
            held = None if new is None or key is None or key != wants else self._held(key, new)
            if held is not None:
                work.answers[number] = held
                continue
            if key is not None:
                taken[key] = step.id
            counts = moved(work.new, new, move.change.processed, move.change.failed)
            work.counts, work.new, work.dirty = summed([work.counts, counts]), new, True
            work.seq = step.seq or work.seq
            work.answers[number] = Written(Outcome.APPLIED, new)
        return works

    def _held(self, key: str, wanting: Record) -> Written | None:
        """The answer where another living job holds the key, as far as that is known."""
        holder = self._holders.get(key)
        if holder is None or holder == wanting.id:
            return None
        if holder not in self._records:
            self._read([holder])
        record = self._records[holder]
        if holder in self._reading.closed:  # nothing else is known of it
            record = replace(wanting, id=holder, state=JobState.RUNNING, payload=b"", rev="")
        rightly = record is not None and self._names.key(record) == key
        return Written(Outcome.KEY_HELD, record) if rightly else None

    def _write(self, works: Mapping[str, Work]) -> set[str]:
        """Write what was played; the ids of those that are done. What failed is known better afterwards."""
        answers = self._commit([self._composed(job_id, work) for job_id, work in works.items()])
        return {job_id for job_id, work in works.items() if self._settled(job_id, work, answers[job_id])}

    def _composed(self, job_id: str, work: Work) -> Write:
        old, new = work.old, work.new
        if new is None:
            actions = [] if old is None else [self._commit.delete(old)]
        else:
            actions = [self._commit.put(new, work.seq) if old is None else self._commit.update(old, new)]
        had, wants = self._keys(work)
        if had is not None and had != wants and self._holders.get(had, job_id) == job_id:
            actions.append(self._commit.release(had, job_id))
        if wants is not None and had != wants:
            actions.append(self._commit.hold(wants, job_id, self._holders.get(wants) or job_id))
        return Write(job_id, actions, work.counts, OVERHEAD + _bytes(new))

    def _settled(self, job_id: str, work: Work, answer: Item | Failed | None) -> bool:
        if isinstance(answer, Failed):
            self._learn(job_id, work, answer)
            return False
        self._records[job_id] = work.new
        if answer is not None and self._reading.meet(job_id, answer) is None:
            self._records[job_id] = None  # it was damaged, which is only seen now
            return False
        had, wants = self._keys(work)
        if had is not None:
            self._holders[had] = None
        if wants is not None:
            self._holders[wants] = job_id
        if work.new is not None:
            self._known.remember(work.new)
        return True

    def _learn(self, job_id: str, work: Work, failed: Failed) -> None:
        if 0 in failed.found:
            found = self._reading.meet(job_id, failed.found[0])
            self._records[job_id] = None if found is None else found.record
        had, wants = self._keys(work)
        for number, item in failed.found.items():
            key = wants or had
            if number > 0 and key is not None:
                self._holders[key] = None if item is None else item["holder"]["S"]

    def _keys(self, work: Work) -> tuple[str | None, str | None]:
        """The keys held before and after."""
        had, wants = (None if record is None else self._names.key(record) for record in (work.old, work.new))
        return had, wants


def _bytes(record: Record | None) -> int:
    if record is None:
        return 0
    return (
        len(record.payload) + len(record.result or b"") + sum(len(e.traceback) + len(e.message) for e in record.errors)
    )

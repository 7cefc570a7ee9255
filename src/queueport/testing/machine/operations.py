"""What producers do, call by call, and what follows a swap: the steps of `queueport.operations`, for the machine.

Each procedure is a generator that stops before every call, so that the machine can crash it, lose the call or its
answer, or let time pass and others go first.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from queueport import lifecycle
from queueport.driver import SendOutcome
from queueport.lifecycle import Refusal, Rules
from queueport.message import Message
from queueport.record import Change, Record, Then
from queueport.status import WAITING, JobError, JobState
from queueport.store import Insert, JobStore, Query, Swap, Written
from queueport.store import Outcome as Write
from queueport.testing.machine.ledger import Ledger
from queueport.testing.machine.world import Actor, Broker, Call, Clock, Names, NoAnswer, Steps, T

QUEUE = "default"

Decide = Callable[[Record | None], Change | Refusal]


@dataclass(frozen=True, slots=True)
class Settled:
    """The end of a swap: what was decided, and the record before and after it."""

    before: Record | None
    after: Record | None
    decided: Change | Refusal | None


@dataclass(slots=True)
class Operations:
    """The verbs of several steps over one store and one broker."""

    store: JobStore
    broker: Broker
    rules: Rules
    clock: Clock
    new: Names
    ledger: Ledger

    # -- calls --------------------------------------------------------------------------------------------------------

    def ask(self, actor: Actor, do: Callable[[], T]) -> Steps[T]:
        """One call to the store. Raises NoAnswer."""
        answer: T = yield Call(lambda: self.ledger.watch(actor, do))
        return answer

    def insist(self, actor: Actor, do: Callable[[], T]) -> Steps[T]:
        """No answer is not a refusal: the same call again, with the same revs and tokens."""
        while True:
            try:
                answer = yield from self.ask(actor, do)
            except NoAnswer:
                self.ledger.unanswered.add(actor.token)
                continue
            self.ledger.unanswered.discard(actor.token)
            return answer

    def get(self, actor: Actor, job_id: str) -> Steps[Record | None]:
        """The record as it is now."""
        return (yield from self.insist(actor, lambda: self.store.get([job_id])[0]))

    def swap(self, actor: Actor, record: Record, change: Change) -> Steps[tuple[bool, Written]]:
        """Swap on the rev that was read; whether it is applied, by this call or by one whose answer was lost."""
        swap = Swap(record.id, record.rev, change, self.new("rev"))
        written = yield from self.insist(actor, lambda: self.store.swap([swap])[0])
        found = written.record
        mine = found is None if change.delete else found is not None and found.rev == swap.rev
        return written.applied or mine, written

    def decide(self, actor: Actor, job_id: str, decide: Decide, record: Record | None = None) -> Steps[Settled]:
        """Ask the lifecycle, swap; a refused swap means: ask it again."""
        if record is None:
            record = yield from self.get(actor, job_id)
        while True:
            change = decide(record)
            if isinstance(change, Refusal):
                return Settled(record, record, change)
            assert record is not None, "the lifecycle changed a job that is not there"
            applied, written = yield from self.swap(actor, record, change)
            if applied:
                return Settled(record, written.record, change)
            if written.outcome is Write.KEY_HELD:
                return Settled(record, record, None)
            record = written.record

    def settle(self, actor: Actor, job_id: str, decide: Decide, record: Record | None = None) -> Steps[Settled]:
        """`decide`, and what follows from it."""
        settled = yield from self.decide(actor, job_id, decide, record)
        yield from self.follow(actor, settled)
        return settled

    # -- publish, mark, bury, unbury ----------------------------------------------------------------------------------

    def follow(self, actor: Actor, *all_settled: Settled) -> Steps[None]:
        """Do what applied swaps ask for; where nobody answers, the dispatcher comes by later."""
        done = [(s.before, s.after, s.decided.then) for s in all_settled if isinstance(s.decided, Change)]
        with suppress(NoAnswer):
            for _, after, then in done:
                if Then.PUBLISH in then and after is not None:
                    yield from self.publish(actor, after)
            for _, after, then in done:
                if Then.BURY in then and after is not None:
                    yield from self.bury(actor, after.id)
            for before, _, then in done:
                if Then.UNBURY in then and before is not None:
                    yield from self.unbury(before.id, before.life)
        for _, after, then in done:
            if Then.TELL_DEATH in then and after is not None:
                self.ledger.tell_death(after)

    def send(self, record: Record) -> Steps[SendOutcome]:
        """Hand its message to the broker."""
        message = Message.of(record, self.clock.now if record.wake_at is None else record.wake_at - self.rules.claim)
        try:
            outcome: SendOutcome = yield Call(lambda: self.broker.publish(message), SendOutcome.FAILED)
        except NoAnswer:
            return SendOutcome.UNKNOWN
        return outcome

    def publish(self, actor: Actor, record: Record) -> Steps[None]:
        """Publish what I have the claim on, and mark it; a refused mark is ignored."""
        sent = yield from self.send(record)
        if sent is not SendOutcome.FAILED:
            known = sent is SendOutcome.SENT
            change = lifecycle.mark(record) if known else lifecycle.send_unknown(self.rules, record)
            mark = Swap(record.id, record.rev, change, self.new("rev"))
            yield from self.ask(actor, lambda: self.store.swap([mark]))

    def bury(self, actor: Actor, job_id: str) -> Steps[None]:
        """A copy into the dead letters, and out again where the job is not dead in that life any more."""
        record = yield from self.get(actor, job_id)
        if record is None or record.state is not JobState.DEAD or record.buried:
            return
        copy = Message.of(record, self.clock.now, buried=True)
        yield Call(lambda: self.broker.bury(copy))
        applied, written = yield from self.swap(actor, record, lifecycle.buried(self.rules, record))
        now = written.record
        if not applied and (now is None or now.state is not JobState.DEAD or now.life != copy.life):
            yield from self.unbury(copy.id, copy.life)

    def unbury(self, job_id: str, life: int) -> Steps[None]:
        """The copies of that life out of the dead letters."""
        yield Call(lambda: self.broker.unbury(job_id, life))

    # -- producers ----------------------------------------------------------------------------------------------------

    def enqueue(self, actor: Actor, record: Record, change: Change) -> Steps[None]:
        """Insert, publish, mark. The ledger hears what the caller was told."""
        inserted = yield from self.insert(actor, record, change)
        if inserted is None:
            return
        sent = SendOutcome.SENT
        if Then.PUBLISH in change.then:
            sent = yield from self.send(inserted)
        if sent is not SendOutcome.SENT:
            gone = lifecycle.withdraw(self.rules, certain=sent is SendOutcome.FAILED)
            withdrawn, _ = yield from self.swap(actor, inserted, gone)
            if withdrawn:
                self.ledger.rejected.add(record.id)
                return
        elif Then.PUBLISH in change.then:
            mark = Swap(inserted.id, inserted.rev, lifecycle.mark(inserted), self.new("rev"))
            with suppress(NoAnswer):
                yield from self.ask(actor, lambda: self.store.swap([mark]))
        self.ledger.accepted.add(record.id)

    def insert(self, actor: Actor, record: Record, change: Change) -> Steps[Record | None]:
        """The record as I inserted it; None where the caller was given a handle without more ado."""
        insert = Insert(record, change, self.new("rev"))
        while True:
            written = yield from self.insist(actor, lambda: self.store.insert([insert])[0])
            found = written.record
            assert found is not None, "an insert answers with what is there"
            if written.applied or found.rev == insert.rev:
                return found
            free = written.outcome is Write.REFUSED or found.sent or found.state is not JobState.QUEUED
            if not free:  # a holder that its producer could still withdraw
                free, _ = yield from self.swap(actor, found, Change({"sends": found.sends}))
            if free:
                self.ledger.accepted.add(found.id)
                return None

    def add_dead(self, actor: Actor, record: Record, error: JobError) -> Steps[None]:
        """Put a job straight into the dead letters."""
        change = lifecycle.new_dead(self.rules, error)
        inserted = yield from self.insert(actor, record, change)
        yield from self.follow(actor, Settled(None, inserted, change))

    def cancel(self, actor: Actor, job_id: str) -> Steps[None]:
        """Cancel; what the caller is told is a promise."""
        settled = yield from self.settle(actor, job_id, partial(lifecycle.cancel, self.rules))
        if settled.after is None or settled.decided is Refusal.FINAL:
            return
        promised = self.ledger.cancelled if settled.after.state is JobState.CANCELLED else self.ledger.requested
        promised.add((job_id, settled.after.life))

    def retry(self, actor: Actor, job_id: str) -> Steps[None]:
        """Run it again, or now."""
        yield from self.settle(actor, job_id, partial(lifecycle.retry, self.rules))

    def discard(self, actor: Actor, job_id: str) -> Steps[None]:
        """Out of the dead letters."""
        yield from self.settle(actor, job_id, partial(lifecycle.discard, self.rules))

    def purge(self, actor: Actor) -> Steps[None]:
        """Empty the broker's queue first, then cancel what waits."""
        yield Call(self.broker.purge)
        for state in sorted(WAITING):
            found = yield from self.ask(actor, partial(self.store.find, Query(state=state, queue=QUEUE)))
            for record in found:
                yield from self.settle(actor, record.id, partial(lifecycle.purge, self.rules), record)

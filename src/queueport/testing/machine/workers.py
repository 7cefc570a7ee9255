"""What workers, their hearts and their dispatchers do, call by call: the steps of runner, heartbeat and dispatcher."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from queueport import lifecycle
from queueport.lifecycle import Outcome, Refusal
from queueport.message import Message
from queueport.record import Change, Record
from queueport.status import JobState
from queueport.store import Beat, Begin, ClaimingStore, Swap
from queueport.testing.machine.operations import QUEUE, Operations, Settled
from queueport.testing.machine.world import Actor, Attempt, Call, NoAnswer, Process, Steps

BATCH = 100


@dataclass(slots=True)
class Procedures(Operations):
    """All procedures. `early`: workers acknowledge once begin has answered; `end`: how an attempt's task ends."""

    early: bool
    end: Callable[[Record, str], Outcome]

    # -- dispatcher ---------------------------------------------------------------------------------------------------

    def dispatch(self, process: Process, known: Callable[[Record], bool]) -> Steps[None]:
        """One round: own heartbeats, then all that is due, then lost messages. Without an answer: the next round."""
        actor = process.dispatcher
        if process.attempts:
            yield from self.beat(process, actor)
        leases, called_at = self.clock.now >= process.leases_from, self.clock.now
        rev = self.new("rev")
        claim = partial(self.store.claim_due, BATCH, self.rules.claim, rev, leases=leases)
        claimed, now = yield from self.ask(actor, lambda: (claim(), self.clock.now))
        self.ledger.claimed(claimed, leases=leases)
        slow = now - called_at > self.rules.lease / 3  # then the holders' heartbeats may have had to wait too
        due = [
            (record, lifecycle.spare(self.rules))
            if slow and record.state is JobState.RUNNING
            else (record, lifecycle.dispatch(self.rules, record, now=now, known=known))
            for record in claimed
        ]
        yield from self.apply(actor, due)
        if self.rules.carries:
            empty = yield Call(lambda: not self.broker.queue)
            frontier = self.clock.now if empty else process.received
            sent_before = frontier - self.rules.lost_after
            found = yield from self.ask(actor, lambda: self.store.unreceived(QUEUE, 0, sent_before, BATCH))
            lost = [(record, lifecycle.lost(self.rules, record, frontier=frontier)) for record in found]
            yield from self.apply(actor, lost)

    def apply(self, actor: Actor, decided: Sequence[tuple[Record, Change | Refusal]]) -> Steps[None]:
        """Swap many at once; what was refused is somebody else's."""
        changes = [(record, change) for record, change in decided if isinstance(change, Change)]
        writing = [(record, change) for record, change in changes if change.writes]
        done = [Settled(record, record, change) for record, change in changes if not change.writes]
        if writing:
            swaps = [Swap(record.id, record.rev, change, self.new("rev")) for record, change in writing]
            answers = yield from self.ask(actor, lambda: self.store.swap(swaps))
            for (record, change), answer in zip(writing, answers, strict=True):
                if answer.applied:
                    done.append(Settled(record, answer.record, change))
        yield from self.follow(actor, *done)

    # -- worker -------------------------------------------------------------------------------------------------------

    def work(self, process: Process) -> Steps[None]:
        """One message, from its delivery to its acknowledgement."""
        message: Message | None = yield Call(lambda: self.broker.receive(process.name))
        if message is None:
            return
        actor = process.worker
        process.received = max(process.received, message.sent_at)
        acknowledge = Call(lambda: self.broker.acknowledge(process.name, message), sure=True)  # else: redelivered
        if message.buried:
            actor.redriven = message.life
            redrive = partial(lifecycle.redrive, self.rules, life=message.life)
            settled = yield from self.settle(actor, message.id, redrive)
            if settled.decided is None:  # its key is held: it stays dead
                again = partial(lifecycle.bury_again, self.rules, life=message.life)
                yield from self.settle(actor, message.id, again)
        elif message.task not in process.tasks:
            yield from self.settle(actor, message.id, partial(lifecycle.unknown, self.rules))
        else:
            begun = yield from self.begin(process, message)
            if begun is not None:
                if self.early:
                    yield acknowledge
                yield from self.run(process, *begun)
        yield acknowledge

    def begin(self, process: Process, message: Message) -> Steps[tuple[Attempt, Record] | None]:
        """Begin it; None where it is not mine to run."""
        actor, attempt = process.worker, self.attempt(process)
        change = lifecycle.begin(self.rules, token=attempt.token, worker=process.name, defaults={})
        begin = Begin(message.id, change, self.new("rev"))
        written = yield from self.insist(actor, lambda: self.store.begin([begin])[0])
        record = written.record

        def begun(found: Record | None) -> Change | Refusal:
            return lifecycle.begun(self.rules, found, token=attempt.token, now=self.clock.now)

        if not written.applied:
            verdict = begun(record)
            if isinstance(verdict, Change):
                yield from self.settle(actor, message.id, begun, record)
            if verdict is not Refusal.NOTHING:
                return None
        assert record is not None, "a begun job has a record"
        self.hold(process, attempt, record)
        return attempt, record

    def take(self, process: Process, known: Collection[str]) -> Steps[None]:
        """Where the store is the queue: begin the next job there, else note those that no worker knows."""
        assert isinstance(self.store, ClaimingStore), "this store is no queue"
        actor, store, attempt = process.worker, self.store, self.attempt(process)
        change = lifecycle.begin(self.rules, token=attempt.token, worker=process.name, defaults={})
        rev = self.new("rev")
        try:
            taken = yield from self.ask(
                actor, lambda: store.take([QUEUE], dict.fromkeys(process.tasks, change), 1, rev)
            )
        except NoAnswer:
            self.ledger.excused.add(attempt.token)  # what was taken cannot be asked for; its lease lapses
            return
        for record in taken:
            self.hold(process, attempt, record)
            yield from self.run(process, attempt, record)
        if not taken:
            for record in (yield from self.ask(actor, lambda: store.unknown([QUEUE], known, BATCH))):
                yield from self.settle(actor, record.id, partial(lifecycle.unknown, self.rules), record)

    def attempt(self, process: Process) -> Attempt:
        """A new attempt, not begun yet: its token, and a lease counted from before the call."""
        attempt = Attempt(self.new("token"), self.clock.now + self.rules.lease)
        process.worker.token = attempt.token
        self.ledger.holders[attempt.token] = process.name
        return attempt

    def hold(self, process: Process, attempt: Attempt, record: Record) -> None:
        """It is begun: from now on the heart beats for it."""
        attempt.job_id = record.id
        process.attempts.append(attempt)

    def run(self, process: Process, attempt: Attempt, record: Record) -> Steps[None]:
        """Run the task, and say how it ended."""
        actor = process.worker
        if not (yield from self.ready(process, attempt)):
            process.attempts.remove(attempt)
            return
        attempt.running = True
        self.ledger.started(attempt)
        yield Call(lambda: None, sure=True)  # the task's own code
        if process.stopping == "hangs" and attempt.running:
            hung = partial(lifecycle.interrupt, self.rules, token=attempt.token, stopped=False)
            yield from self.settle(actor, record.id, hung)
            yield Call(lambda: self.leave(process), sure=True)
            return
        attempt.running = False
        decide = partial(lifecycle.interrupt, self.rules, token=attempt.token, stopped=True)
        if process.stopping is None:
            outcome = self.end(record, attempt.token)
            decide = partial(lifecycle.finish, self.rules, token=attempt.token, outcome=outcome, random=0.0)
        settled = yield from self.decide(actor, record.id, decide, record)
        process.attempts.remove(attempt)
        process.stopping = None
        yield from self.follow(actor, settled)

    def ready(self, process: Process, attempt: Attempt) -> Steps[bool]:
        """Whether the task may start: once the lease may have lapsed, one heartbeat must succeed first."""
        while self.clock.now >= attempt.until and not attempt.lost:
            try:
                yield from self.beat(process, process.worker)
            except NoAnswer:
                continue
        return not attempt.lost

    def beat(self, process: Process, actor: Actor) -> Steps[None]:
        """One heartbeat for all that this process runs. An attempt that is lost is interrupted."""
        attempts, until = list(process.attempts), self.clock.now + self.rules.lease
        beats = [Beat(a.job_id, a.token, self.rules.lease, self.new("rev")) for a in attempts]
        answers = yield from self.ask(actor, lambda: self.store.heartbeat(beats))
        for attempt, answer in zip(attempts, answers, strict=True):
            record = answer.record
            if record is not None and record.state is JobState.RUNNING and record.token == attempt.token:
                attempt.until = max(attempt.until, until)
            else:
                attempt.lost, attempt.running = True, False

    def leave(self, process: Process) -> None:
        """The process is gone, and its code with it; what it had not acknowledged is delivered again."""
        for attempt in process.attempts:
            attempt.running = False
        process.attempts.clear()
        process.stopping, process.frozen = None, False
        process.leases_from = self.clock.now + self.rules.lease / 3
        self.broker.release(process.name)

"""The part of the store suite that compares the store with the memory store, by the same random calls to both."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from queueport.spi.history import HOUR, MINUTE, HistoryQuery, start_of
from queueport.spi.record import RECORD_VERSION, Change, Record, Release
from queueport.spi.store import (
    LIMITED,
    Begin,
    ClaimingStore,
    Document,
    Insert,
    LeaseRenewal,
    Query,
    Replacement,
    StartLimit,
    Swap,
    TakeLimits,
)
from queueport.stats import WorkerStats
from queueport.status import JobState, Progress
from queueport.stores.memory.store import MemoryStore
from queueport.testing.stores.harness import START, Case, Clock, StoreHarness, error

__all__ = ["RandomTests", "StoreMachine"]

IDS = [f"j{n}" for n in range(6)]
QUEUES = ["q1", "q2"]
TASKS = ["app.one", "app.two"]
TOKENS = ["t1", "t2"]

LIMIT_NAMES = ["one", "two", "two k1"]
LIMITS = [StartLimit("one", 1), StartLimit("one", 2, rate=0.25, burst=2), StartLimit("two", 1, keyed=True)]
HOLD = Change({"sent": False, "reason": LIMITED}, {"wake_at": 5.0})

ENQUEUED = Change(stamp={"enqueued_at": 0.0})

_numbers = itertools.count()

moments = st.one_of(st.none(), st.integers(-5, 15).map(lambda seconds: START + seconds))
ids = st.sampled_from(IDS)
errors = st.lists(st.sampled_from(["a.X", "b.X", "Y"]), max_size=2).map(
    lambda kinds: tuple(error(kind) for kind in kinds)
)
values = st.fixed_dictionaries(
    {"state": st.just(JobState.QUEUED) | st.sampled_from(JobState)},
    optional={
        "queue": st.sampled_from(QUEUES),
        "priority": st.integers(-1, 1),
        "sent": st.booleans(),
        "sent_at": moments,
        "wake_at": moments,
        "queued_at": moments,
        "expires_at": moments,
        "finished_at": moments,
        "unknown_since": moments,
        "token": st.sampled_from([None, *TOKENS]),
        "errors": errors,
        "progress": st.sampled_from([None, Progress(1, 2.5, "half")]),
        "reason": st.sampled_from([None, LIMITED]),
        "held_by": st.sampled_from([None, *LIMIT_NAMES]),
        "slots": st.sampled_from([None, ("one",), ("one", "two k1")]),
        "result": st.sampled_from([None, b"", b"1"]),
    },
)
stamps = st.dictionaries(
    st.sampled_from(["wake_at", "sent_at", "queued_at", "finished_at"]), st.integers(0, 9), max_size=2
)
counted = st.integers(0, 2)
changes = st.builds(Change, values, stamps, counted, counted)
ends = st.builds(
    lambda change, state, seconds: replace(
        change, set={**change.set, "state": state}, stamp={**change.stamp, "key_until": seconds}
    ),
    changes,
    st.sampled_from([JobState.SUCCEEDED, JobState.DEAD]),
    st.integers(1, 12),
)
"""Changes that end a job, and let it keep its key."""
releases = st.lists(
    st.builds(Release, ids, st.booleans(), st.sampled_from([{}, {"reason": "r"}, {"reason": None}])),
    max_size=2,
    unique_by=lambda release: release.id,
)
records = st.builds(
    Record,
    id=ids,
    task=st.sampled_from(TASKS),
    queue=st.sampled_from(QUEUES),
    payload=st.binary(max_size=3),
    state=st.just(JobState.QUEUED),
    priority=st.integers(-1, 1),
    key=st.sampled_from([None, None, "k1", "k2"]),
    tags=st.sampled_from([(), (), ("t1",), ("t2", "t1")]),
    limit_key=st.sampled_from([None, "k1"]),
    waits_for=st.sampled_from([0, 0, 1, 2]),
    v=st.sampled_from([RECORD_VERSION] * 4 + [RECORD_VERSION + 1]),
)
replacements = st.builds(
    Replacement, waiting=changes, sent=st.none() | changes, running=st.just(Change({"key": None, "sends": 3}))
)
queries = st.builds(
    Query,
    state=st.none() | st.sampled_from(JobState),
    queue=st.none() | st.sampled_from(QUEUES),
    task=st.none() | st.sampled_from(TASKS),
    error=st.none() | st.sampled_from(["X", "a.X", "Y", "Z"]),
    finished_before=moments,
    after=st.none() | ids,
    limit=st.integers(1, 4),
    key=st.sampled_from([None, None, "k1", "k2", "k3"]),
    tag=st.sampled_from([None, None, "t1", "t2", "t3"]),
    text=st.sampled_from([None, None, None, "\0", "a"]),
    since=moments,
    until=moments,
)


limits = st.lists(st.sampled_from(LIMITS), max_size=2, unique_by=lambda limit: limit.name).map(tuple)


class StoreMachine(RuleBasedStateMachine):
    """Makes the same calls to the store under test and to its model, the memory store, and compares the answers.

    Both stores use the same clock.
    """

    harness: ClassVar[StoreHarness]

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.model = MemoryStore(clock=self.clock)
        self.store = self.harness.open(f"machine{next(_numbers)}", self.clock)

    def teardown(self) -> None:
        for task in TASKS:
            self.history(MINUTE, None, task)
        self.store.close()

    def both(self, verb: str, *arguments: Any, **options: Any) -> list[Any]:
        """Call the method `verb` of both stores, assert that their answers are equal, and return the answer."""
        expected = list(getattr(self.model, verb)(*arguments, **options))
        assert list(getattr(self.store, verb)(*arguments, **options)) == expected
        return expected

    def rev(self) -> str:
        """A new revision (`rev`) for a write. No earlier call of this method has returned it."""
        return f"rev{next(_numbers)}"

    @rule(seconds=st.integers(1, 6))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(new=st.lists(st.tuples(records, changes, st.none() | replacements), min_size=1, max_size=4))
    def insert(self, new: list[tuple[Record, Change, Replacement | None]]) -> None:
        inserts = [
            Insert(record, change.with_next(ENQUEUED), self.rev(), replace=which) for record, change, which in new
        ]
        self.both("insert", inserts)

    @rule(
        wanted=st.lists(
            st.tuples(ids, st.booleans(), st.just(Change(delete=True)) | changes | ends, st.just([]) | releases),
            min_size=1,
            max_size=4,
        ),
        known=st.booleans(),
    )
    def swap(self, wanted: list[tuple[str, bool, Change, list[Release]]], known: bool) -> None:
        swaps = []
        for job_id, stale, wish, asked in wanted:
            (found,) = self.model.get([job_id])
            rev = "stale" if stale or found is None else found.rev
            ended = found is not None and found.state.final
            # The lifecycle sets `key_until` only when a job ends.
            change = Change({"priority": 0}) if ended and "key_until" in wish.stamp else wish
            released = tuple(release for release in asked if release.id != job_id)
            if released and found is not None and not found.released:  # a job releases other jobs once
                values = {} if change.delete else {**change.set, "released": True}
                change = replace(change, set=values, releases=released)
            swaps.append(Swap(job_id, rev, change, self.rev(), found if known else None))
        self.both("swap", swaps)

    @rule(
        wanted=st.lists(st.tuples(ids, st.sampled_from([*TASKS, None]), changes, limits), min_size=1, max_size=3),
        queue=st.sampled_from([None, *QUEUES]),
    )
    def begin(self, wanted: list[tuple[str, str | None, Change, tuple[StartLimit, ...]]], queue: str | None) -> None:
        begins = []
        for job_id, task, change, own in wanted:  # if `task` is None, the begin names the record's task
            (found,) = self.model.get([job_id])
            known = (TASKS[0], QUEUES[0]) if found is None else (found.task, found.queue)
            names = known[0] if task is None else task, queue or known[1]
            begins.append(Begin(job_id, names[0], change, self.rev(), names[1], own, HOLD))
        self.both("begin", begins)

    @rule(
        names=st.none() | st.lists(st.sampled_from(LIMIT_NAMES)),
        limit=st.integers(1, 3),
        after=st.sampled_from(["", *LIMIT_NAMES]),
    )
    def held(self, names: list[str] | None, limit: int, after: str) -> None:
        self.both("held", names, limit, after)

    @rule(wanted=st.lists(st.tuples(ids, st.sampled_from(TOKENS)), min_size=1, max_size=3))
    def heartbeat(self, wanted: list[tuple[str, str]]) -> None:
        progress = {"progress": Progress(3)}
        self.both("heartbeat", [LeaseRenewal(job_id, token, 4.0, self.rev(), progress) for job_id, token in wanted])

    @rule(limit=st.integers(1, 4), leases=st.booleans())
    def claim_due(self, limit: int, leases: bool) -> None:
        self.both("claim_due", limit, 3.0, self.rev(), leases=leases)

    @rule(
        queue=st.sampled_from(QUEUES), priority=st.integers(-1, 1), before=st.integers(-5, 20), limit=st.integers(1, 3)
    )
    def unreceived(self, queue: str, priority: int, before: int, limit: int) -> None:
        if any(record.sent and record.wake_at is not None for record in self.model.find(Query())):
            # A store may return records with a `wake_at` or leave them out. If it returns them, they count against the
            # limit. So with a small limit, the two answers could contain different records without a `wake_at`. With
            # this limit, each answer contains all of these records.
            limit = len(IDS)
        answers = [store.unreceived(queue, priority, START + before, limit) for store in (self.store, self.model)]
        found, expected = ([record for record in answer if record.wake_at is None] for answer in answers)
        assert found == expected

    @rule(query=queries, state=st.sampled_from(JobState), keep=st.integers(0, 3), limit=st.integers(1, 3))
    def overflow(self, query: Query, state: JobState, keep: int, limit: int) -> None:
        self.both("overflow", Query(state, query.queue, query.task), keep, limit)

    @rule(query=queries)
    def find(self, query: Query) -> None:
        self.both("find", query)
        assert self.store.count(query) == self.model.count(query)

    @rule(job_id=ids, length=st.integers(0, 2), limit=st.integers(1, 3))
    def find_ids(self, job_id: str, length: int, limit: int) -> None:
        self.both("ids", job_id[:length], limit)

    @rule(wanted=st.sets(ids))
    def wait(self, wanted: set[str]) -> None:
        found = {record.id: record for record in self.store.wait(wanted, 0.0)}
        assert found == {record.id: record for record in self.model.wait(wanted, 0.0)}

    @rule(name=st.sampled_from("ab"), ttl=st.integers(0, 5))
    def announce(self, name: str, ttl: int) -> None:
        never = datetime.fromtimestamp(0.0, UTC)
        for store in (self.model, self.store):
            store.announce(WorkerStats(name, tuple(QUEUES), (), never), ttl)
        self.both("workers")
        self.both("workers", lost=True)

    @rule(
        name=st.sampled_from("ab"),
        known=st.booleans(),
        new=st.none() | st.tuples(records, changes, st.none() | replacements),
    )
    def put_document(self, name: str, known: bool, new: tuple[Record, Change, Replacement | None] | None) -> None:
        found = {one.name: one.rev for one in self.model.documents("kind")}
        document = Document("kind", name, {"n": self.rev()}, self.rev())
        insert = None if new is None else Insert(new[0], new[1].with_next(ENQUEUED), self.rev(), replace=new[2])
        expected = found.get(name) if known else "stale"
        answers = [store.put_document(document, expected, insert) for store in (self.model, self.store)]
        assert answers == [known, known]

    @rule(name=st.sampled_from("ab"), known=st.booleans())
    def delete_document(self, name: str, known: bool) -> None:
        found = {one.name: one.rev for one in self.model.documents("kind")}
        expected = found.get(name, "") if known else "stale"
        answers = [store.delete_document("kind", name, expected) for store in (self.model, self.store)]
        assert answers == [known and name in found] * 2

    @rule(
        queues=st.lists(st.sampled_from(QUEUES), min_size=1, max_size=2),
        changes=st.dictionaries(st.sampled_from(TASKS), changes),
        limit=st.integers(1, 4),
        own=st.none()
        | st.dictionaries(st.tuples(st.sampled_from(QUEUES), st.sampled_from(TASKS)), limits).map(
            lambda found: TakeLimits(found, HOLD)
        ),
    )
    def take(self, queues: list[str], changes: dict[str, Change], limit: int, own: TakeLimits | None) -> None:
        if isinstance(self.store, ClaimingStore):
            # The lifecycle's change at begin leaves these fields to the store. A store may begin other jobs last.
            names = ("slots", "held_by", "reason", "state")
            plain = {
                task: replace(change, set={name: value for name, value in change.set.items() if name not in names})
                for task, change in changes.items()
            }
            begins = {task: change.with_next(Change({"state": JobState.RUNNING})) for task, change in plain.items()}
            self.both("take", queues, changes if own is None else begins, limit, self.rev(), own)

    @rule(queues=st.lists(st.sampled_from(QUEUES), min_size=1, max_size=2), tasks=st.sets(st.sampled_from(TASKS)))
    def unknown(self, queues: list[str], tasks: set[str]) -> None:
        if isinstance(self.store, ClaimingStore):
            found = {record.id: record for record in self.store.unknown(queues, tasks, 100)}
            assert found == {record.id: record for record in self.model.unknown(queues, tasks, 100)}

    @rule(
        step=st.sampled_from([MINUTE, HOUR]),
        queue=st.none() | st.sampled_from(QUEUES),
        task=st.none() | st.sampled_from(TASKS),
    )
    def history(self, step: int, queue: str | None = None, task: str | None = None) -> None:
        start = start_of(HOUR, START)
        for by_task in (False, True):
            self.both("history", HistoryQuery(start, start + HOUR, step, queue, task, by_task))

    @invariant()
    def records_and_counts_equal_those_of_the_model(self) -> None:
        known = self.both("find", Query(limit=100))
        self.both("get", IDS)
        self.both("documents", "kind")
        stats = self.store.stats()
        assert stats == self.model.stats()
        recount = Counter((record.queue, record.state) for record in known)
        kept = {(queue, state): n for queue, counts in stats.queues.items() for state, n in counts.states.items()}
        assert {kind: n for kind, n in kept.items() if n} == recount


class RandomTests(Case):
    """Compares the store under test with the memory store by random sequences of calls (`StoreMachine`)."""

    examples: ClassVar[int] = 60
    """The number of random sequences to try. Set a higher number for a fast store, or to search for a fault."""

    def test_random_calls_are_answered_as_the_memory_store_answers_them(self, harness: StoreHarness) -> None:
        machine = type("Machine", (StoreMachine,), {"harness": harness})
        checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
        rules = settings(
            max_examples=self.examples, stateful_step_count=30, deadline=None, suppress_health_check=checks
        )
        run_state_machine_as_test(machine, settings=rules)

"""The part of the store suite about threads, processes and damage."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import chain
from typing import Any

import pytest

from queueport import lifecycle
from queueport.record import Change, CorruptRecord
from queueport.status import JobState
from queueport.store import Begin, Insert, JobStore, Outcome, Query, Swap, Written
from queueport.testing.stores.harness import RULES, Clock, StoreHarness, Tests, bare, put, rev, run

__all__ = ["Damage", "Processes", "Threads"]

THREADS = 8
PROCESSES = 3


def at_once(call: Callable[[int], Any], threads: int = THREADS) -> list[Any]:
    """What that many threads get from the call, all begun together."""
    barrier = threading.Barrier(threads)

    def begin(number: int) -> Any:
        barrier.wait()
        return call(number)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(begin, range(threads)))


def claim_all(store: JobStore, name: object) -> list[str]:
    """Claim what is due, a few at a time, until nothing is left; the ids."""
    ids: list[str] = []
    while claimed := store.claim_due(7, 3600.0, f"{name}"):
        ids += [job.id for job in claimed]
    return ids


class Threads(Tests):
    def test_of_eight_threads_one_gets_the_key(self, store: JobStore) -> None:
        new = lifecycle.new(RULES, delay=None, expires=None)
        answers: list[Written] = at_once(lambda n: store.insert([Insert(bare(f"j{n}", key="k"), new, f"r{n}")])[0])
        outcomes = Counter(answer.outcome for answer in answers)
        assert outcomes == {Outcome.APPLIED: 1, Outcome.KEY_HELD: THREADS - 1}
        assert len({answer.record.id for answer in answers if answer.record}) == 1

    def test_of_eight_threads_one_begins_the_job(self, store: JobStore) -> None:
        record = put(store)
        change = Change({"state": JobState.RUNNING})
        answers: list[Written] = at_once(lambda n: store.begin([Begin(record.id, change, f"r{n}")])[0])
        assert [answer.applied for answer in answers].count(True) == 1
        assert {answer.record.attempts for answer in answers if answer.record} == {1}

    def test_of_eight_swaps_on_one_rev_one_is_applied(self, store: JobStore) -> None:
        record = put(store)
        answers: list[Written] = at_once(
            lambda n: store.swap([Swap(record.id, record.rev, Change({"sends": n}), f"r{n}")])[0]
        )
        (winner,) = [number for number, answer in enumerate(answers) if answer.applied]
        assert {(answer.record.sends, answer.record.rev) for answer in answers if answer.record} == {
            (winner, f"r{winner}")
        }

    def test_eight_threads_claim_each_due_job_once(self, store: JobStore, clock: Clock) -> None:
        new = lifecycle.new(RULES, delay=1.0, expires=None)
        store.insert([Insert(bare(f"j{n}"), new, "r") for n in range(200)])
        clock.advance(1)
        claimed = chain.from_iterable(at_once(lambda n: claim_all(store, n)))
        assert sorted(claimed) == sorted(f"j{n}" for n in range(200))

    def test_nothing_that_eight_threads_write_is_lost_or_counted_twice(self, store: JobStore) -> None:
        def work(number: int) -> None:
            for i in range(20):
                record = run(store, put(store, f"j{number}-{i}", queue=f"q{number % 2}"))
                change = Change({"state": JobState.SUCCEEDED}, processed=1)
                store.swap([Swap(record.id, record.rev, change, rev())])

        at_once(work)
        stats = store.stats()
        assert stats.processed == THREADS * 20
        assert [stats.queues[name].states[JobState.SUCCEEDED] for name in ("q0", "q1")] == [THREADS * 10] * 2
        assert store.count(Query()) == len(store.find(Query(limit=1000))) == THREADS * 20


class Processes(Tests):
    @pytest.fixture(scope="class")
    @classmethod
    def processes(cls) -> Iterator[ProcessPoolExecutor]:
        """Fresh interpreters, kept from test to test."""
        with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
            yield pool

    def test_processes_that_open_a_fresh_store_at_once_all_succeed(
        self, harness: StoreHarness, processes: ProcessPoolExecutor
    ) -> None:
        tasks = [processes.submit(insert_some, harness, "fresh", name) for name in "abc"]
        ids = [job_id for task in tasks for job_id in task.result()]
        store = harness.open("fresh")
        assert sorted(record.id for record in store.find(Query(limit=1000))) == sorted(ids)
        assert store.stats().queues["default"].states[JobState.QUEUED] == len(ids)
        store.close()

    def test_no_swap_of_several_processes_on_one_record_is_lost(
        self, harness: StoreHarness, store: JobStore, processes: ProcessPoolExecutor
    ) -> None:
        record = put(store)
        tasks = [processes.submit(add, harness, record.id, 40) for _ in range(PROCESSES)]
        assert [task.result() for task in tasks] == [40] * PROCESSES
        (found,) = store.get([record.id])
        assert found is not None
        assert found.sends == 40 * PROCESSES

    def test_several_processes_claim_each_due_job_once(
        self, harness: StoreHarness, store: JobStore, processes: ProcessPoolExecutor
    ) -> None:
        change = Change({"state": JobState.SCHEDULED, "wake_at": 1.0})
        store.insert([Insert(bare(f"j{n}"), change, "r") for n in range(300)])
        tasks = [processes.submit(claim_elsewhere, harness, name) for name in range(PROCESSES)]
        claimed = chain.from_iterable(task.result() for task in tasks)
        assert sorted(claimed) == sorted(f"j{n}" for n in range(300))

    def test_parent_and_child_of_a_fork_both_go_on_and_lose_nothing(
        self, harness: StoreHarness, store: JobStore, processes: ProcessPoolExecutor
    ) -> None:
        """Also when the parent closes its store first, and with a connection open on either side of the fork."""
        assert processes.submit(fork, harness).result() == sorted(
            ["before", "child-1", "child-2", "parent-1", "parent-2"]
        )
        assert {record.id for record in store.find(Query())} == {"before", "child-1", "child-2", "parent-1", "parent-2"}


def insert_some(harness: StoreHarness, namespace: str, name: str) -> list[str]:
    """In another process: fifty jobs; their ids."""
    store = harness.open(namespace)
    ids = [put(store, f"{name}{n}").id for n in range(50)]
    store.close()
    return ids


def add(harness: StoreHarness, job_id: str, times: int) -> int:
    """In another process: one more, so many times, in spite of the others."""
    store, done = harness.open(), 0
    while done < times:
        (record,) = store.get([job_id])
        assert record is not None
        done += store.swap([Swap(job_id, record.rev, Change({"sends": record.sends + 1}), rev())])[0].applied
    store.close()
    return done


def claim_elsewhere(harness: StoreHarness, name: int) -> list[str]:
    """In another process."""
    store = harness.open()
    ids = claim_all(store, name)
    store.close()
    return ids


def fork(harness: StoreHarness) -> Sequence[str]:
    """In another process: write before a fork, and on both sides after it; the ids that are there in the end."""
    store = harness.open()
    put(store, "before")
    child_wrote, parent_closed = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            put(store, "child-1")
            os.write(child_wrote[1], b".")
            os.read(parent_closed[0], 1)
            put(store, "child-2")
            os._exit(0)
        finally:
            os._exit(1)
    put(store, "parent-1")
    os.read(child_wrote[0], 1)
    store.close()
    os.write(parent_closed[1], b".")
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    put(store, "parent-2")
    ids = sorted(record.id for record in store.find(Query()))
    store.close()
    return ids


class Damage(Tests):
    @pytest.mark.parametrize(
        "damage", ["state bogus", "errors [{", "errors [1]", "headers []", "options {", "life many"], ids=str.split
    )
    def test_a_damaged_record_is_named_by_get_and_put_aside_by_claim_due(
        self, store: JobStore, harness: StoreHarness, clock: Clock, caplog: pytest.LogCaptureFixture, damage: str
    ) -> None:
        put(store, "bad", delay=1.0, key="k")
        put(store, "good", delay=1.0)
        harness.damage("suite", "bad", *damage.split())
        with pytest.raises(CorruptRecord, match=f"'bad'.*{damage.split(maxsplit=1)[0]}"):
            store.get(["good", "bad"])
        clock.advance(1)
        assert [job.id for job in store.claim_due(10, 5.0, "r")] == ["good"]
        (record,) = [record for record in caplog.records if "bad" in record.getMessage()]
        assert record.levelname == "WARNING"
        assert store.get(["bad"]) == [None]
        assert sum(store.stats().queues["default"].states.values()) == 1
        put(store, key="k")

    def test_find_puts_damaged_records_aside_and_fills_its_page(self, store: JobStore, harness: StoreHarness) -> None:
        for name in "abcdef":
            put(store, name)
        for name in "bdf":
            harness.damage("suite", name, "options", "{")
        assert [job.id for job in store.find(Query(limit=2))] == ["e", "c"]
        assert [job.id for job in store.find(Query(JobState.QUEUED))] == ["e", "c", "a"]
        assert store.count(Query()) == 3

    def test_a_write_to_a_damaged_record_is_refused_and_finds_nothing(
        self, store: JobStore, harness: StoreHarness
    ) -> None:
        records = [put(store, name) for name in ("a", "b", "c")]
        for record in records:
            harness.damage("suite", record.id, "headers", "no json")
        (begun,) = store.begin([Begin("a", Change({"state": JobState.RUNNING}), "r")])
        (swapped,) = store.swap([Swap("b", records[1].rev, Change({"sends": 1}), "r")])
        (stale,) = store.swap([Swap("c", "stale", Change({"sends": 1}), "r")])
        assert [(answer.outcome, answer.record) for answer in (begun, swapped, stale)] == [(Outcome.REFUSED, None)] * 3
        assert store.count(Query()) == 0

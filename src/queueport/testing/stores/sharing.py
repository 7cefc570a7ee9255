"""The part of the store suite about threads, processes and damaged records."""

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

from queueport.engine.lifecycle import Lifecycle
from queueport.spi.record import Change, CorruptRecord
from queueport.spi.store import Begin, Document, Insert, JobStore, Query, Swap, WriteOutcome, WriteResult
from queueport.status import JobState
from queueport.testing.stores.harness import RULES, Case, Clock, StoreHarness, bare, put, rev, run

__all__ = ["DamageTests", "ProcessTests", "ThreadTests"]

THREADS = 8
PROCESSES = 3


def at_once(call: Callable[[int], Any], threads: int = THREADS) -> list[Any]:
    """Call `call` in several threads at once, each with its number. Return the answers in the order of the numbers."""
    barrier = threading.Barrier(threads)

    def begin(number: int) -> Any:
        barrier.wait()
        return call(number)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(begin, range(threads)))


def claim_all(store: JobStore, name: object) -> list[str]:
    """Claim all due records for an hour, at most seven in a call, and return their ids. `name` becomes their `rev`."""
    ids: list[str] = []
    while claimed := store.claim_due(7, 3600.0, f"{name}"):
        ids += [job.id for job in claimed]
    return ids


class ThreadTests(Case):
    """Tests in which several threads use one store object at the same time."""

    def test_only_one_of_eight_threads_gets_the_key(self, store: JobStore) -> None:
        new = Lifecycle(RULES).new(delay=None, expires=None)
        answers: list[WriteResult] = at_once(lambda n: store.insert([Insert(bare(f"j{n}", key="k"), new, f"r{n}")])[0])
        outcomes = Counter(answer.outcome for answer in answers)
        assert outcomes == {WriteOutcome.APPLIED: 1, WriteOutcome.KEY_HELD: THREADS - 1}
        assert len({answer.record.id for answer in answers if answer.record}) == 1

    def test_only_one_of_eight_threads_begins_the_job(self, store: JobStore) -> None:
        record = put(store)
        change = Change({"state": JobState.RUNNING})
        answers: list[WriteResult] = at_once(lambda n: store.begin([Begin(record.id, record.task, change, f"r{n}")])[0])
        assert [answer.applied for answer in answers].count(True) == 1
        assert {answer.record.attempts for answer in answers if answer.record} == {1}

    def test_only_one_of_eight_swaps_with_the_same_rev_is_applied(self, store: JobStore) -> None:
        record = put(store)
        answers: list[WriteResult] = at_once(
            lambda n: store.swap([Swap(record.id, record.rev, Change({"sends": n}), f"r{n}")])[0]
        )
        (winner,) = [number for number, answer in enumerate(answers) if answer.applied]
        assert {(answer.record.sends, answer.record.rev) for answer in answers if answer.record} == {
            (winner, f"r{winner}")
        }

    def test_eight_threads_claim_each_due_job_once(self, store: JobStore, clock: Clock) -> None:
        new = Lifecycle(RULES).new(delay=1.0, expires=None)
        store.insert([Insert(bare(f"j{n}"), new, "r") for n in range(200)])
        clock.advance(1)
        claimed = chain.from_iterable(at_once(lambda n: claim_all(store, n)))
        assert sorted(claimed) == sorted(f"j{n}" for n in range(200))

    def test_no_write_of_eight_threads_is_lost_or_counted_twice(self, store: JobStore) -> None:
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


class ProcessTests(Case):
    """Tests in which several processes use the store at the same time."""

    @pytest.fixture(scope="class")
    @classmethod
    def processes(cls) -> Iterator[ProcessPoolExecutor]:
        """A pool of three new Python processes, which all tests of the class share."""
        with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
            yield pool

    def test_several_processes_can_open_a_new_store_at_once(
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

    def test_parent_and_child_can_both_use_the_store_after_a_fork(
        self, harness: StoreHarness, store: JobStore, processes: ProcessPoolExecutor
    ) -> None:
        """A forked child inherits a copy of the open store, which still works after the parent has closed its own."""
        assert processes.submit(fork, harness).result() == sorted(
            ["before", "child-1", "child-2", "parent-1", "parent-2"]
        )
        assert {record.id for record in store.find(Query())} == {"before", "child-1", "child-2", "parent-1", "parent-2"}


def insert_some(harness: StoreHarness, namespace: str, name: str) -> list[str]:
    """Insert fifty jobs, and return their ids. Runs in another process."""
    store = harness.open(namespace)
    ids = [put(store, f"{name}{n}").id for n in range(50)]
    store.close()
    return ids


def add(harness: StoreHarness, job_id: str, times: int) -> int:
    """Add 1 to the record's `sends` until `times` swaps were applied; return their number. Runs in another process."""
    store, done = harness.open(), 0
    while done < times:
        (record,) = store.get([job_id])
        assert record is not None
        done += store.swap([Swap(job_id, record.rev, Change({"sends": record.sends + 1}), rev())])[0].applied
    store.close()
    return done


def claim_elsewhere(harness: StoreHarness, name: int) -> list[str]:
    """Claim all due records, and return their ids. Runs in another process."""
    store = harness.open()
    ids = claim_all(store, name)
    store.close()
    return ids


def fork(harness: StoreHarness) -> Sequence[str]:
    """Insert a job, fork, and insert two jobs in the parent and two in the child. Return the ids in the store.

    Runs in another process.
    """
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


class DamageTests(Case):
    """Tests that records which cannot be read are put aside, so that these records do not block others.

    `StoreHarness.damage` damages the records.
    """

    @pytest.mark.parametrize(
        "damage", ["state bogus", "errors [{", "errors [1]", "headers []", "options {", "life many"], ids=str.split
    )
    def test_get_names_a_damaged_record_and_claim_due_moves_it_aside(
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

    def test_find_moves_damaged_records_aside_and_fills_its_page(self, store: JobStore, harness: StoreHarness) -> None:
        for name in "abcdef":
            put(store, name)
        for name in "bdf":
            harness.damage("suite", name, "options", "{")
        assert [job.id for job in store.find(Query(limit=2))] == ["e", "c"]
        assert [job.id for job in store.find(Query(JobState.QUEUED))] == ["e", "c", "a"]
        assert store.count(Query()) == 3

    def test_a_write_to_a_damaged_record_is_refused_without_a_record(
        self, store: JobStore, harness: StoreHarness
    ) -> None:
        records = [put(store, name) for name in ("a", "b", "c")]
        for record in records:
            harness.damage("suite", record.id, "headers", "not JSON")
        (begun,) = store.begin([Begin("a", "app.send", Change({"state": JobState.RUNNING}), "r")])
        (swapped,) = store.swap([Swap("b", records[1].rev, Change({"sends": 1}), "r")])
        (stale,) = store.swap([Swap("c", "stale", Change({"sends": 1}), "r")])
        assert [(answer.outcome, answer.record) for answer in (begun, swapped, stale)] == [
            (WriteOutcome.REFUSED, None)
        ] * 3
        assert store.count(Query()) == 0

    @pytest.mark.parametrize("text", ["{", "[1]", "null", "?{}"])
    def test_a_damaged_document_is_moved_aside_and_blocks_no_other(
        self, store: JobStore, harness: StoreHarness, caplog: pytest.LogCaptureFixture, text: str
    ) -> None:
        bad, good, new = (Document("pause", name, {"n": 1}, rev()) for name in ("bad", "good", "bad"))
        assert store.put_document(bad, None)
        assert store.put_document(good, None)
        harness.damage_document("suite", "pause", "bad", text)
        assert store.documents("pause") == [good]
        (record,) = [record for record in caplog.records if "aside" in record.getMessage()]
        assert record.levelname == "WARNING"
        assert store.put_document(new, None)
        assert store.documents("pause") == [new, good]

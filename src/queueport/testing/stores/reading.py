"""The part of the store suite about find, count and wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import product
from typing import Any

from queueport.record import Change, Record
from queueport.status import JobState
from queueport.store import JobStore, Query, Swap
from queueport.testing.stores.harness import START, Clock, Tests, dead, error, put, retrying, rev, run, succeeded, swap

__all__ = ["Finds", "Waits"]

LONG = 20.0
"""Seconds that nobody is meant to wait."""


def found(store: JobStore, **filters: Any) -> list[str]:
    """Ids of what is found."""
    return [record.id for record in store.find(Query(**filters))]


class Finds(Tests):
    def test_the_newest_come_first_by_insertion(self, store: JobStore, clock: Clock) -> None:
        records = [put(store, name, priority=i) for i, name in enumerate("abcd")]
        clock.advance(-100)
        put(store, "e")
        swap(store, records[0], sends=1)
        assert found(store) == list("edcba")
        assert found(store, limit=2) == list("ed")

    def test_pages_follow_each_other_whatever_changes_in_between(self, store: JobStore) -> None:
        records = {name: put(store, name) for name in "abcdef"}
        assert found(store, limit=2) == list("fe")
        run(store, records["e"])
        put(store, "g")
        assert found(store, limit=2, after="e") == list("dc")
        assert found(store, limit=9, after="c", state=JobState.QUEUED) == list("ba")
        assert found(store, limit=9, after="a") == []
        assert found(store, after="unknown") == []

    def test_filters_hold_together(self, store: JobStore) -> None:
        makers: tuple[Callable[..., Record], ...] = (put, succeeded, dead, retrying)
        records = [make(store, queue=q, task=t) for make, q, t in product(makers, ("q1", "q2"), ("t1", "t2"))]
        for state, queue, task in product([None, *JobState], [None, "q1", "absent"], [None, "t2", "absent"]):
            wanted = [
                record.id
                for record in reversed(records)
                if state in (None, record.state) and queue in (None, record.queue) and task in (None, record.task)
            ]
            assert found(store, state=state, queue=queue, task=task) == wanted
            assert store.count(Query(state=state, queue=queue, task=task)) == len(wanted)

    def test_an_error_is_found_by_its_dotted_and_by_its_bare_name(self, store: JobStore) -> None:
        dead(store, "a", kind="one.Rejected")
        dead(store, "b", kind="two.Rejected", queue="bulk")
        dead(store, "c", kind="Rejected")
        dead(store, "d", kind="one.Other")
        for name, ids in {"Rejected": "cba", "one.Rejected": "a", "two.Rejected": "b", "Other": "d", "one": ""}.items():
            assert found(store, error=name) == list(ids)
            assert store.count(Query(error=name)) == len(ids)
        assert found(store, error="Rejected", queue="bulk", state=JobState.DEAD) == ["b"]
        assert found(store, error="Rejected", state=JobState.QUEUED) == []

    def test_only_the_newest_error_counts(self, store: JobStore) -> None:
        record = swap(store, put(store, "a"), errors=(error("one.Old"), error("two.New")))
        assert [found(store, error=name) for name in ("Old", "one.Old", "one.New")] == [[], [], []]
        assert [found(store, error=name) for name in ("New", "two.New")] == [["a"], ["a"]]
        swap(store, record, errors=())
        assert found(store, error="New") == []

    def test_finished_before_leaves_out_what_ended_then_or_later_or_not_at_all(
        self, store: JobStore, clock: Clock
    ) -> None:
        put(store, "alive")
        for name in "abc":
            dead(store, name)
            clock.advance(10)
        for moment, ids in {START: "", START + 10: "a", START + 10.5: "ba", START + 99: "cba"}.items():
            assert found(store, finished_before=moment) == list(ids)
            assert store.count(Query(JobState.DEAD, finished_before=moment)) == len(ids)
        assert found(store, state=JobState.DEAD, finished_before=START + 99, after="c", limit=1) == ["b"]

    def test_count_looks_at_neither_page_nor_limit(self, store: JobStore) -> None:
        for name in "abc":
            put(store, name)
        assert store.count(Query(after="b", limit=1)) == 3
        assert store.count(Query()) == 3


class Waits(Tests):
    def test_what_has_ended_already_is_answered_at_once(self, store: JobStore) -> None:
        ended = {
            record.id: record
            for record in (succeeded(store), dead(store), swap(store, put(store), state=JobState.CANCELLED))
        }
        alive = put(store)
        started = time.monotonic()
        answer = store.wait([*ended, alive.id, "unknown"], LONG)
        assert {record.id: record for record in answer} == ended
        assert time.monotonic() - started < LONG

    def test_nothing_is_answered_when_the_time_is_over(self, store: JobStore) -> None:
        running = run(store, put(store))
        started = time.monotonic()
        assert list(store.wait([running.id, "unknown"], 0.05)) == []
        assert list(store.wait([], 0.0)) == []
        assert time.monotonic() - started < LONG

    def test_the_end_of_a_job_wakes_whoever_waits_for_it(self, store: JobStore) -> None:
        records = [run(store, put(store)) for _ in range(600)]
        seen: list[str] = []

        def wait() -> None:
            while not seen:
                seen.extend(record.id for record in store.wait([record.id for record in records], LONG))

        waiting = threading.Thread(target=wait)
        started = time.monotonic()
        waiting.start()
        store.swap([Swap(records[-1].id, records[-1].rev, Change({"state": JobState.SUCCEEDED}), rev())])
        waiting.join(LONG)
        assert seen == [records[-1].id]
        assert time.monotonic() - started < LONG / 2

"""The part of the store suite about find, count and wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import product
from typing import Any

from queueport.engine.lifecycle import Lifecycle
from queueport.spi.record import Change, Record
from queueport.spi.store import Begin, Insert, JobStore, Query, Swap
from queueport.status import JobState
from queueport.testing.stores.harness import (
    LONG,
    RULES,
    START,
    TOKEN,
    Case,
    Clock,
    applied,
    bare,
    dead,
    error,
    put,
    retrying,
    rev,
    run,
    succeeded,
    swap,
)

__all__ = ["FindTests", "WaitTests"]


def found(store: JobStore, **filters: Any) -> list[str]:
    """The ids of the records that `find` returns for these filters, in the order of its answer."""
    return [record.id for record in store.find(Query(**filters))]


class FindTests(Case):
    """Tests of the store's methods `find` and `count`."""

    def test_find_returns_the_latest_inserted_records_first(self, store: JobStore, clock: Clock) -> None:
        records = [put(store, name, priority=i) for i, name in enumerate("abcd")]
        clock.advance(-100)
        put(store, "e")
        swap(store, records[0], sends=1)
        assert found(store) == list("edcba")
        assert found(store, limit=2) == list("ed")

    def test_pages_repeat_and_skip_no_record_while_jobs_change(self, store: JobStore) -> None:
        records = {name: put(store, name) for name in "abcdef"}
        assert found(store, limit=2) == list("fe")
        run(store, records["e"])
        put(store, "g")
        assert found(store, limit=2, after="e") == list("dc")
        assert found(store, limit=9, after="c", state=JobState.QUEUED) == list("ba")
        assert found(store, limit=9, after="a") == []
        assert found(store, after="unknown") == []

    def test_filters_can_be_combined(self, store: JobStore) -> None:
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

    def test_ids_are_found_by_their_beginning(self, store: JobStore) -> None:
        names = ["0199aa01", "0199aa02", "0199aabb", "0199ab", "0199aa", "x_1", "x-1", "X1"]
        for name in reversed(names):
            put(store, name)
        dead(store, "0199aa03")
        assert store.ids("0199aa", 9) == ["0199aa", "0199aa01", "0199aa02", "0199aa03", "0199aabb"]
        assert store.ids("0199aa", 2) == ["0199aa", "0199aa01"]
        assert [list(store.ids(prefix, 9)) for prefix in ("0199ab", "x_", "x", "X", "y", "0199abc")] == [
            ["0199ab"],
            ["x_1"],
            ["x-1", "x_1"],
            ["X1"],
            [],
            [],
        ]
        (record,) = store.get(["0199aa02"])
        assert record is not None
        store.swap([Swap(record.id, record.rev, Change(delete=True), rev())])
        assert store.ids("0199aa0", 9) == ["0199aa01", "0199aa03"]

    def test_ids_that_begin_with_the_time_are_found(self, store: JobStore) -> None:
        times = [int(START * 1000) + ms for ms in (-60_000, 0, 1, 60_000_000)]
        names = [f"{at:012x}7abc8{'0' * 15}" for at in times]
        for name in names:
            put(store, name)
        for name in names:
            assert list(store.ids(name[:14], 9)) == [name]
        assert list(store.ids(names[1][:11], 9)) == names[1:3]

    def test_the_error_filter_accepts_full_and_short_names(self, store: JobStore) -> None:
        dead(store, "a", kind="one.Rejected")
        dead(store, "b", kind="two.Rejected", queue="bulk")
        dead(store, "c", kind="Rejected")
        dead(store, "d", kind="one.Other")
        for name, ids in {"Rejected": "cba", "one.Rejected": "a", "two.Rejected": "b", "Other": "d", "one": ""}.items():
            assert found(store, error=name) == list(ids)
            assert store.count(Query(error=name)) == len(ids)
        assert found(store, error="Rejected", queue="bulk", state=JobState.DEAD) == ["b"]
        assert found(store, error="Rejected", state=JobState.QUEUED) == []

    def test_the_error_filter_finds_subclasses(self, store: JobStore) -> None:
        dead(store, "a", kind="app.Lost", bases=["ConnectionError", "OSError", "Exception"])
        dead(store, "b", kind="OSError", bases=["Exception"], queue="bulk")
        dead(store, "c", kind="app.OSErrors", bases=["app.Known", "Exception"])
        dead(store, "d", kind="OSError")  # as recorded by releases that did not know `bases`
        wanted = {"OSError": "dba", "Exception": "cba", "Known": "c", "app.Known": "c", "Lost": "a", "Connection": ""}
        for name, ids in wanted.items():
            assert found(store, error=name) == list(ids)
            assert store.count(Query(error=name)) == len(ids)
        assert found(store, error="OSError", queue="bulk", state=JobState.DEAD) == ["b"]
        assert found(store, error="OSError", limit=1, after="b") == ["a"]

    def test_the_error_filter_compares_only_the_latest_error(self, store: JobStore) -> None:
        record = swap(store, put(store, "a"), errors=(error("one.Old"), error("two.New")))
        assert [found(store, error=name) for name in ("Old", "one.Old", "one.New")] == [[], [], []]
        assert [found(store, error=name) for name in ("New", "two.New")] == [["a"], ["a"]]
        swap(store, record, errors=())
        assert found(store, error="New") == []

    def test_finished_before_finds_only_jobs_that_ended_earlier(self, store: JobStore, clock: Clock) -> None:
        put(store, "alive")
        for name in "abc":
            dead(store, name)
            clock.advance(10)
        for moment, ids in {START: "", START + 10: "a", START + 10.5: "ba", START + 99: "cba"}.items():
            assert found(store, finished_before=moment) == list(ids)
            assert store.count(Query(JobState.DEAD, finished_before=moment)) == len(ids)
        assert found(store, state=JobState.DEAD, finished_before=START + 99, after="c", limit=1) == ["b"]

    def test_the_key_filter_finds_all_jobs_that_have_held_the_key(self, store: JobStore) -> None:
        succeeded(store, "a", key="order-1")
        dead(store, "b", key="order-1", queue="bulk")
        put(store, "c", key="order-1")
        put(store, "d", key="order-1", task="app.other")
        put(store, "e", key="order-2")
        put(store, "f")
        assert found(store, key="order-1") == list("dcba")
        assert found(store, key="order-1", limit=2, after="d") == list("cb")
        assert found(store, key="order") == []
        more: list[dict[str, Any]] = [
            {"state": JobState.DEAD},
            {"queue": "bulk"},
            {"error": "ValueError"},
            {"finished_before": START + 1},
        ]
        for filters, ids in zip(more, ("b", "b", "b", "ba"), strict=True):
            assert found(store, key="order-1", **filters) == list(ids)
            assert store.count(Query(key="order-1", **filters)) == len(ids)
        assert found(store, key="order-1", task="app.other") == ["d"]
        assert store.count(Query(key="order-1")) == 4
        (record,) = store.find(Query(key="order-2"))
        store.swap([Swap(record.id, record.rev, Change(delete=True), rev())])
        assert found(store, key="order-2") == []

    def test_the_tag_filter_follows_each_job_from_state_to_state(self, store: JobStore) -> None:
        tags = ("vip", 'a "b":c é')
        put(store, "a", tags=tags)
        run(store, put(store, "b", tags=tags[:1], key="k"))
        dead(store, "c", tags=tags, queue="bulk")
        succeeded(store, "d", tags=("other",))
        put(store, "e")
        assert found(store, tag="vip") == list("cba")
        assert found(store, tag=tags[1]) == list("ca")
        assert found(store, tag="vi") == []
        more: list[dict[str, Any]] = [{"state": JobState.RUNNING}, {"queue": "bulk"}, {"error": "ValueError"}]
        more.append({"key": "k"})
        for filters, ids in zip(more, "bccb", strict=True):
            assert found(store, tag="vip", **filters) == list(ids)
            assert store.count(Query(tag="vip", **filters)) == len(ids)
        assert found(store, tag="other", key="k") == []
        assert found(store, tag="vip", limit=1, after="c") == ["b"]
        assert store.count(Query(tag="vip")) == 3
        assert [record.tags for record in store.get(["a", "d", "e"]) if record] == [tags, ("other",), ()]
        for record in store.find(Query(tag="vip", limit=2)):
            store.swap([Swap(record.id, record.rev, Change(delete=True), rev())])
        assert found(store, tag="vip") == ["a"]
        assert store.count(Query(tag="vip")) == 1

    def test_the_text_filter_finds_a_part_of_the_payload(self, store: JobStore) -> None:
        for number in range(30):
            put(store, f"j{number}", payload=b'{"order":%d,"n":"%s"}' % (number, b"x" * 200_000), tags=("few",))
        dead(store, "a", payload='{"name":"Zoë"}'.encode(), queue="bulk", key="k")
        put(store, "b", payload='{"name":"Zoë","n":1}'.encode(), tags=("few",))
        assert found(store, text="Zoë") == ["b", "a"]
        assert found(store, text='"order":7,') == ["j7"]
        assert found(store, text="zoë") == found(store, text="%") == []
        more: list[dict[str, Any]] = [{"state": JobState.DEAD}, {"queue": "bulk"}, {"key": "k"}, {"tag": "few"}]
        for filters, ids in zip(more, "aaab", strict=True):
            assert found(store, text="Zoë", **filters) == [ids]
            assert store.count(Query(text="Zoë", **filters)) == 1
        assert found(store, text="order", limit=2, after="j28") == ["j27", "j26"]
        assert store.count(Query(text="order")) == 30
        assert found(store, text="order") == [f"j{number}" for number in range(29, -1, -1)]

    def test_since_and_until_compare_the_time_of_the_enqueue(self, store: JobStore, clock: Clock) -> None:
        for number in range(40):
            put(store, f"j{number}", queue=f"q{number % 3}", delay=None if number % 2 else 1000.0)
            clock.advance(7)
        start = START + 70
        assert found(store, since=start) == [f"j{number}" for number in range(39, 9, -1)]
        assert found(store, until=start) == [f"j{number}" for number in range(9, -1, -1)]
        assert found(store, since=start, until=start + 14.5) == ["j12", "j11", "j10"]
        assert found(store, since=start + 0.5, until=start + 15, limit=1, after="j12") == ["j11"]
        assert found(store, since=start, until=start + 14.5, queue="q1", state=JobState.SCHEDULED) == ["j10"]
        assert found(store, since=start + 900) == found(store, until=START) == []
        assert store.count(Query(since=start)) == 30
        assert store.count(Query(until=start, queue="q0")) == 4
        assert store.count(Query(until=START)) == 0

    def test_since_and_until_work_although_the_clock_was_set_back(self, store: JobStore, clock: Clock) -> None:
        times: dict[str, float] = {}
        for number in range(60):
            times[put(store, f"j{number}").id] = clock.now
            clock.advance(-8 if number % 10 == 9 else 3)
        for moment in range(0, 140, 5):
            since = [job_id for job_id, at in reversed(times.items()) if at >= START + moment]
            assert found(store, since=START + moment) == since
            assert store.count(Query(until=START + moment)) == len(times) - len(since)
            assert store.count(Query(since=START + moment)) == len(since)
            later = [job_id for job_id in since if times[job_id] < START + moment + 30]
            assert store.count(Query(since=START + moment, until=START + moment + 30)) == len(later)

    def test_count_ignores_after_and_limit(self, store: JobStore) -> None:
        for name in "abc":
            put(store, name)
        assert store.count(Query(after="b", limit=1)) == 3
        assert store.count(Query()) == 3

    def test_count_within_a_time_counts_all_or_says_that_there_may_be_more(self, store: JobStore) -> None:
        for number in range(30):
            put(store, f"j{number}", payload=b'{"order":%d,"n":"%s"}' % (number % 3, b"x" * 200_000), queue="bulk")
        for query in (
            Query(),
            Query(text="order"),
            Query(text='"order":2', queue="bulk"),
            Query(state=JobState.RUNNING),
        ):
            expected = store.count(query)
            assert store.count_within(query, 60.0) == (expected, True)
            number, complete = store.count_within(query, 0.0)
            assert number == expected if complete else number <= expected


class WaitTests(Case):
    """Tests of the store's method `wait`."""

    def test_wait_returns_jobs_that_have_ended_at_once(self, store: JobStore) -> None:
        ended = {
            record.id: record
            for record in (succeeded(store), dead(store), swap(store, put(store), state=JobState.CANCELLED))
        }
        alive = put(store)
        started = time.monotonic()
        answer = store.wait([*ended, alive.id, "unknown"], LONG)
        assert {record.id: record for record in answer} == ended
        assert time.monotonic() - started < LONG

    def test_wait_returns_nothing_when_its_time_is_over(self, store: JobStore) -> None:
        running = run(store, put(store))
        started = time.monotonic()
        assert list(store.wait([running.id, "unknown"], 0.05)) == []
        assert list(store.wait([], 0.0)) == []
        assert time.monotonic() - started < LONG

    def test_wait_returns_when_a_job_ends(self, store: JobStore) -> None:
        records = [record for _ in range(30) for record in _running(store, 20)]
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


def _running(store: JobStore, count: int) -> list[Record]:
    """Insert and begin this number of jobs. Returns their records."""
    lifecycle = Lifecycle(RULES)
    new = store.insert([Insert(bare(), lifecycle.new(delay=None, expires=None), rev()) for _ in range(count)])
    change = lifecycle.begin(token=TOKEN, worker="worker", defaults={})
    begun = store.begin([Begin(record.id, record.task, change, rev()) for record in (applied([each]) for each in new)])
    return [applied([each]) for each in begun]

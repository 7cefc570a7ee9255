"""The history: what changes count, percentiles from buckets, `JobQueue.history`, and how dispatchers fold it."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from queueport import AsyncJobQueue, JobQueue, Retry, get_queue, task
from queueport.engine import dispatcher
from queueport.engine.dispatcher import Dispatcher
from queueport.engine.lifecycle import Lifecycle
from queueport.errors import ConfigurationError
from queueport.spi.history import HOUR, MINUTE, PAIRS, Before, HistoryQuery, events, start_of
from queueport.spi.record import Change
from queueport.spi.store import Insert, JobStore
from queueport.stats import BUCKETS, HistoryPoint, Percentiles
from queueport.status import JobState
from queueport.stores.sqlite.store import SqliteStore
from queueport.testing.stores.harness import bare, rev
from tests.costs import count_statements
from tests.unit.records import CANCELLED, DEAD, NOW, QUEUED, RETRYING, RULES, RUNNING, SCHEDULED, SUCCEEDED, job


@task(name="history.add", queue="sums")
def add(a: int) -> int:
    return a


@task(name="history.fail", queue="sums", retry=Retry(max_attempts=2, initial=0.0, jitter=0))
def fail() -> None:
    raise ValueError


@pytest.fixture(params=["memory://", "sqlite:///{}/jobs.db"])
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobQueue]:
    with get_queue(request.param.format(tmp_path)) as opened:
        yield opened


@pytest.mark.parametrize(
    ("was", "state", "names"),
    [
        (None, QUEUED, {"enqueued"}),
        (None, SCHEDULED, {"enqueued"}),
        (None, DEAD, {"enqueued", "dead"}),
        (QUEUED, RUNNING, {"wait11"}),
        (RUNNING, SUCCEEDED, {"succeeded", "run15"}),
        (RUNNING, DEAD, {"dead", "run15"}),
        (RUNNING, RETRYING, {"run15"}),
        (RUNNING, QUEUED, {"run15"}),
        (RUNNING, RUNNING, set()),
        (QUEUED, CANCELLED, {"cancelled"}),
        (QUEUED, None, {"cancelled"}),
        (SCHEDULED, QUEUED, set()),
        (DEAD, QUEUED, {"retried"}),
        (CANCELLED, QUEUED, {"retried"}),
        (DEAD, CANCELLED, set()),
        (SUCCEEDED, None, set()),
    ],
)
def test_a_change_of_the_state_counts(was: JobState | None, state: JobState | None, names: set[str]) -> None:
    old = None if was is None else Before(was, NOW - 1.0)
    new = None if state is None else job(state, queued_at=NOW - 0.12)
    found = events(old, new, Change(), NOW)
    assert sorted(found.split(",")) == sorted(names or {""})
    assert Counter(events(old, new, Change(failed=2), NOW).split(",")) == Counter([*names, "failed", "failed"])


def test_the_events_of_a_job_add_up_to_the_jobs_that_have_not_ended() -> None:
    chosen, sums, alive = random.Random(1), Counter[str](), 0
    for _ in range(200):
        path: list[JobState | None] = [None, *chosen.choices(list(JobState), k=5)]
        last = path[-1]
        if last is not None and last.final:  # a record that is deleted after its end changes nothing
            path.append(None)
        for was, state in itertools.pairwise(path):
            old, new = (None if each is None else job(each) for each in (was, state))
            sums.update(events(old, new, Change(), NOW).split(","))
        alive += last is not None and not last.final
    assert sums["enqueued"] + sums["retried"] - sums["succeeded"] - sums["dead"] - sums["cancelled"] == alive > 0


def test_the_script_of_redis_has_the_buckets_and_the_limit_of_python() -> None:
    prelude = (resources.files("queueport.stores.redis.lua") / "prelude.lua").read_text("utf-8")
    bounds = re.search(r"bounds or \{([^}]*)\}", prelude)
    assert bounds is not None
    assert tuple(float(bound) for bound in bounds[1].split(",") if bound.strip()) == BUCKETS
    assert f"local MINUTE, HOUR, PAIRS = {MINUTE}, {HOUR}, {PAIRS}\n" in prelude


@pytest.mark.parametrize("seed", range(5))
def test_percentiles_are_within_the_documented_error(seed: int) -> None:
    shuffle = random.Random(seed)
    times = sorted(shuffle.lognormvariate(shuffle.uniform(-3, 5), 1.5) for _ in range(1 + 300 * seed))
    buckets = Counter(sum(time > bound for bound in BUCKETS) for time in times)
    found = Percentiles.of(buckets)
    assert found.count == len(times)
    for part, estimate in ((0.5, found.p50), (0.95, found.p95), (0.99, found.p99)):
        exact = times[math.ceil(len(times) * part) - 1]
        assert estimate is not None
        assert exact / 1.6001 <= estimate <= exact * 1.6001


def test_percentiles_of_nothing_and_of_the_shortest_and_longest_times() -> None:
    assert Percentiles.of({}) == Percentiles(0, None, None, None)
    assert Percentiles.of({0: 1}) == Percentiles(1, 0.0005, 0.0005, 0.0005)
    assert Percentiles.of({len(BUCKETS): 3}) == Percentiles(3, 1e5, 1e5, 1e5)


def test_history_adds_up_what_a_worker_did(queue: JobQueue) -> None:
    assert [point.enqueued for point in queue.history()] == [0] * len(queue.history())
    queue.enqueue_many([*(add.job(n) for n in range(5)), fail.job()])
    queue.enqueue(add.using(queue="other", delay=60), 1).cancel()
    queue.worker("sums", tasks=[add, fail], threads=2, burst=True).run()
    points = queue.history(since=timedelta(hours=2))
    assert len(points) in (121, 122)
    assert [after.at - point.at for point, after in itertools.pairwise(points)] == [timedelta(minutes=1)] * (
        len(points) - 1
    )
    assert points[-1].at <= datetime.now(UTC) < points[-1].at + timedelta(minutes=2)

    def total(*filters: Any) -> tuple[int, ...]:
        found = queue.history(*filters)
        names = ("enqueued", "succeeded", "failed", "dead", "retried", "cancelled")
        return (
            *(sum(getattr(point, name) for point in found) for name in names),
            *(sum(times.count for times in kind) for kind in ([p.wait for p in found], [p.run for p in found])),
        )

    assert total() == (7, 5, 2, 1, 0, 1, 7, 7)
    assert total("sums") == (6, 5, 2, 1, 0, 0, 7, 7)
    assert total("sums", fail) == total(None, "history.fail") == (1, 0, 2, 1, 0, 0, 2, 2)
    assert total("other") == (1, 0, 0, 0, 0, 1, 0, 0)
    runs = [point.run.p50 for point in points if point.run.p50 is not None]
    assert runs
    assert all(0 < run < 5 for run in runs)


def test_stats_have_the_last_minute_and_hour(queue: JobQueue) -> None:
    queue.enqueue(add, 1)
    queue.enqueue(add.using(queue="other"), 1)
    queue.worker("sums", tasks=[add], threads=1, burst=True).run()
    stats = queue.stats()
    for point, seconds in ((stats.queues["sums"].last_minute, MINUTE), (stats.queues["sums"].last_hour, HOUR)):
        assert point is not None
        assert seconds <= point.seconds <= seconds + MINUTE
        assert (point.enqueued, point.succeeded, point.wait.count, point.run.count) == (1, 1, 1, 1)
        assert point.throughput == 1 / point.seconds
    assert (stats.last_minute.enqueued, stats.last_hour.enqueued, stats.last_hour.succeeded) == (2, 2, 1)
    assert stats.queues["never-used"].last_hour is None
    assert stats.as_dict()["queues"]["other"]["last_hour"]["enqueued"] == 1


def test_points_cover_the_time_asked_for_in_whole_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    with get_queue("memory://") as queue:
        monkeypatch.setattr(queue.operations.store, "_clock", lambda: 7230.0)
        found = queue.history(since=3600, step=1200)
        assert [(point.at.timestamp(), point.seconds) for point in found] == [
            (3600, 1200),
            (4800, 1200),
            (6000, 1200),
            (7200, 30),
        ]


def test_history_is_the_same_for_coroutines(queue: JobQueue) -> None:
    queue.enqueue(add, 1)
    found = asyncio.run(AsyncJobQueue(queue).history("sums", add, since=60, step=60))
    assert sum(point.enqueued for point in found) == 1
    assert found[-1].as_dict()["at"] == found[-1].at.isoformat()


@pytest.mark.parametrize(
    "wrong",
    [
        {"since": 0},
        {"since": "1h"},
        {"since": True},
        {"since": float("nan")},
        {"since": timedelta(days=31)},
        {"step": 0},
        {"step": 90},
        {"step": 60.5},
        {"step": "1m"},
        {"step": float("inf")},
        {"step": 10**9 * 60},
        {"since": timedelta(days=2)},
        {"since": timedelta(days=2), "step": 5400},
        {"queue": "no queue"},
        {"task": 1},
    ],
)
def test_a_wrong_argument_is_refused_before_the_store_is_asked(
    wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with get_queue("memory://") as queue:
        monkeypatch.setattr(queue.operations.store, "history", None)
        monkeypatch.setattr(queue.operations.store, "now", None)
        with pytest.raises(ConfigurationError, match=r"^[^\n]+$"):
            queue.history(**wrong)


def test_a_dispatcher_folds_the_history_about_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    with get_queue("memory://") as queue:
        calls: list[None] = []
        monkeypatch.setattr(queue.operations.store, "fold_history", lambda: calls.append(None))
        monkeypatch.setattr(dispatcher, "FOLD_EVERY", 0.0)
        loop = Dispatcher(queue.operations)
        loop.tick()
        assert len(calls) == 1
        monkeypatch.setattr(dispatcher, "FOLD_EVERY", 60.0)
        loop.tick()
        assert len(calls) == 1


def test_a_dispatcher_that_runs_for_less_than_a_minute_folds_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    with get_queue("memory://") as queue:
        calls, now = list[float](), 1000.0
        monkeypatch.setattr(queue.operations.store, "fold_history", lambda: calls.append(now))
        monkeypatch.setattr(queue.operations.runtime, "monotonic", lambda: now)
        loop = Dispatcher(queue.operations)
        for seconds in (0.0, dispatcher.SWEEP, dispatcher.FOLD_EVERY - 0.5, 0.5):
            now += seconds
            loop.tick()
        assert calls == [1000.0 + dispatcher.SWEEP, 1000.0 + dispatcher.SWEEP + dispatcher.FOLD_EVERY]


def test_a_rolled_back_transaction_of_sqlite_counts_nothing(tmp_path: Path) -> None:
    """If the write of the history fails, the change is not made either."""
    store: JobStore = SqliteStore(tmp_path / "jobs.db")
    with get_queue(f"sqlite:///{tmp_path}/jobs.db") as queue:
        queue.enqueue(add, 1)
        with sqlite3.connect(tmp_path / "jobs.db") as db:
            db.execute("CREATE TRIGGER stop BEFORE UPDATE ON queueport_history BEGIN SELECT raise(ABORT, 'no'); END")
        db.close()
        with pytest.raises(Exception, match="no"):
            queue.enqueue(add, 2)
        assert queue.stats().totals.queued == 1
        start = start_of(MINUTE, store.now())
        (found,) = store.history(HistoryQuery(start - HOUR, start + HOUR, 2 * HOUR))
        assert found.counts == {"enqueued": 1}
    store.close()


def test_sqlite_does_not_look_for_a_place_again_when_none_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = Lifecycle(RULES).new(delay=None, expires=None)
    with count_statements(monkeypatch) as found:
        store = SqliteStore(tmp_path / "jobs.db", clock=lambda: NOW)
        store.insert([Insert(bare(task=f"app.{n}"), new, rev()) for n in range(PAIRS + 1)])
        found.clear()
        store.insert([Insert(bare(task=f"more.{n}"), new, rev()) for n in range(20)])
        assert found["INSERT"] > 20
        assert found["SELECT"] == 0
        start = start_of(MINUTE, NOW)
        query = HistoryQuery(start, start + MINUTE, MINUTE)
        assert {one.queue: one.counts["enqueued"] for one in store.history(query)} == {"default": PAIRS, "": 21}
        store.close()


def test_a_point_without_a_length_has_no_throughput() -> None:
    assert HistoryPoint(datetime.now(UTC), 0.0, succeeded=1).throughput == 0.0

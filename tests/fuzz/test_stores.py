"""Damaged records, documents, workers and histories in a store: documented errors only, and the other jobs run.

Each example damages some rows of SQLite or keys of Redis, as a broken disk, another program or an attacker would.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from queueport import JobQueue, JobState, get_queue, task
from queueport.errors import QueueportError
from queueport.spi.settings import read
from queueport.spi.url import BackendURL
from queueport.stats import WorkerStats
from queueport.stores.redis.store import RedisStore
from queueport.testing.waiting import eventually
from tests.fuzz.values import EXAMPLES, SPECIAL, fuzzed, texts
from tests.mutants.wire import WireTransport
from tests.servers import redis_server


@task(name="fuzz.stored")
def stored(number: int) -> int:
    return number


@task(name="fuzz.refused", queue="default")
def refused(number: int) -> None:
    raise ValueError(number)


class Damage(Protocol):
    """Changes a value in a store. `place` chooses which; `value` is the new value."""

    def __call__(self, place: int, value: Any) -> None: ...


@contextmanager
def sqlite(folder: Path, sums: bool) -> Iterator[tuple[JobQueue, Damage]]:
    """With `sums`, the numbers that the store keeps for its statistics are damaged too."""
    path = folder / f"{uuid.uuid4().hex}.db"

    def damage(place: int, value: Any) -> None:
        with closing(sqlite3.connect(path)) as db, db:
            tables = ["jobs"] * 12 + ["documents"] * 3 + ["workers", "history"] + sums * ["counts", "meta"]
            table = f"queueport_{tables[place % len(tables)]}"
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[1] not in ("seq", "id", "n")]
            column = columns[place % len(columns)]
            rows = "WHERE id LIKE 'bad-%'" if table.endswith("jobs") else ""
            with suppress(sqlite3.IntegrityError, OverflowError, UnicodeEncodeError):
                db.execute(f'UPDATE {table} SET "{column}" = ? {rows}', (value,))

    with get_queue(f"sqlite:///{path}") as queue:
        yield queue, damage


@contextmanager
def redis(_: Path, sums: bool) -> Iterator[tuple[JobQueue, Damage]]:
    server = redis_server().url
    namespace = f"fuzz_{uuid.uuid4().hex[:12]}"
    url, values = read(f"wire://{namespace}?namespace={namespace}", {})
    client = Redis.from_url(server)
    store = RedisStore.open(BackendURL(server), namespace=namespace, call_timeout=5.0)

    def damage(place: int, value: Any) -> None:
        names = sorted(client.scan_iter(f"{{{namespace}}}:*", 1000))
        assert names
        kinds = [name for name in names if b":job:" not in name or b":job:bad" in name]
        kinds = [name for name in kinds if sums or not name.endswith((b":counts", b":counters"))]
        name = kinds[place % len(kinds)]
        data = value.encode(errors="surrogatepass") if isinstance(value, str) else str(value).encode()
        if client.type(name) == b"hash":
            fields = sorted(client.hkeys(name))
            client.hset(name, fields[place % len(fields)], value if isinstance(value, bytes) else data)

    with closing(client):
        try:
            with JobQueue(url, values, WireTransport.open(url, values, store), store) as queue:
                yield queue, damage
        finally:
            names = list(client.scan_iter(f"{{{namespace}}}:*", 1000))
            if names:
                client.delete(*names)


values = st.one_of(
    st.sampled_from(SPECIAL),
    texts,
    st.binary(max_size=8),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.sampled_from(["running", "dead", "queued", "scheduled", '{"a": 1}', "[1]", "-1", "1e308", "nan", "9" * 30]),
)


def calls(queue: JobQueue) -> list[Callable[[], object]]:
    """What an app, an operator and the dashboard call."""
    bad = "bad-0"
    return [
        queue.stats,
        queue.jobs,
        lambda: queue.jobs(state=JobState.DEAD),
        lambda: queue.jobs(queue="default", task=stored, after="bad-1"),
        queue.paused,
        queue.history,
        queue.check,
        queue.dead_letters.list,
        queue.dead_letters.count,
        queue.schedules.list,
        lambda: queue.schedules.get("nightly"),
        lambda: queue.schedules.run_now("nightly"),
        lambda: queue.status(bad),
        lambda: queue.result(bad, 0.0),
        lambda: queue.retry(bad),
        lambda: queue.cancel(bad),
        lambda: queue.dead_letters.discard("bad-2"),
        lambda: queue.enqueue(stored.using(key="held"), 9),
        lambda: queue.operations.dispatch(100),
        lambda: queue.resume("idle"),
        lambda: queue.purge("idle"),
    ]


def fill(queue: JobQueue) -> None:
    """Make jobs, a schedule and a pause, which are to be damaged."""
    victims = [stored.using(job_id="bad-0", key="held"), stored.using(job_id="bad-1", delay=60)]
    queue.enqueue_many(victim.job(number) for number, victim in enumerate([*victims, stored.using(job_id="bad-3")]))
    queue.dead_letters.add(refused.using(job_id="bad-2").job(2), "kept")
    queue.schedules.add("nightly", stored.job(1), cron="0 3 * * *")
    queue.pause("idle", reason="a test")
    queue.operations.store.announce(WorkerStats("there", ("default",), ("fuzz.stored",), datetime.now(UTC)), 60.0)


damages = st.lists(st.tuples(st.integers(0, 10_000), values), min_size=1, max_size=4)


@pytest.mark.parametrize("store", [sqlite, redis])
@given(damages)
@settings(fuzzed, max_examples=max(10, EXAMPLES // 6))
def test_other_jobs_run_whatever_damaged_records_and_documents_contain(
    store: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, damages: list[tuple[int, Any]]
) -> None:
    caplog.clear()
    with store(tmp_path, sums=False) as (queue, damage):
        fill(queue)
        for place, value in damages:
            damage(place, value)
        for call in calls(queue):
            with suppress(QueueportError):
                call()
        good = [queue.enqueue(stored, number) for number in range(3)]
        with queue.worker("default", tasks=[stored, refused], threads=2):
            eventually(lambda: all(job.status().finished for job in good), 20, lambda: caplog.text)
        assert [job.result(1) for job in good] == [0, 1, 2]
    assert "unexpected error" not in caplog.text


@pytest.mark.parametrize("store", [sqlite, redis])
@given(damages)
@settings(fuzzed, max_examples=EXAMPLES // 2)
def test_calls_raise_only_errors_of_queueport_whatever_a_store_contains(
    store: Any, tmp_path: Path, damages: list[tuple[int, Any]]
) -> None:
    with store(tmp_path, sums=True) as (queue, damage):
        fill(queue)
        for place, value in damages:
            damage(place, value)
        for call in calls(queue):
            with suppress(QueueportError):
                call()

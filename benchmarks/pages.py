"""Measure the pages of the dashboard and the endpoints: `python -m benchmarks.pages URL [--records N]`.

The store behind the URL gets N records of all states and a history of 30 days, unless it has them already. They stay
there, so use a private server, such as `dramatiq+redis://localhost:6399/0`, or a new file, such as `sqlite:///pages.db`.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from urllib.parse import quote

from starlette.testclient import TestClient

from benchmarks.scale import QUEUES, TASKS, mixed, new, noop
from queueport import JobQueue, get_queue
from queueport.spi.history import HOUR, KEEP_HOURS, KEEP_MINUTES, MINUTE, start_of
from queueport.stats import WorkerStats
from queueport.status import JobState
from queueport.stores.redis.store import RedisStore
from queueport.stores.sqlite.store import SqliteStore
from queueport.web import Endpoints
from queueport.web.dashboard import dashboard_app, sources

PAGE, SCRAPE = 100.0, 10.0
"""The highest acceptable milliseconds for a page, and for a scrape."""
TIMES = 9
"""How often each page is read. The table has the time of the processor of the first reading, and the lowest one of the
later readings, which other programs of the machine do not change much. The targets are for the latter.
"""
NAMES = ["enqueued", *(f"wait{n}" for n in range(5, 10)), *(f"succeeded,run{n}" for n in range(5, 10)), "failed,run3"]
"""The names of the numbers of one queue and task in one interval of the history."""


def fill(queue: JobQueue, count: int) -> None:
    """Insert this number of records. One of ten has a tag, and one of a hundred a key."""
    for start in range(0, count, 500):
        inserts = [new(queue, state) for state in mixed(min(500, count - start))]
        for place in range(0, len(inserts), 10):
            record = replace(inserts[place].record, tags=(f"import-{random.randrange(3)}",))
            record = replace(record, key=f"order-{start + place}") if place % 100 == 0 else record
            inserts[place] = replace(inserts[place], record=record)
        queue.operations.store.insert(inserts)


def intervals(now: float) -> Iterator[tuple[int, int]]:
    """The length and the start of each interval that a history can have, apart from those of the last hour."""
    for step, keep, until in ((MINUTE, KEEP_MINUTES, HOUR), (HOUR, KEEP_HOURS, KEEP_MINUTES + HOUR)):
        for at in range(start_of(step, now - keep) + step, start_of(step, now - until), step):
            yield step, at


def add_history(queue: JobQueue) -> None:
    """Write a history of 30 days into the tables or keys of the store."""
    store, pairs = queue.operations.store, [(name, task) for name in QUEUES for task in TASKS]
    if isinstance(store, SqliteStore):
        with store.database.write() as tables:
            name = tables.name_of("history")
        rows = [
            (step, at, *pair, name, random.randrange(1, 99))
            for step, at in intervals(time.time())
            for pair in pairs
            for name in NAMES
        ]
        with closing(sqlite3.connect(store.database.path)) as database, database:
            database.executemany(f'INSERT OR REPLACE INTO "{name}" VALUES (?, ?, ?, ?, ?, ?)', rows)  # noqa: S608
    elif isinstance(store, RedisStore):
        for step, at in intervals(time.time()):
            fields = [b"places", b"%d" % len(pairs)]
            for pair in map(":".join, pairs):
                fields += [b":" + pair.encode(), b"1"]
                for name in NAMES:
                    fields += [f"{name}:{pair}".encode(), b"%d" % random.randrange(1, 99)]
            listed = store.prefix + b"history:%d" % step
            store.redis.ask([(b"HSET", b"%s:%d" % (listed, at), *fields), (b"ZADD", listed, b"%d" % at, b"%d" % at)])
    else:
        raise SystemExit("only the histories of SQLite and Redis can be written")


def measurements(queue: JobQueue, client: TestClient) -> Iterator[tuple[str, float, Callable[[], object]]]:
    """What is measured: its name, the highest acceptable milliseconds, and the call."""

    def read(path: str) -> None:
        response = client.get(path)
        assert response.status_code == 200, f"{path}: {response.text}"

    job_id = queue.jobs(JobState.DEAD, limit=1)[0].id
    filters = [f"state={state.value}" for state in JobState] + [
        "queue=bulk",
        f"task={TASKS[3]}",
        f"state=dead&queue=bulk&task={TASKS[3]}",
        "error=Rejected",
        "error=never.Seen",
        "tag=import-1",
        "tag=import-1&state=dead&queue=bulk",
        "key=order-0",
        "since=1m",
        "since=1h",
        "until=1h",
        "state=dead&until=1m",
        f"text={quote('welcome')}",
        "text=never-seen",
    ]
    paths = ["/", "/audit", "/main/jobs", *(f"/main/jobs?{each}" for each in filters), f"/main/jobs/{job_id}"]
    paths += [f"/main/history?span={span}" for span in ("hour", "day", "month")]
    paths += ["/main/history?span=day&queue=bulk", "/main/history?span=month&queue=bulk"]
    paths += [
        f"/main/actions/retry-all?{each}" for each in ("state=dead", "error=Rejected", "tag=import-1", "since=1h")
    ]
    for path in paths:
        yield path, PAGE, partial(read, path)
    endpoints = Endpoints(queue=queue)
    yield "endpoint /metrics", SCRAPE, endpoints.metrics
    yield "endpoint /health/jobs", SCRAPE, endpoints.jobs_health
    yield "endpoint /readyz", SCRAPE, endpoints.ready
    yield "endpoint /jobs/{job_id}/status", SCRAPE, lambda: endpoints.job_status(job_id)


def main() -> None:
    """Fill the store, if necessary, and print the table."""
    parser = argparse.ArgumentParser(description="Measure the pages of the dashboard and the endpoints.")
    parser.add_argument("url", help="the URL of a private store")
    parser.add_argument("--records", default=1_000_000, type=int, help="the number of records (default: 1,000,000)")
    parser.add_argument("--only", default="", help="measure only what has this text in its name")
    given = parser.parse_args()
    sources.FRESH = sources.SCHEDULES_EVERY = 0.0  # measure each page as if no other page had just been read
    with get_queue(given.url, namespace="pages", call_timeout=60) as queue:
        queue.setup("default", *QUEUES)
        present = queue.count()
        if present < given.records:
            fill(queue, given.records - present)
            add_history(queue)
            for number in range(10):
                queue.schedules.add(f"hourly-{number}", noop.job(number), every=3600)
        for number in range(20):
            worker = WorkerStats(f"host-{number}", QUEUES, TASKS, datetime.now(UTC))
            queue.operations.store.announce(worker, 3600.0)
        client = TestClient(dashboard_app({"main": queue}, allow_actions=True), "http://localhost", client=("::1", 1))
        print(f"Overview, first: {measured(queue, partial(client.get, '/'))[1]:.1f} ms of the processor")
        reading = processor_seconds(queue)
        for thread in threading.enumerate():  # after the first overview, one reads the numbers of the charts
            if thread.name == "queueport-dashboard":
                thread.join()
        print(f"Preparing the charts: {(processor_seconds(queue) - reading) * 1000:.0f} ms of the processor")
        print(f"| milliseconds with {queue.count():,} records | processor, first | later | elapsed | target |")
        print("| --- | --- | --- | --- | --- |")
        for name, target, call in measurements(queue, client):
            if given.only in name:
                took = [measured(queue, call) for _ in range(TIMES)]
                elapsed, later = (min(each) for each in zip(*took[1:], strict=True))
                figures = f"{took[0][1]:.1f} | {later:.1f} | {elapsed:.1f}"
                print(f"| `{name}` | {figures} | {mark(later, target)} |", flush=True)


def measured(queue: JobQueue, call: Callable[[], object]) -> tuple[float, float]:
    """The duration of a call, and the time of the processor that this process and the server used, in milliseconds."""
    used, started = processor_seconds(queue), time.perf_counter()
    call()
    took = time.perf_counter() - started
    return took * 1000, (processor_seconds(queue) - used) * 1000


def processor_seconds(queue: JobQueue) -> float:
    """The time of the processor that this process, and the Redis server of the store, have used."""
    store, server = queue.operations.store, 0.0
    if isinstance(store, RedisStore):
        (answer,) = store.redis.ask([(b"INFO", b"cpu")])
        fields = dict(line.split(b":") for line in answer.splitlines() if b":" in line)
        server = float(fields[b"used_cpu_user"]) + float(fields[b"used_cpu_sys"])
    return time.process_time() + server


def mark(took: float, target: float) -> str:
    """The target, in bold face if it is missed."""
    return f"≤ {target:g}" if took <= target else f"**≤ {target:g}**"


if __name__ == "__main__":
    main()

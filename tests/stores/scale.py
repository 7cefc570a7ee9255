"""How fast the SQLite store is with a million records in it: `PYTHONPATH=src python tests/stores/scale.py [RECORDS]`.

For those who change an index or a statement. Each line is the median and the slowest of the calls.
"""

# ruff: noqa: T201  # a script prints

import itertools
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from queueport import lifecycle
from queueport.lifecycle import Rules
from queueport.record import Change, Record
from queueport.status import JobError, JobState
from queueport.store import Insert, Query, Swap
from queueport.stores.sqlite import SqliteStore

RULES = Rules(carries=False)
QUEUES = ("default", "emails", "bulk")
TASKS = tuple(f"app.tasks.task{n}" for n in range(10))
ERRORS = ("builtins.ValueError", "app.errors.Rejected", "http.client.IncompleteRead")
SHARES = {"succeeded": 0.6, "dead": 0.2, "queued": 0.1, "scheduled": 0.05, "retrying": 0.03, "cancelled": 0.02}
numbers = itertools.count()


def record(state: str, **more: Any) -> Record:
    """A job as producers make them, ids in the order of their times."""
    job_id = f"{next(numbers):012x}{random.getrandbits(80):020x}"
    queue, task = random.choice(QUEUES), random.choice(TASKS)
    return Record(job_id, task, queue, b'{"args":[42,"welcome"],"kwargs":{}}' * 4, JobState(state), **more)


def change(state: str, now: float) -> Change:
    """What brings a new job straight into that state."""
    if state == "queued":
        return lifecycle.new(RULES, delay=None, expires=None)
    if state == "scheduled":
        return lifecycle.new(RULES, delay=random.uniform(3600, 86_400), expires=None)
    found = {"state": JobState(state), "started_at": now, "attempts": 1}
    if state in ("dead", "retrying"):
        at = datetime.fromtimestamp(now, UTC)
        found["errors"] = (JobError(random.choice(ERRORS), "it was refused", "Traceback ..." * 20, at, 1),)
    if JobState(state).final:
        found["finished_at"] = now - random.uniform(0, 86_400)
    return Change(found, {"enqueued_at": 0.0, "wake_at": random.uniform(3600, 86_400)}, 1)


def fill(store: SqliteStore, total: int) -> None:
    """That many records, in batches."""
    started = time.perf_counter()
    for start in range(0, total, 1000):
        now = time.time()
        states = random.choices(list(SHARES), list(SHARES.values()), k=min(1000, total - start))
        store.insert([Insert(record(state), change(state, now), "r") for state in states])
    print(f"filled with {total} records: {total / (time.perf_counter() - started):.0f}/s")


def timed(name: str, call: Callable[[], Any], times: int = 20) -> None:
    """Print how long a call takes."""
    took = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        took.append((time.perf_counter() - started) * 1000)
    print(f"{name:42} {median(took):9.3f} ms  {max(took):9.3f} ms")


def searched(store: SqliteStore, query: Query) -> None:
    """Print how long it takes to find the newest hundred, and to count all."""
    filters = ", ".join(f.name for f in fields(query) if getattr(query, f.name) != f.default)
    timed(f"find 100 by {filters}", partial(store.find, query))
    timed(f"count by {filters}", partial(store.count, query))


def finish(store: SqliteStore) -> None:
    """Take eight jobs and end them."""
    begin = lifecycle.begin(RULES, token="t", worker="w", defaults={})
    jobs = store.take(QUEUES, dict.fromkeys(TASKS, begin), 8, "r1")
    done = [
        (job, lifecycle.finish(RULES, job, token="t", outcome=lifecycle.Succeeded(b"1"), random=0.5)) for job in jobs
    ]
    store.swap([Swap(job.id, "r1", ended, "r2") for job, ended in done if isinstance(ended, Change)])


def main(total: int, path: Path) -> None:
    """Fill a file and time each verb."""
    store = SqliteStore(path)
    fill(store, total)
    dead = Query(JobState.DEAD, limit=100)
    middle = store.find(Query(JobState.DEAD, limit=total))[total // 10].id
    cutoff = store.now() - 80_000
    print(f"{path.stat().st_size / 2**20:.0f} MiB")
    timed("stats", store.stats)
    timed("get", lambda: store.get([middle]))
    timed("claim_due, idle", lambda: store.claim_due(100, 10, "r"))
    timed("take of a task that has none", lambda: store.take(QUEUES, {"none": Change()}, 8, "r"))
    timed("take 8 and finish 8", lambda: finish(store), 200)
    timed(
        "insert 100", lambda: store.insert([Insert(record("queued"), change("queued", 0), "r") for _ in range(100)]), 50
    )
    for query in (Query(JobState.SUCCEEDED), Query(queue="bulk"), Query(task=TASKS[3]), Query(error="ValueError")):
        searched(store, query)
    timed("find 100, all", lambda: store.find(Query()))
    timed("find 100 dead", lambda: store.find(dead))
    timed("find 100 dead after the middle one", lambda: store.find(Query(JobState.DEAD, after=middle)))
    for query in (
        Query(JobState.DEAD, "bulk"),
        Query(JobState.DEAD, "bulk", TASKS[3]),
        Query(JobState.DEAD, error="app.errors.Rejected"),
        Query(JobState.DEAD, error="never.Seen"),
        Query(JobState.DEAD, "bulk", error="Rejected"),
        Query(JobState.DEAD, finished_before=cutoff),
        Query(JobState.DEAD, "bulk", finished_before=0.0),
    ):
        searched(store, query)
    timed("overflow beyond 1000", lambda: store.overflow(JobState.SUCCEEDED, 1000, 100))
    timed("unreceived", lambda: store.unreceived("bulk", 0, store.now(), 100))
    timed("unknown", lambda: store.unknown(QUEUES, TASKS, 100))
    timed("check", store.check, 3)
    store.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, Path(folder, "scale.db"))

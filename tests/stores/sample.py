"""Prints a sample database of the current version as SQL: `PYTHONPATH=src python -m tests.stores.sample`.

Run it before you raise the version of the SQLite tables, and keep its output in samples/.
"""

# ruff: noqa: T201  # a script may print

import sqlite3
import tempfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from queueport.stats import WorkerStats
from queueport.stores.sqlite.store import SqliteStore
from queueport.testing.stores.harness import START, Clock, dead, put, retrying, run, succeeded


def main(path: Path) -> None:
    """Write a job in each state except `cancelled`, and a worker."""
    store = SqliteStore(path, clock=Clock())
    put(store, "queued", headers={"trace": "ü"}, options={"timeout": 1.5}, payload=b"\0\xff", key="k")
    put(store, "scheduled", delay=50.0)
    run(store, put(store, "running"))
    retrying(store, "retrying")
    succeeded(store, "succeeded")
    dead(store, "dead")
    now = datetime.fromtimestamp(START, UTC)
    store.announce(WorkerStats("worker", ("default",), ("app.send",), now), 1000.0)
    store.close()
    with closing(sqlite3.connect(path)) as db:
        print("\n".join(db.iterdump()))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder, "sample.db"))

"""How fast jobs are enqueued and run on the SQLite backend: `python benchmarks/throughput.py [JOBS]`.

Prints jobs a second for `enqueue_many` and for a worker of two processes with four threads each, and checks that every
job succeeded, that the stats are exact and that the database is whole. Run it on a quiet machine.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from benchmark_tasks import add
from queueport import JobQueue, get_queue


def main(jobs: int) -> None:
    """Enqueue, run, check."""
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder, "jobs.db")
        with get_queue(f"sqlite:///{database}") as queue:
            started = time.perf_counter()
            queue.enqueue_many(add.job(number, 1) for number in range(jobs))
            enqueued = time.perf_counter()
            queue.worker(threads=4, processes=2, burst=True).run()
            ended = time.perf_counter()
            check(queue, jobs)
        whole = sqlite3.connect(database).execute("PRAGMA integrity_check").fetchone()[0]
    print(f"enqueue_many  {jobs / (enqueued - started):8.0f} jobs/s  ({enqueued - started:.1f} s)")
    print(f"2 x 4 workers {jobs / (ended - enqueued):8.0f} jobs/s  ({ended - enqueued:.1f} s)")
    print(f"{jobs} succeeded, stats exact, integrity_check {whole}")


def check(queue: JobQueue, jobs: int) -> None:
    """Raise SystemExit where a count is off."""
    stats = queue.stats()
    found = (stats.totals.succeeded, stats.totals.total, stats.processed, stats.failed)
    if found != (jobs, jobs, jobs, 0):
        raise SystemExit(f"the stats are wrong: {stats}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)

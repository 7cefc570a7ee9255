"""One program for every backend: only the URL changes. `python 04_swap_backend.py [URL]` (default: memory://) prints:

job          state       attempts  result or error
sum          succeeded          1  5
flaky        succeeded          3  succeeded at attempt 3
report       succeeded          4  2
later        scheduled          0  None
unwanted     cancelled          0  cancelled
hopeless     dead               3  FileNotFoundError
scheduled 1, queued 0, running 0, retrying 0, succeeded 3, dead 1, cancelled 1
6 jobs ended, 8 attempts failed
"""

import os
import secrets
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from queueport import CancelOutcome, JobQueue, JobState, get_queue
from tasks import add, count_lines, flaky

URL = sys.argv[1] if len(sys.argv) > 1 else "memory://"
os.environ.setdefault("QUEUEPORT_NAMESPACE", f"swap_{secrets.token_hex(4)}")  # each run has its own namespace


def work(queue: JobQueue) -> None:
    """Run jobs in this process until none is queued or waits for a retry. Every backend supports this."""
    while (totals := queue.stats().totals).queued + totals.retrying > 0:
        queue.worker(threads=2, burst=True).run()


def main(queue: JobQueue, folder: Path) -> None:
    """Enqueue jobs that succeed, fail, wait or are cancelled; run them; retry a dead one; check states and counts."""
    report = folder / "report.txt"
    jobs = queue.enqueue_many(
        [
            add.using(job_id="sum").job(2, 3),
            flaky.using(job_id="flaky").job(2),
            count_lines.using(job_id="report").job(str(report)),
            add.using(job_id="later", delay=3600).job(1, 1),
            add.using(job_id="unwanted").job(0, 0),
            count_lines.using(job_id="hopeless").job(str(folder / "nowhere.txt")),
        ]
    )
    assert [job.id for job in jobs] == ["sum", "flaky", "report", "later", "unwanted", "hopeless"]
    assert jobs[4].cancel() is CancelOutcome.CANCELLED
    work(queue)
    assert {status.id for status in queue.dead_letters.list()} == {"report", "hopeless"}

    report.write_text("all\nwell\n")
    queue.dead_letters.retry("report")
    work(queue)

    print(f"{'job':12} {'state':10} {'attempts':>9}  result or error")
    for status in (job.status() for job in jobs):
        outcome = status.error.type if status.error is not None else status.reason or status.result
        print(f"{status.id:12} {status.state:10} {status.attempts:9}  {outcome}")

    assert [job.status().attempts for job in jobs] == [1, 3, 4, 0, 0, 3]
    stats = queue.stats()
    counts = {state: getattr(stats.totals, state) for state in JobState}
    assert counts == dict.fromkeys(JobState, 0) | {"scheduled": 1, "succeeded": 3, "dead": 1, "cancelled": 1}
    assert (stats.processed, stats.failed) == (6, 8)
    print(", ".join(f"{state} {count}" for state, count in counts.items()))
    print(f"{stats.processed} jobs ended, {stats.failed} attempts failed")


with TemporaryDirectory() as place, get_queue(URL) as opened:
    main(opened, Path(place))

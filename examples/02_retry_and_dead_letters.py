"""A failing job is retried and, after its last attempt, is dead. An operator can then retry it. This prints:

flaky: succeeded at attempt 3, with 2 errors in its history
count_lines: dead after 3 attempts: FileNotFoundError
dead letters: 1, with this task and error: 1
retried by hand: 2 lines, same job: True, attempt 4
stats: 2 succeeded, 0 dead; 5 attempts failed
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from queueport import get_queue
from queueport.errors import JobFailed
from tasks import count_lines, flaky

with TemporaryDirectory() as folder, get_queue("memory://") as queue, queue.worker():
    job = queue.enqueue(flaky, 2)
    print(f"flaky: {job.result(timeout=10)}, with {len(job.status().errors)} errors in its history")

    letter = Path(folder, "letter.txt")
    failing = queue.enqueue(count_lines, str(letter))
    try:
        failing.result(timeout=10)
    except JobFailed as failed:
        kind = failed.error.type if failed.error is not None else ""
        print(f"count_lines: {failing.status().state} after {failing.status().attempts} attempts: {kind}")

    similar = queue.dead_letters.list(task=count_lines.name, error="FileNotFoundError")
    print(f"dead letters: {queue.dead_letters.count()}, with this task and error: {len(similar)}")

    letter.write_text("Dear reader,\nall is well.\n")
    retried = queue.dead_letters.retry(failing.id)
    lines, attempt = retried.result(timeout=10), retried.status().attempts
    print(f"retried by hand: {lines} lines, same job: {retried.id == failing.id}, attempt {attempt}")

    stats = queue.stats()
    print(f"stats: {stats.totals.succeeded} succeeded, {stats.totals.dead} dead; {stats.failed} attempts failed")

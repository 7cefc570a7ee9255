"""Jobs that fail are tried again, and given up at last; then a person takes over. This prints:

flaky: succeeded at attempt 3, with 2 errors in its history
count_lines: dead after 3 attempts: FileNotFoundError
dead letters: 1, and a list of those with that error: 1
mended and retried: 2 lines, the same job again: True, attempt 4
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
    job2 = queue.enqueue(count_lines, str(letter))
    try:
        job2.result(timeout=10)
    except JobFailed as failed:
        kind = failed.error.type if failed.error is not None else ""
        print(f"count_lines: {job2.status().state} after {job2.status().attempts} attempts: {kind}")

    alike = queue.dead_letters.list(task=count_lines.name, error="FileNotFoundError")
    print(f"dead letters: {queue.dead_letters.count()}, and a list of those with that error: {len(alike)}")

    letter.write_text("Dear reader,\nall is well.\n")
    revived = queue.dead_letters.retry(job2.id)
    lines, attempt = revived.result(timeout=10), revived.status().attempts
    print(f"mended and retried: {lines} lines, the same job again: {revived.id == job2.id}, attempt {attempt}")

    stats = queue.stats()
    print(f"stats: {stats.totals.succeeded} succeeded, {stats.totals.dead} dead; {stats.failed} attempts failed")

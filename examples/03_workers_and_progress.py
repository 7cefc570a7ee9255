"""Run a worker process, show progress, cancel a job, stop the worker. `python 03_workers_and_progress.py` prints:

workers: 1, on queue default
resize is running: more than 10 of 40 photos are done
result: 40
cancel of a running job: requested, and then it is cancelled
stopped with 2 jobs running and 1 waiting: exit code 0; succeeded, succeeded, queued
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from queueport import JobHandle, get_queue
from tasks import resize


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true, for at most 20 seconds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the condition is still false after 20 s"
        time.sleep(0.02)


def photos_done(job: JobHandle[int]) -> float:
    """The progress that the task reported last."""
    progress = job.status().progress
    return 0 if progress is None else progress.current


with TemporaryDirectory() as folder, get_queue(f"sqlite:///{folder}/jobs.db") as queue:
    command = [sys.executable, "-m", "queueport", "worker", "tasks", "--url", queue.url, "--threads", "2"]
    with subprocess.Popen(command, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL) as worker:
        wait_until(lambda: len(queue.stats().workers) == 1)
        print(f"workers: 1, on queue {', '.join(queue.stats().workers[0].queues)}")

        job = queue.enqueue(resize, 40)
        wait_until(lambda: photos_done(job) > 10)
        print(f"resize is {job.status().state}: more than 10 of 40 photos are done")
        print("result:", job.result(timeout=20))

        endless = queue.enqueue(resize, 100_000)
        wait_until(lambda: photos_done(endless) > 0)
        outcome = endless.cancel()
        wait_until(lambda: endless.status().finished)
        print(f"cancel of a running job: {outcome.value}, and then it is {endless.status().state}")

        jobs = queue.enqueue_many([resize.job(20), resize.job(20), resize.job(20)])
        wait_until(lambda: queue.stats().totals.running == 2)
        worker.terminate()
        code = worker.wait(timeout=20)
        states = ", ".join(job.status().state for job in jobs)
        print(f"stopped with 2 jobs running and 1 waiting: exit code {code}; {states}")

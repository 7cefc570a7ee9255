"""The task of `test_limits`. Worker processes import this module."""

from __future__ import annotations

import os
import time

from queueport import current_job, task
from queueport.testing.chaos.ledger import Ledger

CONCURRENCY = 4
SECONDS = 0.005


@task(concurrency=CONCURRENCY, crash_limit=1_000_000)
def limited() -> None:
    """Write the begin and the end of the run to the ledger."""
    job_id, attempt = current_job().id, current_job().attempt
    run = {"run": f"{job_id} {attempt}", "job": job_id, "attempt": attempt, "pid": os.getpid()}
    ledger = Ledger.here()
    ledger.write("begin", **run)
    try:
        time.sleep(SECONDS)
    finally:  # also if the run is interrupted, because its lease was lost
        ledger.write("end", **run)

"""A producer process: `python -m queueport.testing.chaos.producer LEASE`. The run starts it and tells it what to do.

Each line on standard input names the first and the last number of the jobs to enqueue. The producer writes to the
ledger what it offers, and then what it was told.
"""

from __future__ import annotations

import sys

from queueport import get_queue
from queueport.errors import BackendUnavailable
from queueport.testing.chaos import tasks
from queueport.testing.chaos.ledger import Ledger

__all__ = ["main"]


def main() -> None:
    """Enqueue the jobs that standard input names, until it is closed."""
    lease, ledger = float(sys.argv[1]), Ledger.here()
    with get_queue() as queue:
        for line in sys.stdin:
            first, last = map(int, line.split())
            jobs = [tasks.job(number, lease) for number in range(first, last + 1)]
            ledger.write("offered", jobs=[job.id for job in jobs])
            try:
                queue.enqueue_many(jobs)
            except BackendUnavailable as error:
                ledger.write("accepted", jobs=error.accepted)
                ledger.write("rejected", jobs=error.rejected)
                ledger.write("unknown", jobs=error.unknown)
            else:
                ledger.write("accepted", jobs=[job.id for job in jobs])


if __name__ == "__main__":
    main()

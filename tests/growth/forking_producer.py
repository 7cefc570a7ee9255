"""A producer that forks many children one after the other; each enqueues a job. For `test_producer`.

    python -m tests.growth.forking_producer FORKS

It prints its own size, in the words of /proc, after a tenth of the forks and after all.
"""

from __future__ import annotations

import os
import sys

from queueport import get_queue
from queueport.testing.tasks import echo


def main(forks: int) -> None:
    with get_queue() as queue:
        queue.enqueue(echo, 0)
        for number in range(1, forks + 1):
            pid = os.fork()
            if pid == 0:
                queue.enqueue(echo, number)
                os._exit(0)  # as the child processes of servers and of multiprocessing end
            if os.waitpid(pid, 0)[1] != 0:
                sys.exit(f"child {number} failed")
            if number in (forks // 10, forks):
                queue.enqueue(echo, number)
                sys.stdout.write(f"after {number}\n")
                sys.stdout.flush()
                sys.stdin.readline()  # the test measures


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""One process of a worker of several: `python -m queueport.child FD`, started by the supervisor and by nobody else.

Its first line of standard input is its configuration as JSON; the line `stop` ends it gracefully, and the end of its
input, which is the end of its parent, at once.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import sys
import threading
from typing import IO, Any

from queueport.cli.logs import set_up
from queueport.connect import get_queue
from queueport.errors import QueueportError
from queueport.supervisor import CANNOT_START
from queueport.tasks import registry
from queueport.worker import Worker


def main() -> None:
    """Run until told to stop."""
    told = os.fdopen(0, "rb", buffering=0, closefd=False)  # a lock of a buffer would be held while this process ends
    report = os.fdopen(int(sys.argv[1]), "wb", buffering=0)
    os.set_blocking(report.fileno(), False)  # nobody reads it before this process has ended
    spec: dict[str, Any] = json.loads(told.readline())
    sys.path[:] = spec["path"]
    set_up(spec["log_level"], spec["log_format"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the parent too, which says when to stop
    try:
        for module in spec["modules"]:
            importlib.import_module(module)
        queue = get_queue(spec["url"], **spec["settings"])
        tasks = [task for name in spec["tasks"] if (task := registry.get(name)) is not None]
        worker = queue.worker(*spec["queues"], tasks=tasks, **spec["options"])
    except (QueueportError, ImportError) as error:
        logging.getLogger("queueport").critical("the worker process cannot start: %s", error)
        sys.exit(CANNOT_START)
    threading.Thread(target=_listen, args=(told, worker), name="queueport-parent", daemon=True).start()
    stuck = worker.run_process()
    for attempt in stuck:
        report.write(json.dumps(attempt).encode() + b"\n")
    if not worker.idle:  # threads that cannot be stopped must not hold up the exit
        logging.shutdown()
        sys.stdout.flush()
        os._exit(1 if stuck else 0)


def _listen(told: IO[bytes], worker: Worker) -> None:
    for line in told:
        if line.strip() == b"stop":
            worker.stop(wait=False)
    os._exit(1)  # the parent is gone, and nobody would start this process again


if __name__ == "__main__":
    main()

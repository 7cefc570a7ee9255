"""A child process of a worker: `python -m queueport.cli.child FD`. Only the supervisor starts it, for a worker of
several processes, or to take jobs in place of a process that has a stuck attempt.

The first line of the standard input is the configuration as JSON. The line `stop SECONDS` stops the process with this
grace period; a second `stop` line changes the period. The end of the input means that the parent has ended: the child
process then exits at once. The child process reports to the file descriptor FD: it writes READY when it reads these
commands, an empty line when it takes no more jobs because an attempt is stuck, and, before a normal end, one line of
JSON for each stuck attempt. SIGTERM ends the process at once before READY; later, it stops the process like `stop`.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from queueport.cli.output import set_up_logging
from queueport.connect import get_queue
from queueport.errors import QueueportError
from queueport.spi import settings
from queueport.tasks import registry
from queueport.workers.supervisor import CANNOT_START, READY, REPLACE
from queueport.workers.worker import Worker


def main() -> None:
    """Run jobs until the parent process writes `stop`, SIGTERM arrives, a burst is over, or an attempt is stuck.

    If an attempt is stuck, this process takes no more jobs, and runs its other jobs to their end.
    If the configuration is wrong or the import of a module raises ImportError, exit with CANNOT_START.
    """
    # unbuffered: otherwise the thread that reads commands would hold a buffer's lock, and Python could block at exit
    commands = os.fdopen(os.dup(0), "rb", buffering=0)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)  # programs that tasks start inherit descriptor 0: they must not read the commands
    report = os.fdopen(int(sys.argv[1]), "wb", buffering=0)
    os.set_inheritable(report.fileno(), False)
    # a full pipe must not block the exit, because the parent possibly reads the pipe only after this process has ended
    os.set_blocking(report.fileno(), False)
    spec: dict[str, Any] = json.loads(commands.readline())
    sys.path[:] = spec["path"]
    set_up_logging(spec["log_level"], spec["log_format"])
    settings.warned.update(settings.unknown_variables())  # the parent has already logged these warnings
    # The parent handles these signals. This process ignores them by a handler that does nothing, because programs that
    # tasks start would inherit SIG_IGN.
    signal.signal(signal.SIGINT, lambda *_: None)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under `nohup`, these programs must ignore it, too
        signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        for module in spec["modules"]:
            importlib.import_module(module)
        queue = get_queue(spec["url"], **spec["settings"])
        tasks = [task for name in spec["tasks"] if (task := registry.get(name)) is not None]
        worker = queue.worker(*spec["queues"], tasks=tasks, **spec["options"])
    except (QueueportError, ImportError) as error:
        logging.getLogger("queueport").critical("the worker process cannot start: %s", error)
        sys.exit(CANNOT_START)
    threading.Thread(target=_read_commands, args=(commands, worker), name="queueport-parent", daemon=True).start()
    with suppress(BrokenPipeError):  # the parent has ended, and `_read_commands` ends this process
        report.write(READY)
    stuck = worker.run_process(lambda: report.write(REPLACE))
    for attempt in stuck:
        report.write(json.dumps(attempt).encode() + b"\n")
    if not worker.idle:  # otherwise Python would wait for the threads of stuck attempts
        logging.shutdown()
        sys.stdout.flush()
        os._exit(1 if stuck else 0)


def _read_commands(commands: IO[bytes], worker: Worker) -> None:
    for line in commands:
        command, _, grace = line.partition(b" ")
        if command == b"stop":
            worker.stop(wait=False, grace=float(grace))
            logging.getLogger("queueport").info("worker process %d was told to stop", os.getpid())
    os._exit(1)  # the input has ended, and so has the parent: nobody else sends `stop`


if __name__ == "__main__":
    main()

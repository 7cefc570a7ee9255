"""`queueport worker` and `queueport dispatcher`: commands that run until they are stopped. For operators."""

import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NoReturn

import typer

from queueport.cli.options import SECONDS, Modules, parse_seconds
from queueport.cli.output import LOG_FORMATS, set_up_logging
from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.queue import JobQueue
from queueport.tasks import registry
from queueport.workers import children, modules

logger: logging.Logger = logging.getLogger("queueport")

HANDOVER = "QUEUEPORT_HANDOVER"
"""The environment variable in which a program passes its stuck attempts, and the processes that now take its jobs, to
the program that replaces it."""
HANDOVER_LIMIT = 200
"""The maximum number of attempts in HANDOVER. Linux limits a variable to 128 KiB; an attempt takes less than 500 bytes.
"""
RECEIVED = 65_536
"""The maximum number of signals that a new program reads from the pipe that `hold_signals` made."""
START_FOLDER = modules.working_directory()
"""The working directory at the start; None if it was deleted. `replace_process` changes back to this directory, because
the program's arguments may contain relative paths and a task may have changed the directory.
"""

QUEUES = "QUEUEPORT_QUEUES"

LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"],
    typer.Option(
        "--log-level", envvar="QUEUEPORT_LOG_LEVEL", case_sensitive=False, help="Minimum level of messages in the log."
    ),
]
LogFormat = Annotated[
    Literal["text", "json"],
    typer.Option("--log-format", envvar="QUEUEPORT_LOG_FORMAT", help="Lines for people, or one JSON object a line."),
]


def worker(
    queue: JobQueue,
    *,
    module_names: Modules = None,
    queue_names: Annotated[
        list[str] | None,
        typer.Option(
            "--queue",
            help=f"Take jobs only from this queue; repeatable.  \\[default: ${QUEUES}, or those of the tasks]",
        ),
    ] = None,
    threads: Annotated[
        int,
        typer.Option(
            "--threads",
            envvar="QUEUEPORT_THREADS",
            min=1,
            help="Maximum number of plain jobs (not `async def`) that run at once in each process. On a backend "
            "without the capability THREADS, this number times --processes processes run one job each.",
        ),
    ] = 8,
    coroutines: Annotated[
        int | None,
        typer.Option(
            "--coroutines",
            min=1,
            help="Maximum number of `async def` jobs that run at once in each process, in addition to plain jobs.  "
            "\\[default: $QUEUEPORT_COROUTINES, or 100]",
        ),
    ] = None,
    processes: Annotated[
        int, typer.Option("--processes", envvar="QUEUEPORT_PROCESSES", min=1, help="Number of processes.")
    ] = 1,
    burst: Annotated[bool, typer.Option("--burst", help="Exit when no job is due, queued or running.")] = False,
    grace: Annotated[
        float,
        typer.Option(
            "--grace",
            envvar="QUEUEPORT_GRACE",
            parser=parse_seconds,
            metavar=SECONDS,
            help="Time that running jobs have to end when the worker stops.",
        ),
    ] = 30,
    wait: Annotated[
        float | None,
        typer.Option(
            "--wait",
            parser=parse_seconds,
            metavar=SECONDS,
            help="How long to wait at the start for store and backend to answer. Without an answer, exit with 1.  "
            "\\[default: wait for the store only, without a limit]",
        ),
    ] = None,
    alive_file: Annotated[
        str | None,
        typer.Option(
            "--alive-file",
            envvar="QUEUEPORT_ALIVE_FILE",
            metavar="PATH",
            help="A file for liveness probes. Each process touches it every second; while the store does not answer, "
            "at least once in each `call_timeout`.",
        ),
    ] = None,
    log_level: LogLevel = "info",
    log_format: LogFormat = "text",
) -> None:
    """Run the jobs of the tasks that the given modules declare.

    SIGTERM, SIGHUP or Ctrl-C stops the worker: it waits at most --grace seconds for running jobs to end, returns the
    jobs that still run to the queue, and exits with code 0. A second signal, at least half a second later, ends the
    wait. SIGHUP has no effect under nohup.
    """
    stuck, stopping, beside = receive_handover()
    children.workers.update(pid for pid, *_ in beside)
    children.reap()
    set_up_logging(log_level.upper(), LOG_FORMATS[log_format])
    names = module_names or modules.environment()
    if not names:
        raise ConfigurationError(
            f"no task module is given: write `queueport worker app.tasks`, or set {modules.TASKS_ENV}"
        )
    modules.load(names)
    if not registry.tasks():
        raise ConfigurationError(f"no task is declared in {', '.join(names)}: decorate a function with @task")
    logger.info("%d tasks declared in %s", len(registry.tasks()), ", ".join(names))
    made = queue.worker(
        *queue_names or modules.environment(QUEUES),
        threads=threads,
        processes=processes,
        coroutines=coroutines,
        burst=burst,
        grace=grace,
        wait=wait,
        alive_file=alive_file,
    )
    _record_stuck(queue, stuck)
    if beside:
        if stopping:
            made.stop(wait=False)
        made.supervise(beside)
    elif not stopping:
        stuck = made.run(owns_process=True)
        beside = made.replaced_by()
        if stuck or made.retired:
            signals = hold_signals()
            replace_process(stuck, stopping=made.stopped, beside=beside, signals=signals)
        if not made.idle:  # otherwise Python would wait for the threads of running jobs
            logging.shutdown()
            sys.stdout.flush()
            os._exit(0)


def _record_stuck(queue: JobQueue, stuck: list[dict[str, Any]]) -> None:
    """Record the end of the stuck attempts of the program that ran in this process before.

    If store or backend do not answer, log a warning and leave out the attempts not yet recorded: their leases lapse.
    """
    from queueport.workers.runner import finish_stuck  # imported here, because it imports asyncio, which is slow

    try:
        for attempt in stuck:
            finish_stuck(queue.operations, attempt)
    except BackendUnavailable as error:
        message = "the ends of stuck attempts could not be recorded; their leases lapse, which may count as crashes: %s"
        logger.warning(message, error)


def hold_signals() -> int:
    """Keep the stop signals that arrive before `replace_process` has started the new program, for that program.

    Returns a file descriptor for `replace_process`. The kernel keeps a signal that all threads of a process have
    blocked, but a thread with a stuck attempt cannot be told to block signals. A signal that such a thread gets is
    therefore written to a pipe, which the new program reads from this file descriptor.
    """
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    os.set_inheritable(reading, True)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_BLOCK, children.STOPPING)  # the new program's worker unblocks these signals
    return reading


def replace_process(
    stuck: list[dict[str, Any]], *, stopping: bool, signals: int, beside: Sequence[Sequence[int]] = ()
) -> NoReturn:
    """Start this program again in the same process (exec). This ends the code of stuck attempts.

    The new program records that the attempts have ended, HANDOVER_LIMIT of them at most. If the worker is `stopping`,
    or if a stop signal has arrived since `hold_signals` returned `signals`, the new program then exits. `beside`
    describes processes that now take this worker's jobs; if there are any, the new program supervises them and runs no
    jobs itself. The process keeps its pid, arguments and parent, so a service manager does not notice the restart. If
    the program cannot be started again, the process exits with code 1.
    """
    message = "this worker starts its program again, because interrupted jobs did not end in time; %d of them still run"
    logger.warning(message, len(stuck))
    if len(stuck) > HANDOVER_LIMIT:
        logger.warning(
            "%d stuck attempts are too many for the new program: their leases lapse, which may count as crashes",
            len(stuck) - HANDOVER_LIMIT,
        )
    os.environ[HANDOVER] = json.dumps([os.getpid(), stuck[:HANDOVER_LIMIT], stopping, [*beside], signals])
    logging.shutdown()
    sys.stdout.flush()
    try:
        if START_FOLDER is not None:
            os.chdir(START_FOLDER)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  # a shell would change the pid
    except OSError as error:
        sys.stderr.write(f"error: the worker ends, because it cannot start its program again ({error}): restart it\n")
        os._exit(1)


def receive_handover() -> tuple[list[dict[str, Any]], bool, list[list[int]]]:
    """Read what `replace_process` has passed on.

    Returns the attempts to record, whether the worker is to stop, and the processes to supervise. If this program does
    not replace an earlier one, returns no attempts, False and no processes.
    """
    try:
        pid, stuck, stopping, beside, signals = json.loads(os.environ.pop(HANDOVER, ""))
    except (TypeError, ValueError):
        return [], False, []
    if pid != os.getpid():  # a parent process has set the variable for its own next program
        return [], False, []
    with os.fdopen(signals, "rb", buffering=0) as pipe:
        arrived = set(pipe.read(RECEIVED) or b"")
    return stuck, stopping or not arrived.isdisjoint(children.STOPPING), beside


def dispatcher(queue: JobQueue, *, log_level: LogLevel = "info", log_format: LogFormat = "text") -> None:
    """Run a dispatcher without a worker, so that delayed jobs and retries are queued even if no worker is alive.

    The dispatcher publishes lost messages again when the backend reports that their queue is empty. Workers run
    dispatchers, too.
    SIGTERM, SIGHUP or Ctrl-C stops this command, and it exits with code 0.
    """
    from queueport.engine.dispatcher import Dispatcher

    set_up_logging(log_level.upper(), LOG_FORMATS[log_format])
    made = Dispatcher(queue.operations)
    signals = [number for number in children.STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # the dispatcher's threads inherit this mask
    made.start()
    logger.info("the dispatcher for %s has started", queue.url)
    logger.info("received %s: the dispatcher stops", signal.Signals(signal.sigwait(signals)).name)
    made.stop()

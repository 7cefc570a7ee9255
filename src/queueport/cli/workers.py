"""`queueport worker` and `queueport dispatcher`: what runs until it is stopped. For operators and their supervisors."""

import logging
import os
import signal
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from queueport import modules
from queueport.cli import successor
from queueport.cli.connection import Modules, Namespace, Store, Url, UrlWord, opened
from queueport.cli.logs import set_up
from queueport.cli.successor import Legacy
from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.queue import JobQueue
from queueport.tasks import registry

if TYPE_CHECKING:
    from queueport.worker import Worker

__all__ = ["dispatcher", "worker"]

logger: logging.Logger = logging.getLogger("queueport")


class LogLevel(StrEnum):
    """How much is told."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


Level = Annotated[LogLevel, typer.Option("--log-level", case_sensitive=False, help="How much is told on stderr.")]


def worker(
    queue: JobQueue,
    *,
    names: Modules = None,
    queues: Annotated[
        list[str] | None,
        typer.Option("--queue", help="Take jobs of this queue only; repeatable.  \\[default: those of the tasks]"),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Jobs at once in a process.")] = 8,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Processes.")] = 1,
    burst: Annotated[bool, typer.Option("--burst", help="End when nothing is due.")] = False,
    grace: Annotated[float, typer.Option("--grace", min=0, help="Seconds that running jobs have when it stops.")] = 30,
    log_level: Level = LogLevel.INFO,
) -> None:
    """Run the jobs of these modules' tasks.

    SIGTERM and Ctrl-C stop it: the running jobs end, at most --grace seconds later, and the exit code is 0.
    """
    legacy = successor.inherit()
    set_up(log_level.upper())
    names = names or modules.environment()
    if not names:
        raise ConfigurationError(f"no module is named: write `queueport worker app.tasks`, or set {modules.VARIABLE}")
    modules.load(names)
    if not registry.tasks():
        raise ConfigurationError(f"no task is declared in {', '.join(names)}: decorate a function with @task")
    logger.info("%d tasks declared in %s", len(registry.tasks()), ", ".join(names))
    made = queue.worker(*queues or (), threads=threads, processes=processes, burst=burst, grace=grace)
    _record(made, legacy)
    if not legacy.stopping:
        stuck = made.run(owns_process=True)
        if stuck:
            successor.replace_process(Legacy(stuck, stopping=made.stopped))
        if not made.idle:  # its threads would hold up the exit, or fall over it
            logging.shutdown()
            sys.stdout.flush()
            os._exit(0)


def _record(made: "Worker", legacy: Legacy) -> None:
    """First thing: the attempts whose code has ended with the process before."""
    try:
        made.finish_stuck(legacy.stuck)
    except BackendUnavailable as error:
        logger.warning("attempts that ended with their process wait for their leases to lapse: %s", error)


def dispatcher(
    word: UrlWord = None,
    url: Url = None,
    store: Store = None,
    namespace: Namespace = None,
    log_level: Level = LogLevel.INFO,
) -> None:
    """Run a dispatcher alone, for delays and recovery while no worker lives.

    Every worker has one. SIGTERM and Ctrl-C stop it, and the exit code is 0.
    """
    from queueport.dispatcher import Dispatcher
    from queueport.url import KeepCount

    set_up(log_level.upper())
    with opened(word or url, store, namespace) as queue:
        keep = queue.settings.keep_succeeded
        made = Dispatcher(queue.operations, keep=keep if isinstance(keep, KeepCount) else None)
        ends = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before there are threads, which inherit it
        made.start()
        logger.info("the dispatcher of %s runs", queue.url)
        logger.info("%s: the dispatcher stops", signal.Signals(signal.sigwait(ends)).name)
        made.stop()

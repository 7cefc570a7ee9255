"""`queueport chaos`: run jobs while processes and servers fail. For operators and adapter authors."""

import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from queueport.cli import output
from queueport.cli.exit_codes import FAILED
from queueport.cli.options import SECONDS, Json, parse_seconds
from queueport.errors import ConfigurationError
from queueport.testing.chaos.plan import FAULTS, PROCESSES, Plan
from queueport.testing.chaos.servers import NAMES, Servers, open_servers


def _tell(sentence: str) -> None:
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()


def chaos(
    target: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help=f"The URL of the backend to test, or the name of a backend for which private servers are started: "
            f"{', '.join(NAMES)}.",
            show_default=False,
        ),
    ],
    *,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Number of jobs.")] = 400,
    faults: Annotated[int, typer.Option("--faults", min=0, help="Number of faults.")] = 12,
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            help=f"Only this kind of fault; repeatable: {', '.join(FAULTS)}.  \\[default: all that are possible]",
        ),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=2, help="Number of worker commands.")] = 3,
    producers: Annotated[int, typer.Option("--producers", min=1, help="Number of producer processes.")] = 2,
    lease: Annotated[
        float, typer.Option("--lease", parser=parse_seconds, metavar=SECONDS, help="The setting `lease` of the run.")
    ] = 5,
    native: Annotated[
        bool, typer.Option("--native", help="Use the framework's own workers instead of `queueport worker`.")
    ] = False,
    command: Annotated[
        str | None,
        typer.Option(
            "--command",
            metavar="COMMAND",
            help="The command of the workers instead of `queueport worker`. {python}, {namespace}, {queue}, {worker} "
            "(a unique name) and {broker} (its URL) are replaced.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        str | None, typer.Option("--seed", help="Repeat the faults of the run with this seed.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Run jobs while processes are killed and stopped and servers fail, and check what became of each job.

    The exit code is 1 if an accepted job was lost, is stuck, ran twice at once, ended wrongly or started too late after
    a fault, or if the statistics are not exact. The jobs stay in a namespace of their own. Only private servers are
    restarted; for others, the processes connect through a proxy, which cuts and delays connections.
    """
    if lease < 1:
        raise ConfigurationError(f"--lease {lease:g} is too short: give at least 1 second")
    with _exit_on_sigterm(), open_servers(target) as servers:
        chosen = _choose(kinds, servers)
        from queueport.testing.chaos import report  # imported here, because it declares tasks
        from queueport.testing.chaos.run import run
        from queueport.testing.chaos.world import native_command

        plan = Plan.make(
            seed or str(time.time_ns()),
            chosen,
            jobs=jobs,
            faults=faults,
            workers=workers,
            producers=producers,
            lease=lease,
        )
        outcome = run(servers, plan, native_command(servers.url) if native else command, _tell)
    if as_json:
        output.print_json(report.document(outcome))
    else:
        for line in report.lines(outcome):
            output.print_line(output.one_line(line))
    if not outcome.unexpected and outcome.verdict.ok:
        shutil.rmtree(outcome.folder, ignore_errors=True)
    if not outcome.verdict.ok:
        raise typer.Exit(FAILED)


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """A context manager. Inside it, SIGTERM raises SystemExit, so that the processes of the run are ended."""

    def leave(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second signal must not interrupt the end
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _choose(kinds: list[str] | None, servers: Servers) -> list[str]:
    """The kinds of faults of the run. Raises ConfigurationError for a kind that does not exist or is impossible."""
    possible = [*PROCESSES, *servers.kinds]
    for kind in kinds or ():
        if kind not in FAULTS:
            raise ConfigurationError(f"no fault is called {kind!r}: choose from {', '.join(FAULTS)}")
        if kind not in possible:
            raise ConfigurationError(f"the fault {kind!r} is impossible here: choose from {', '.join(possible)}")
    return kinds or possible

"""`queueport chaos`: run jobs while processes are killed, stopped and replaced. For operators and adapter authors."""

import shutil
import sys
import time
from typing import Annotated

import typer

from queueport.cli import output
from queueport.cli.exit_codes import FAILED
from queueport.cli.options import Json, parse_seconds
from queueport.connect import get_queue
from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.testing.chaos.plan import FAULTS, Plan


def _tell(sentence: str) -> None:
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()


def chaos(
    url: Annotated[str, typer.Argument(metavar="URL", help="The URL of the backend to test.", show_default=False)],
    *,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Number of jobs.")] = 400,
    faults: Annotated[int, typer.Option("--faults", min=0, help="Number of faults.")] = 12,
    kinds: Annotated[
        list[str] | None,
        typer.Option("--kind", help=f"Only this kind of fault; repeatable: {', '.join(FAULTS)}.  \\[default: all]"),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=2, help="Number of worker commands.")] = 3,
    producers: Annotated[int, typer.Option("--producers", min=1, help="Number of producer processes.")] = 2,
    lease: Annotated[
        float, typer.Option("--lease", parser=parse_seconds, metavar="SECONDS", help="The setting `lease` of the run.")
    ] = 5,
    native: Annotated[
        str | None,
        typer.Option(
            "--native",
            metavar="COMMAND",
            help="The command of the framework's own worker, instead of `queueport worker`. {namespace} and {queue} "
            "are replaced.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        str | None, typer.Option("--seed", help="Repeat the faults of the run with this seed.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Run jobs while workers and producers are killed, stopped and replaced, and check what became of each job.

    The exit code is 1 if an accepted job was lost, is stuck, ran twice at once, ended wrongly or started too late after
    a fault, or if the statistics are not exact. The jobs stay in a namespace of their own.
    """
    chosen = kinds or list(FAULTS)
    if unknown := [kind for kind in chosen if kind not in FAULTS]:
        raise ConfigurationError(f"no fault is called {unknown[0]!r}: choose from {', '.join(FAULTS)}")
    if lease < 1:
        raise ConfigurationError(f"--lease {lease:g} is too short: give at least 1 second")
    with get_queue(url) as queue:
        health = queue.check()
        if not health.ok:
            raise BackendUnavailable(health.problems[0])
    from queueport.testing.chaos import report  # imported here, because it declares tasks
    from queueport.testing.chaos.run import run

    plan = Plan.make(
        seed or str(time.time_ns()),
        chosen,
        jobs=jobs,
        faults=faults,
        workers=workers,
        producers=producers,
        lease=lease,
    )
    outcome = run(url, plan, native, _tell)
    if as_json:
        output.print_json(report.document(outcome))
    else:
        for line in report.lines(outcome):
            output.print_line(output.one_line(line))
    if not outcome.verdict.ok:
        raise typer.Exit(FAILED)
    shutil.rmtree(outcome.folder, ignore_errors=True)

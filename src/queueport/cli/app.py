"""The `queueport` command, put together from its parts. Whoever adds a command names it here."""

from typing import Annotated

import typer

import queueport
from queueport.cli import backends, contract, dead, enqueue, jobs, system, workers
from queueport.cli.connection import with_queue
from queueport.cli.endings import CommandLine

__all__ = ["app"]

app: typer.Typer = typer.Typer(
    cls=CommandLine,
    help="One job queue over the queues you already run: run workers, look at jobs, put things right.",
    epilog="Exit codes: 0 done; 1 the queue said no: not found, wrong state, not reachable, not healthy; "
    "2 the command, a setting, a task module or a job's arguments are wrong; 130 Ctrl-C; 141 the output was closed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"queueport {queueport.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")] = False,
) -> None:
    pass


WORK, JOBS, SYSTEM = "Work", "Jobs", "The system"

app.command(rich_help_panel=WORK)(with_queue(workers.worker))
app.command(rich_help_panel=WORK)(workers.dispatcher)
app.command(rich_help_panel=WORK)(with_queue(enqueue.enqueue))

app.command(rich_help_panel=JOBS)(with_queue(jobs.status))
app.command("jobs", rich_help_panel=JOBS)(with_queue(jobs.listing))
app.command(rich_help_panel=JOBS)(with_queue(jobs.retry))
app.command(rich_help_panel=JOBS)(with_queue(jobs.cancel))
app.command(rich_help_panel=JOBS)(with_queue(jobs.purge))

letters: typer.Typer = typer.Typer(help="The dead letters: jobs that were given up.", no_args_is_help=True)
letters.command("list")(with_queue(dead.listing))
letters.command()(with_queue(dead.show))
letters.command()(with_queue(dead.retry))
letters.command("retry-all")(with_queue(dead.retry_all))
letters.command()(with_queue(dead.discard))
letters.command()(with_queue(dead.purge))
app.add_typer(letters, name="dead", rich_help_panel=JOBS)

app.command(rich_help_panel=SYSTEM)(with_queue(system.stats))
app.command(rich_help_panel=SYSTEM)(with_queue(system.check, takes_url=True))
app.command(rich_help_panel=SYSTEM)(with_queue(system.setup, takes_url=True))
app.command(rich_help_panel=SYSTEM)(backends.backends)
app.command(rich_help_panel=SYSTEM)(contract.contract)

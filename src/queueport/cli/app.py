"""The `queueport` command, put together from its parts. For those who add a command."""

import typer

import queueport
from queueport.cli import backends, contract, dead, enqueue, jobs, system, workers
from queueport.cli.endings import CommandLine

__all__ = ["app"]

app = typer.Typer(
    name="queueport",
    cls=CommandLine,
    help="One job queue over the queues you already run: run workers, look at jobs, put things right.",
    epilog="Exit codes: 0 done; 1 the queue said no (not found, wrong state, not reachable, not healthy); "
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
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


for part in (workers, enqueue, jobs, dead, system, backends, contract):
    part.add_to(app)

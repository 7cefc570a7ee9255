"""The `queueport` command and its subcommands. A new subcommand is added here."""

from typing import Annotated

import typer

import queueport
from queueport.cli import (
    backends,
    batch,
    chaos,
    contract,
    enqueue,
    jobs,
    live_workers,
    replay,
    schedules,
    system,
    web,
    workers,
)
from queueport.cli.exit_codes import CommandLine
from queueport.cli.options import with_queue

app: typer.Typer = typer.Typer(
    cls=CommandLine,
    help="One interface to the job queues that you already run: run workers, inspect jobs, repair failures.",
    epilog="Exit codes: 0 success; 1 the operation failed: not found, wrong state, no answer, or unhealthy; "
    "2 the command line, a setting, a task module, a job's arguments or the server's configuration is wrong, or the "
    "backend lacks the feature; 130 Ctrl-C; 141 the output was closed.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"queueport {queueport.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


WORK, JOBS, SYSTEM = "Work", "Jobs", "System"

app.command(rich_help_panel=WORK)(with_queue(workers.worker))
app.command(rich_help_panel=WORK)(with_queue(workers.dispatcher, takes_url=True))
app.command(rich_help_panel=WORK)(with_queue(enqueue.enqueue))

app.command(rich_help_panel=JOBS)(with_queue(jobs.status))
app.command("jobs", rich_help_panel=JOBS)(with_queue(jobs.list_jobs))
app.command(rich_help_panel=JOBS)(with_queue(jobs.retry))
app.command(rich_help_panel=JOBS)(with_queue(replay.replay))
app.command(rich_help_panel=JOBS)(with_queue(jobs.cancel))
app.command(rich_help_panel=JOBS)(with_queue(jobs.purge))

dead_letters: typer.Typer = typer.Typer(help="Inspect, retry and discard dead jobs.", no_args_is_help=True)
dead_letters.command("list")(with_queue(jobs.list_dead))
dead_letters.command("show")(with_queue(jobs.show_dead))
dead_letters.command("retry")(with_queue(jobs.retry_dead))
dead_letters.command("retry-all")(with_queue(jobs.retry_all_dead))
dead_letters.command("discard")(with_queue(jobs.discard_dead))
dead_letters.command("purge")(with_queue(jobs.purge_dead))
app.add_typer(dead_letters, name="dead", rich_help_panel=JOBS)

batches: typer.Typer = typer.Typer(help="Show, retry and cancel batches of jobs.", no_args_is_help=True)
batches.command("show")(with_queue(batch.show_batch))
batches.command("retry")(with_queue(batch.retry_batch))
batches.command("cancel")(with_queue(batch.cancel_batch))
app.add_typer(batches, name="batch", rich_help_panel=JOBS)

recurring: typer.Typer = typer.Typer(help="List, add, pause and remove recurring jobs.", no_args_is_help=True)
recurring.command("list")(with_queue(schedules.list_schedules))
recurring.command("show")(with_queue(schedules.show_schedule))
recurring.command("add")(with_queue(schedules.add_schedule))
recurring.command("pause")(with_queue(schedules.pause_schedule))
recurring.command("resume")(with_queue(schedules.resume_schedule))
recurring.command("run")(with_queue(schedules.run_schedule))
recurring.command("remove")(with_queue(schedules.remove_schedule))
recurring.command("import")(with_queue(schedules.import_schedules, takes_url=True))
app.add_typer(recurring, name="schedules", rich_help_panel=JOBS)

app.command(rich_help_panel=SYSTEM)(with_queue(system.stats))
app.command("workers", rich_help_panel=SYSTEM)(with_queue(live_workers.list_workers))
app.command(rich_help_panel=SYSTEM)(with_queue(system.pause))
app.command(rich_help_panel=SYSTEM)(with_queue(system.resume))
app.command(rich_help_panel=SYSTEM)(with_queue(system.limit))
app.command(rich_help_panel=SYSTEM)(with_queue(system.limits))
app.command(rich_help_panel=SYSTEM)(with_queue(system.history))
app.command(rich_help_panel=SYSTEM)(with_queue(system.check, takes_url=True))
app.command(rich_help_panel=SYSTEM)(with_queue(system.setup, takes_url=True))
app.command(rich_help_panel=SYSTEM)(web.web)
app.command(rich_help_panel=SYSTEM)(backends.backends)
app.command(rich_help_panel=SYSTEM)(contract.contract)
app.command(rich_help_panel=SYSTEM)(chaos.chaos)

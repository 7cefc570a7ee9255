"""`queueport schedules`: list, add, pause and remove recurring jobs. For operators."""

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from queueport.cli import output
from queueport.cli.enqueue import call_of, check_persistent, declared_task, note_undeclared
from queueport.cli.exit_codes import FAILED
from queueport.cli.options import Arguments, Json, KeywordArguments, Watch
from queueport.cli.watching import show
from queueport.engine.schedules import read_entries, template
from queueport.errors import ConfigurationError, QueueportError
from queueport.job.recurrence import Schedule
from queueport.queue import JobQueue
from queueport.workers.modules import TASKS_ENV

if TYPE_CHECKING:
    from queueport.cli.tables import Table

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.", show_default=False)]


def list_schedules(queue: JobQueue, *, watch: Watch = None, as_json: Json = False) -> None:
    """List all schedules."""
    show(
        queue.schedules.list,
        lambda found: [schedule.as_dict() for schedule in found],
        lambda found: [_table(found)],
        as_json=as_json,
        watch=watch,
    )


def _table(found: Iterable[Schedule]) -> "Table":
    rows = [
        (s.name, s.recurrence.description, _time(s.next_at, s.paused), _time(s.last_at), s.last_state or "")
        for s in found
    ]
    return output.table(("name", "when", "next", "last", "state"), rows)


def show_schedule(queue: JobQueue, *, name: Name, as_json: Json = False) -> None:
    """Show one schedule."""
    _print(queue.schedules.get(name), as_json)


def add_schedule(
    queue: JobQueue,
    *,
    name: Name,
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task's name.", show_default=False)],
    arguments: Arguments = None,
    keyword_arguments: KeywordArguments = None,
    every: Annotated[float | None, typer.Option("--every", help="Seconds between two jobs.")] = None,
    cron: Annotated[str | None, typer.Option("--cron", help='A cron expression, like "0 3 * * mon-fri".')] = None,
    timezone: Annotated[str, typer.Option("--timezone", help="The time zone of --cron, like Europe/Berlin.")] = "UTC",
    catch_up: Annotated[
        str, typer.Option("--catch-up", help="Jobs for ticks that no worker has handled in time: one, all or none.")
    ] = "one",
    overlap: Annotated[
        bool, typer.Option("--overlap/--no-overlap", help="Make a job although the previous one has not ended.")
    ] = True,
    queue_name: Annotated[
        str | None, typer.Option("--queue", help="The queue of the jobs, instead of the task's queue.")
    ] = None,
    module_names: Annotated[
        list[str] | None,
        typer.Option(
            "--module",
            help=f"A module that declares the task, to check the arguments; repeatable.  \\[default: ${TASKS_ENV}]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Add a schedule, or change the one with this name."""
    check_persistent(queue)
    if (every is None) == (cron is None):
        raise ConfigurationError("give either --every SECONDS or --cron EXPRESSION")
    args, kwargs = call_of(arguments, keyword_arguments)
    job = declared_task(task, module_names).using(queue=queue_name).job(*args, **kwargs)
    added = queue.schedules.add(
        name, job, every=every, cron=cron, timezone=timezone, catch_up=catch_up, overlap=overlap
    )
    _print(added, as_json)
    note_undeclared(task, ", and the options `queue` and `expires` of its declaration are not used")


def import_schedules(
    queue: JobQueue,
    *,
    apply: Annotated[bool, typer.Option("--apply", help="Add the schedules, not only show them.")] = False,
    as_json: Json = False,
) -> None:
    """Show, and with --apply add, the schedules that an existing Celery app declares for beat.

    Stop beat before you use --apply, or jobs are made twice. The exit code is 1 if a schedule cannot be imported.
    """
    entries = {entry.name: entry for entry in read_entries(queue.operations.store, lambda _: None)}
    found = queue.operations.driver.recurring()
    rows: list[tuple[str, str, str, str]] = []
    for foreign in found:
        if foreign.job is None or foreign.recurrence is None:
            rows.append((foreign.name, "", "", f"cannot be imported: {foreign.problem}"))
            continue
        old = entries.get(foreign.name)
        same = old is not None and (old.job, old.recurrence) == (template(foreign.job), foreign.recurrence)
        outcome = "same" if same else "new" if old is None else "changed"
        try:
            if apply:
                queue.schedules.put(foreign.name, foreign.job, foreign.recurrence)
        except QueueportError as error:
            outcome = f"cannot be imported: {error}"
        rows.append((foreign.name, foreign.job.task, foreign.recurrence.description, outcome))
    if as_json:
        output.print_json([dict(zip(("name", "task", "when", "outcome"), row, strict=True)) for row in rows])
    else:
        output.print_parts(output.table(("name", "task", "when", "outcome"), rows))
        if not rows:
            typer.echo(
                "note: no schedules were found; this command reads those of an app: celery://MODULE:APP", err=True
            )
        elif not apply:
            typer.echo("note: nothing was changed; add --apply to import these schedules", err=True)
    if any(outcome.startswith("cannot") for *_, outcome in rows):
        raise typer.Exit(FAILED)


def pause_schedule(queue: JobQueue, *, name: Name, as_json: Json = False) -> None:
    """Make no jobs for the ticks of a schedule, until `resume`."""
    _print(queue.schedules.pause(name), as_json)


def resume_schedule(queue: JobQueue, *, name: Name, as_json: Json = False) -> None:
    """Make jobs for the ticks of a schedule again."""
    _print(queue.schedules.resume(name), as_json)


def run_schedule(queue: JobQueue, *, name: Name, as_json: Json = False) -> None:
    """Enqueue a job of a schedule now, and print its id."""
    handle = queue.schedules.run_now(name)
    result = {"id": handle.id, "created": handle.created, "replaced": handle.replaced}
    output.print_result(result, handle.id, as_json)
    if not handle.created and not handle.replaced:
        typer.echo(f"note: no job was added, because job {handle.id} of this schedule has not ended", err=True)


def remove_schedule(queue: JobQueue, *, name: Name, as_json: Json = False) -> None:
    """Remove a schedule. The jobs that it has made stay."""
    declared = any(
        entry.name == name and entry.module for entry in read_entries(queue.operations.store, lambda _: None)
    )
    queue.schedules.remove(name)
    output.print_result({"name": name}, f"schedule {name} removed", as_json)
    if declared:
        typer.echo(
            f"note: the task {output.one_line(name)} declares this schedule, so the next worker with this task adds it "
            "again: pause it instead, or remove every= or cron= from the declaration",
            err=True,
        )


def _print(schedule: Schedule, as_json: bool) -> None:
    if as_json:
        output.print_json(schedule.as_dict())
    else:
        rows = [(name, value) for name, value in _details(schedule) if value]
        output.print_parts(output.table(("", ""), rows))


def _details(schedule: Schedule) -> Iterable[tuple[str, str]]:
    recurrence = schedule.recurrence
    yield "name", schedule.name
    yield "task", schedule.task
    yield "queue", schedule.queue
    yield "when", recurrence.description
    yield "start", _time(recurrence.start)
    yield "end", _time(recurrence.end)
    yield "catch up", recurrence.catch_up
    yield "overlap", "yes" if recurrence.overlap else "no"
    yield "declared", "by its task" if schedule.declared else ""
    yield "next", _time(schedule.next_at, schedule.paused)
    yield "last", _time(schedule.last_at)
    yield "last job", " ".join(filter(None, (schedule.last_job_id, schedule.last_state)))
    yield "arguments", f"{schedule.args} {schedule.kwargs}" if schedule.args or schedule.kwargs else ""


def _time(moment: datetime | None, paused: bool = False) -> str:
    if paused:
        return "paused"
    return "" if moment is None else moment.strftime("%Y-%m-%d %H:%M:%SZ")

"""`queueport enqueue`: enqueue a job from the command line. For operators and scripts."""

import json
from datetime import datetime
from typing import Annotated, Any, NoReturn, cast

import typer

from queueport.capability import Capability
from queueport.cli import output
from queueport.cli.options import SECONDS, Arguments, Json, KeywordArguments, parse_seconds
from queueport.errors import BackendUnavailable, ConfigurationError, Unsupported, nearest
from queueport.job import KeyMode
from queueport.queue import JobQueue
from queueport.tasks import Task, registry, task
from queueport.workers import modules


def enqueue(
    queue: JobQueue,
    *,
    name: Annotated[str, typer.Argument(metavar="TASK", help="The task's name.", show_default=False)],
    arguments: Arguments = None,
    keyword_arguments: KeywordArguments = None,
    queue_name: Annotated[
        str | None, typer.Option("--queue", help="The queue of the job, instead of the task's queue.")
    ] = None,
    delay: Annotated[
        float | None,
        typer.Option(
            "--delay", parser=parse_seconds, metavar=SECONDS, help="How long to wait before the job becomes due."
        ),
    ] = None,
    run_at: Annotated[
        str | None,
        typer.Option("--run-at", metavar="TIME", help="When the job becomes due, like 2026-01-31T08:00:00Z."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", parser=parse_seconds, metavar=SECONDS, help="How long each attempt may take."),
    ] = None,
    headers: Annotated[
        list[str] | None,
        typer.Option("--header", metavar="NAME=VALUE", help="A text that is sent with the job; repeatable."),
    ] = None,
    priority: Annotated[int | None, typer.Option("--priority", help="-10 to 10; a higher number runs sooner.")] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key", help="If a job with this task and key is alive, print its id and enqueue nothing; see --key-mode."
        ),
    ] = None,
    key_mode: Annotated[
        str | None,
        typer.Option("--key-mode", help="If the key is taken: return, reject or replace.  \\[default: return]"),
    ] = None,
    unique_for: Annotated[
        float | None,
        typer.Option(
            "--unique-for",
            parser=parse_seconds,
            metavar=SECONDS,
            help="How long the key stays taken after the job's end.",
        ),
    ] = None,
    tags: Annotated[
        list[str] | None, typer.Option("--tag", help="A text by which the job can be found; repeatable.")
    ] = None,
    job_id: Annotated[str | None, typer.Option("--id", help="The new job's id; default: a new UUID.")] = None,
    module_names: Annotated[
        list[str] | None,
        typer.Option(
            "--module",
            help="A module that declares the task, to check the arguments and use the task's options; repeatable.  "
            f"\\[default: ${modules.TASKS_ENV}]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Enqueue a job and print its id.

    Write `--` before arguments that begin with a dash: queueport enqueue -- app.tasks.add -1 2
    """
    check_persistent(queue)
    args, kwargs = call_of(arguments, keyword_arguments)
    chosen = declared_task(name, module_names).using(
        queue=queue_name,
        delay=delay,
        run_at=None if run_at is None else _time(run_at),
        timeout=timeout,
        headers=dict(_header(text) for text in headers) if headers else None,
        priority=priority,
        key=key,
        key_mode=cast("KeyMode | None", key_mode),  # `using` checks it
        unique_for=unique_for,
        job_id=job_id,
        tags=tags or None,
    )
    try:
        handle = queue.enqueue(chosen, *args, **kwargs)
    except BackendUnavailable as error:
        if not error.unknown:
            raise
        raise type(error)(f"{error}; to enqueue it again, repeat the command with --id {error.unknown[0]}") from error
    result = {"id": handle.id, "created": handle.created, "replaced": handle.replaced}
    output.print_result(result, handle.id, as_json)
    if handle.replaced:
        typer.echo(f"note: no job was added, but job {handle.id} now has these arguments and options", err=True)
    elif not handle.created:
        typer.echo(f"note: no job was added, because job {handle.id} holds the key {key!r}", err=True)
    note_undeclared(name, ", and the options `queue` and `expires` of its declaration are not used")


def check_persistent(queue: JobQueue) -> None:
    """Raise Unsupported if the backend keeps its jobs in this process, so that the command would have no effect."""
    if Capability.PERSISTENT not in queue.capabilities:
        raise Unsupported(
            f"{queue.backend} keeps jobs in one process, and this process ends with the command: "
            "use a URL such as sqlite:///jobs.db"
        )


def note_undeclared(name: str, more: str = "") -> None:
    """If no loaded module declares the task, print a note that its arguments were not checked, and `more`."""
    if registry.get(name) is None:
        where = ", ".join(modules.environment()) or f"a loaded module (name one by --module or {modules.TASKS_ENV})"
        typer.echo(f"note: {name!r} is not declared in {where}, so its arguments were not checked{more}", err=True)


def call_of(arguments: list[str] | None, keyword_arguments: list[str] | None) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a job, from the command line. Raises ConfigurationError if one of them is not well-formed."""
    kwargs = dict(_keyword_argument(text) for text in keyword_arguments or ())
    return [_value(text) for text in arguments or ()], kwargs


def declared_task(name: str, given: list[str] | None) -> Task[..., Any, Any]:
    """The task as its module declares it. Imports the modules `given`, or else those that QUEUEPORT_TASKS names.

    If no module declares the task: raises ConfigurationError if modules are given, and otherwise returns a task with
    this name and default options. Also raises ConfigurationError if a module cannot be imported.
    """
    names = given or modules.environment()
    modules.load(names)
    found = registry.get(name)
    if found is None and given:
        hint = nearest(name, registry.names())
        raise ConfigurationError(f"there is no task {name!r} in {', '.join(names)}{hint}")
    return task.named(name) if found is None else found


def _keyword_argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise ConfigurationError(f"--kw {text!r} is not of the form NAME=VALUE: write for example --kw count=3")
    return name, _value(value)


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and name):
        raise ConfigurationError(
            f"--header {text!r} is not of the form NAME=VALUE: write for example --header user=ann"
        )
    return name, value


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.utcoffset() is None:
        raise ConfigurationError(
            f"--run-at {text!r} is not a time in ISO 8601 with a time zone: write for example 2026-01-31T08:00:00Z"
        )
    return time


def _value(text: str) -> Any:
    """Decode an argument that is JSON, and return any other text unchanged.

    Raises ConfigurationError for text that begins like a JSON object, array or string but is not valid JSON.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith(("{", "[", '"')):
            raise ConfigurationError(
                f"the argument {output.shortened(text, 60)!r} is not valid JSON ({error}): quote it for the shell, "
                "or write text as a JSON string, '\"...\"'"
            ) from None
        return text


def _refuse(constant: str) -> NoReturn:
    """Raise ValueError for NaN and Infinity, which the json module accepts although they are not JSON."""
    raise ValueError(constant)

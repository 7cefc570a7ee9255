"""The options that commands share, and `with_queue`, which opens the queue for a command. For the commands."""

import functools
import inspect
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, Concatenate

import typer

from queueport.cli.job_ids import full_id
from queueport.cli.option_names import options_of, with_option_names
from queueport.connect import URL_VARIABLE, get_queue, named
from queueport.errors import ConfigurationError, QueueportError
from queueport.job import JobFilters
from queueport.queue import JobQueue
from queueport.spi.settings import duration
from queueport.spi.url import BackendURL
from queueport.workers.modules import TASKS_ENV

SHORTENED = "shortened"
"""Marks the annotation of a job id, or of a list of them, that may be shortened: `with_queue` completes it."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
QueueFilter = Annotated[str | None, typer.Option("--queue", help="Only jobs of this queue.")]
QueueName = Annotated[str, typer.Argument(metavar="QUEUE", help="The name of the queue.", show_default=False)]
TaskFilter = Annotated[str | None, typer.Option("--task", help="Only jobs of the task with this name.")]
ErrorFilter = Annotated[
    str | None,
    typer.Option("--error", help="Only jobs whose latest error is of this class or a subclass, like OSError."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Change nothing; print how many jobs match, and the first ids.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before many jobs are changed.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="Maximum number of jobs to list.")]
After = Annotated[
    str | None,
    typer.Option("--after", metavar="ID", help="Only jobs older than this job (the next page)."),
    SHORTENED,
]
Modules = Annotated[
    list[str] | None,
    typer.Argument(metavar="[MODULE]...", help=f"Modules that declare tasks.  \\[default: ${TASKS_ENV}]"),
]
Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ARG]...", help="Positional arguments: JSON values, or plain text."),
]
KeywordArguments = Annotated[
    list[str] | None, typer.Option("--kw", metavar="NAME=VALUE", help="A keyword argument; repeatable.")
]
JobId = Annotated[
    str, typer.Argument(metavar="ID", help="The job's id, or the beginning of it.", show_default=False), SHORTENED
]


AnyJobId = Annotated[
    str | None,
    typer.Argument(metavar="ID", help="The job's id, or the beginning of it; or give filters.", show_default=False),
    SHORTENED,
]


SECONDS = "SECONDS"
"""The name of the value of an option that `parse_seconds` reads."""


def parse_seconds(text: str) -> float:
    """Convert the value of an option, such as `90s` or `1.5h`, to seconds. Raises typer.BadParameter."""
    try:
        found = float(duration(text))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: {error}") from None
    if not found >= 0:
        raise typer.BadParameter(f"{text!r} is not a number of seconds, 0 or more")
    return found


def parse_rate(text: str) -> float:
    """Convert the value of `--rate` to jobs a second. Raises typer.BadParameter."""
    with suppress(ValueError):
        if 0 < (rate := float(text)) < math.inf:
            return rate
    raise typer.BadParameter(f"{text!r} is not a number of jobs a second above 0")


WATCH_SECONDS = 2.0
"""The seconds between two refreshes if `--watch` has no number. The minimum is SHORTEST_WATCH."""
SHORTEST_WATCH = 0.1

Watch = Annotated[
    float | None,
    typer.Option(
        "--watch",
        parser=lambda text: max(SHORTEST_WATCH, parse_seconds(text)),
        metavar="[SECONDS]",
        help=f"Refresh every SECONDS, or every {WATCH_SECONDS:g} s, until Ctrl-C.",
        show_default=False,
    ),
]


def completed(arguments: Sequence[str]) -> list[str]:
    """The arguments of the command line, with WATCH_SECONDS after a `--watch` without a number."""
    made: list[str] = []
    for place, argument in enumerate(arguments):
        if argument == "--":
            return [*made, *arguments[place:]]
        alone = argument == "--watch" and not _are_seconds(arguments[place + 1 : place + 2])
        made.append(f"{argument}={WATCH_SECONDS:g}" if alone else argument)
    return made


def _are_seconds(words: Sequence[str]) -> bool:
    try:
        return bool(words) and parse_seconds(words[0]) >= 0
    except typer.BadParameter:
        return False


def parse_time(text: str) -> float | datetime:
    """Convert the value of an option to seconds ago, such as `90s`, or a time in ISO 8601. Raises typer.BadParameter.

    A time without a time zone is in the zone of this machine.
    """
    try:
        return datetime.fromisoformat(text).astimezone() if "-" in text else parse_seconds(text)
    except (ValueError, OverflowError, typer.BadParameter):
        raise typer.BadParameter(f"{text!r} is not a time: write for example 2h or 2026-01-31T08:00:00Z") from None


class Filters(JobFilters, total=False):
    """The filters of the commands that find jobs; only those that are given."""

    queue: str
    task: str
    error: str


def with_filters(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options for `Filters` to a command, which then gets those that are given as the keyword `given`."""

    def options(
        *,
        queue_name: QueueFilter = None,
        task: TaskFilter = None,
        error: ErrorFilter = None,
        key: Annotated[str | None, typer.Option("--key", help="Only jobs with this key.")] = None,
        tag: Annotated[str | None, typer.Option("--tag", help="Only jobs with this tag.")] = None,
        batch: Annotated[
            str | None, typer.Option("--batch", metavar="ID", help="Only jobs of this batch; not with --tag.")
        ] = None,
        since: Annotated[
            Any,
            typer.Option(
                "--since", parser=parse_time, metavar="TIME", help="Only jobs enqueued in this time, like 2h, or since."
            ),
        ] = None,
        until: Annotated[
            Any, typer.Option("--until", parser=parse_time, metavar="TIME", help="Only jobs enqueued before this.")
        ] = None,
        text: Annotated[
            str | None, typer.Option("--text", help="Only jobs with this text in their arguments as JSON; slow.")
        ] = None,
    ) -> None: ...

    mine = inspect.signature(options).parameters

    def run(queue: JobQueue, **arguments: Any) -> None:
        found = {name.removesuffix("_name"): arguments.pop(name) for name in mine}
        command(queue, **arguments, given={name: value for name, value in found.items() if value is not None})

    own = [parameter for parameter in inspect.signature(command).parameters.values() if parameter.name != "given"]
    last = own.pop()  # `--json`, which every command has as its last option
    functools.update_wrapper(run, command)
    run.__signature__ = inspect.Signature([*own, *mine.values(), last])  # type: ignore[attr-defined]
    return run


def with_queue(command: Callable[Concatenate[JobQueue, ...], None], *, takes_url: bool = False) -> Callable[..., None]:
    """Add the options `--url`, `--store` and `--namespace` to a command, which then gets the queue as first argument.

    Shortened ids are completed before the command starts. The queue is closed after the command. With `takes_url`, the
    command also accepts the URL as its first positional argument, before the modules. If the command takes modules, a
    first argument without `://` names a module instead.
    """

    def run(
        url_argument: Annotated[
            str | None, typer.Argument(metavar="[URL]", help="The queue's URL, instead of --url.", show_default=False)
        ] = None,
        url: Annotated[
            str | None,
            typer.Option(envvar=URL_VARIABLE, show_default=False, help="The queue's URL, like sqlite:///jobs.db."),
        ] = None,
        store: Annotated[
            str | None,
            typer.Option(
                show_default=False,
                help="The job store's URL, if the backend keeps no records itself.  \\[default: $QUEUEPORT_STORE]",
            ),
        ] = None,
        namespace: Annotated[
            str | None,
            typer.Option(
                show_default=False,
                help="The namespace, which separates apps on one server.  "
                "\\[default: $QUEUEPORT_NAMESPACE, or queueport]",
            ),
        ] = None,
        **options: Any,
    ) -> None:
        if url_argument is not None and "://" not in url_argument and "module_names" in options:
            options["module_names"] = [url_argument, *(options["module_names"] or ())]
            url_argument = None
        chosen = url_argument or url
        if chosen is None or not chosen.strip():
            raise ConfigurationError(f"no queue URL is given: use --url sqlite:///jobs.db, or set {URL_VARIABLE}")
        with named(URL_VARIABLE if chosen == os.environ.get(URL_VARIABLE) else None):
            BackendURL.parse(chosen)
        with get_queue(chosen, store=store, namespace=namespace) as queue:
            for name in (name for name in ids if options[name] is not None):
                given = options[name]
                options[name] = full_id(queue, given) if isinstance(given, str) else [full_id(queue, i) for i in given]
            try:
                command(queue, **options)
            except QueueportError as error:
                names = options_of(inspect.signature(command).parameters.values(), (parse_seconds, parse_time))
                error.args = (with_option_names(str(error), names), *error.args[1:])
                raise

    ids = [
        parameter.name
        for parameter in inspect.signature(command).parameters.values()
        if SHORTENED in getattr(parameter.annotation, "__metadata__", ())
    ]
    # typer reads a command's options from its signature: give `run` the options of `command` and the shared ones
    url_argument, *shared = (p for p in inspect.signature(run).parameters.values() if p.name != "options")
    own = list(inspect.signature(command).parameters.values())[1:]
    functools.update_wrapper(run, command)
    first = [url_argument] if takes_url else []
    parameters = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in (*first, *own, *shared)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run

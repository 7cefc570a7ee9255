"""`queueport enqueue`: a job out of words on a command line. For operators and scripts."""

import json
from typing import Annotated, Any, NoReturn

import typer

from queueport import modules
from queueport.capability import Capability
from queueport.cli import output
from queueport.cli.connection import Json
from queueport.errors import ConfigurationError, Unsupported
from queueport.queue import JobQueue
from queueport.tasks import Task, registry, task
from queueport.url import nearest

__all__ = ["enqueue"]


def enqueue(
    queue: JobQueue,
    *,
    name: Annotated[str, typer.Argument(metavar="TASK", help="The task's name.", show_default=False)],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ARG]...", help="Its arguments: JSON, or plain text where that is no JSON."),
    ] = None,
    named: Annotated[
        list[str] | None, typer.Option("--kw", metavar="NAME=VALUE", help="An argument by its name; repeatable.")
    ] = None,
    to: Annotated[str | None, typer.Option("--queue", help="The queue it goes to, if not the task's own.")] = None,
    delay: Annotated[float | None, typer.Option("--delay", help="Seconds before which it does not run.")] = None,
    priority: Annotated[int | None, typer.Option("--priority", help="-10 to 10, higher is sooner.")] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="While a job of this key is alive, no other is made.")
    ] = None,
    job_id: Annotated[str | None, typer.Option("--id", help="The job's id.")] = None,
    module: Annotated[
        list[str] | None,
        typer.Option("--module", help=f"Import this first: the task's options hold.  \\[default: ${modules.VARIABLE}]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Enqueue a job and print its id.

    Write `--` before arguments that begin with a dash: queueport enqueue -- app.tasks.add -1 2
    """
    if Capability.PERSISTENT not in queue.capabilities:
        raise Unsupported(
            f"{queue.backend} lives in one process, and this one ends here: name a URL such as sqlite:///jobs.db"
        )
    given = dict(_named(word) for word in named or ())
    values = [_value(word) for word in arguments or ()]
    chosen = _task(name, module).using(queue=to, delay=delay, priority=priority, key=key, job_id=job_id)
    handle = queue.enqueue(chosen, *values, **given)
    if as_json:
        output.document({"id": handle.id})
    else:
        output.line(handle.id)


def _task(name: str, given: list[str] | None) -> Task[..., Any, Any]:
    """The task as its module declares it, or by its name alone where no module was given."""
    names = given or modules.environment()
    modules.load(names)
    found = registry.get(name)
    if found is None and given:
        hint = nearest(name, registry.names())
        raise ConfigurationError(f"there is no task {name!r} in {', '.join(names)}{hint}")
    return task.named(name) if found is None else found


def _named(word: str) -> tuple[str, Any]:
    name, equals, value = word.partition("=")
    if not (equals and name.isidentifier()):
        raise ConfigurationError(f"--kw {word!r} is no NAME=VALUE: write it as --kw count=3")
    return name, _value(value)


def _value(word: str) -> Any:
    """JSON where it is JSON, else the text itself; what only looks like JSON is a slip of the pen."""
    try:
        return json.loads(word, parse_constant=_refuse)
    except ValueError as error:
        if word.lstrip().startswith(("{", "[", '"')):
            raise ConfigurationError(
                f"the argument {output.shortened(word, 60)!r} is no JSON ({error}): quote it for the shell, or write "
                "text as JSON, '\"...\"'"
            ) from None
        return word


def _refuse(constant: str) -> NoReturn:
    """NaN and Infinity are no JSON, whatever Python says."""
    raise ValueError(constant)

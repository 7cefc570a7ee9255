"""`queueport replay`: enqueue a new job like an existing one. For operators."""

from typing import Annotated, Any

import typer

from queueport.cli import output
from queueport.cli.enqueue import declared_task, note_undeclared
from queueport.cli.options import JobId, Json
from queueport.errors import BackendUnavailable, ConfigurationError, InvalidJob
from queueport.queue import JobQueue
from queueport.workers.modules import TASKS_ENV


def replay(
    queue: JobQueue,
    *,
    job_id: JobId,
    arguments: Annotated[
        str | None,
        typer.Option("--args", metavar="JSON", help="Other positional arguments: a JSON array, like '[1, \"a\"]'."),
    ] = None,
    keyword_arguments: Annotated[
        str | None,
        typer.Option("--kwargs", metavar="JSON", help="Other named arguments: a JSON object, like '{\"count\": 3}'."),
    ] = None,
    new_id: Annotated[str | None, typer.Option("--id", help="The new job's id; default: a new UUID.")] = None,
    module_names: Annotated[
        list[str] | None,
        typer.Option(
            "--module",
            help=f"A module that declares the task, to check the arguments; repeatable.  \\[default: ${TASKS_ENV}]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Enqueue a new job like an existing one, with the same or other arguments, and print its id."""
    args = _parsed("--args", arguments, list, "an array, such as '[1, \"a\"]'")
    kwargs = _parsed("--kwargs", keyword_arguments, dict, "an object, such as '{\"count\": 3}'")
    task = declared_task(queue.status(job_id).task, module_names)
    try:
        handle = queue.replay(job_id, args, kwargs, new_id=new_id)
    except BackendUnavailable as error:
        if not error.unknown:
            raise
        raise type(error)(f"{error}; to replay it again, repeat the command with --id {error.unknown[0]}") from error
    output.print_result({"id": handle.id, "replay_of": job_id}, handle.id, as_json)
    note_undeclared(task.name)


def _parsed(option: str, text: str | None, kind: type, wanted: str) -> Any:
    """The value of an option that is JSON; None if the option is not given. Raises ConfigurationError."""
    if text is None:
        return None
    from queueport.job.arguments import decode_json  # imported here, because pydantic is slow to import

    try:
        value = decode_json(text.encode(), f"{option} {output.shortened(text, 60)!r}")
    except InvalidJob as error:
        raise ConfigurationError(f"{error}; quote it for the shell, and write {wanted}") from None
    if not isinstance(value, kind):
        raise ConfigurationError(f"{option} {output.shortened(text, 60)!r} has the wrong form: write {wanted}")
    return value

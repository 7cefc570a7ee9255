"""The options that commands share, and `with_queue`, which opens the queue that they name. For the commands."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Concatenate

import typer

from queueport.connect import get_queue
from queueport.errors import ConfigurationError
from queueport.modules import VARIABLE
from queueport.queue import JobQueue

__all__ = [
    "After",
    "JobId",
    "Json",
    "Limit",
    "Modules",
    "Namespace",
    "OfQueue",
    "OfTask",
    "Store",
    "Url",
    "UrlWord",
    "WithError",
    "opened",
    "with_queue",
]

Url = Annotated[
    str | None,
    typer.Option("--url", envvar="QUEUEPORT_URL", show_default=False, help="The queue's URL, like sqlite:///jobs.db."),
]
UrlWord = Annotated[str | None, typer.Argument(metavar="[URL]", help="The same as --url.", show_default=False)]
Store = Annotated[
    str | None,
    typer.Option("--store", show_default=False, help="The job store's URL, where the backend keeps none itself."),
]
Namespace = Annotated[
    str | None, typer.Option("--namespace", show_default=False, help="Keeps apps on one server apart.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
OfQueue = Annotated[str | None, typer.Option("--queue", help="Only jobs of this queue.")]
OfTask = Annotated[str | None, typer.Option("--task", help="Only jobs of the task with this name.")]
WithError = Annotated[str | None, typer.Option("--error", help="Only jobs with this error, like ValueError.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="So many at most.")]
After = Annotated[str | None, typer.Option("--after", metavar="ID", help="The next page: older than this job.")]
Modules = Annotated[
    list[str] | None,
    typer.Argument(metavar="[MODULE]...", help=f"Modules that declare tasks.  \\[default: ${VARIABLE}]"),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.", show_default=False)]


def opened(url: str | None, store: str | None = None, namespace: str | None = None) -> JobQueue:
    """The queue that the options name. Raises ConfigurationError."""
    if url is None:
        raise ConfigurationError("no queue is named: give --url sqlite:///jobs.db, or set QUEUEPORT_URL")
    return get_queue(url, store=store, namespace=namespace)


def with_queue(command: Callable[Concatenate[JobQueue, ...], None], *, takes_url: bool = False) -> Callable[..., None]:
    """A command with `--url`, `--store` and `--namespace` besides its own options; they make its first argument.

    `takes_url`: the URL may be its first word, too; modules that it takes may follow.
    """

    def run(
        word: UrlWord = None, url: Url = None, store: Store = None, namespace: Namespace = None, **own: Any
    ) -> None:
        if word is not None and "://" not in word and "names" in own:
            word, own["names"] = None, [word, *(own["names"] or ())]
        with opened(word or url, store, namespace) as queue:
            command(queue, **own)

    word, *shared = (each for each in inspect.signature(run).parameters.values() if each.name != "own")
    own = list(inspect.signature(command).parameters.values())[1:]
    functools.update_wrapper(run, command)
    first = [word] if takes_url else []
    parameters = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in (*first, *own, *shared)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run

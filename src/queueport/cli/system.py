"""`queueport stats`, `check` and `setup`: the system as a whole. For operators and their probes."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from queueport import modules
from queueport.cli import output
from queueport.cli.connection import Json, Modules
from queueport.cli.endings import FAILED
from queueport.cli.logs import one_line
from queueport.errors import BackendUnavailable
from queueport.job import DEFAULT_QUEUE
from queueport.queue import JobQueue
from queueport.stats import Health, Stats
from queueport.status import JobState
from queueport.tasks import registry

if TYPE_CHECKING:
    from rich.console import Group

__all__ = ["check", "setup", "stats"]


def stats(
    queue: JobQueue,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option("--interval", min=0.1, help="Seconds between two looks of --watch.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Show how many jobs are in each queue and state, and which workers live."""
    if watch and not as_json and output.terminal():
        from rich.live import Live

        with Live(_tables(queue.stats()), console=output.console(), auto_refresh=False) as live:
            for _ in _ticks(interval):
                live.update(_tables(queue.stats()), refresh=True)
        return
    for _ in _ticks(interval if watch else None):
        seen = queue.stats()
        if as_json:
            output.document(seen.as_dict())
        else:
            output.parts(_tables(seen))


def _ticks(interval: float | None) -> Iterator[None]:
    """Once now, and then for ever, or, without an interval, never again."""
    yield
    while interval is not None:
        time.sleep(interval)
        yield


def _tables(seen: Stats) -> "Group":
    from rich.console import Group

    carried = any(line.depth != line.queued for line in seen.queues.values())  # else depth says nothing new
    states = [state.value for state in JobState]
    columns = ["queue", *(f">{state}" for state in states), ">oldest", *([">depth"] if carried else ())]
    rows = [
        [name, *(getattr(line, state) for state in states), output.age(line.oldest_queued_age), _depth(line.depth)]
        for name, line in seen.queues.items()
    ]
    rows.append(["total", *(getattr(seen.totals, state) for state in states), "", ""])
    queues = output.table(columns, [row[: len(columns)] for row in rows], gap=1)
    live = [(w.name, ", ".join(w.queues), len(w.tasks), output.ago(w.heartbeat_at)) for w in seen.workers]
    workers = output.table(("worker", "queues", ">tasks", ">heard of"), live)
    counters = f"{seen.processed} jobs ended, {seen.failed} attempts failed, {len(live)} workers live"
    return Group(queues, "", *((workers, "") if live else ()), counters)


def _depth(depth: int | None) -> str:
    return "unknown" if depth is None else str(depth)


def check(
    queue: JobQueue,
    *,
    max_depth: Annotated[
        int | None, typer.Option("--max-depth", min=0, help="Unhealthy if more jobs are queued in any queue.")
    ] = None,
    max_age: Annotated[
        float | None, typer.Option("--max-age", min=0, help="Unhealthy if a job has been queued for more seconds.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Reach backend and store, for probes.

    The exit code is 0 where both answer and no limit is passed, else 1.
    """
    health = queue.check()
    if health.ok and (max_depth is not None or max_age is not None):
        problems = _over(queue, max_depth, max_age)
        health = replace(health, ok=not problems, problems=problems)
    if as_json:
        output.document(health.as_dict())
    else:
        _print_health(queue.url, health)
    if not health.ok:
        raise typer.Exit(FAILED)


def _over(queue: JobQueue, max_depth: int | None, max_age: float | None) -> list[str]:
    """One sentence for each queue that is over a limit."""
    try:
        queues = queue.stats().queues
    except BackendUnavailable as error:
        return [str(error)]
    problems = []
    for name, line in queues.items():
        if max_depth is not None and line.queued > max_depth:
            problems.append(f"queue {name} has {line.queued} queued jobs, more than {max_depth}")
        if max_age is not None and line.oldest_queued_age is not None and line.oldest_queued_age > max_age:
            problems.append(
                f"the oldest job of queue {name} has waited {line.oldest_queued_age:.0f} s, over {max_age:g} s"
            )
    return problems


def _print_health(url: str, health: Health) -> None:
    output.line(f"{url} is {'healthy' if health.ok else 'not healthy'}")
    for part, seconds in (("backend", health.backend_seconds), ("store", health.store_seconds)):
        output.line(f"{part}: {'no answer' if seconds is None else f'{seconds * 1000:.1f} ms'}")
    for kind, sentences in (("problem", health.problems), ("warning", health.warnings)):
        for sentence in sentences:
            output.line(f"{kind}: {one_line(sentence)}")


def setup(
    queue: JobQueue,
    *,
    names: Modules = None,
    queues: Annotated[list[str] | None, typer.Option("--queue", help="A queue to make; repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Make what backend and store need before use.

    Tables, and the queues named by --queue; without it those of the modules' tasks, and without modules `default`.
    What is there already stays as it is.
    """
    modules.load(names or modules.environment())
    wanted = queues or sorted({task.queue for task in registry.tasks()}) or [DEFAULT_QUEUE]
    queue.setup(*wanted)
    if as_json:
        output.document({"queues": wanted})
    else:
        output.line(f"{queue.url} is set up for {', '.join(wanted)}")

"""`queueport stats`, `check` and `setup`: commands for the whole system. For operators and health probes."""

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from queueport.cli import output
from queueport.cli.enqueue import check_persistent
from queueport.cli.exit_codes import FAILED
from queueport.cli.live_workers import worker_table
from queueport.cli.options import Json, Modules, QueueFilter, QueueName, TaskFilter, Watch, parse_seconds
from queueport.cli.queue_names import known_queues, note_unused
from queueport.cli.watching import show
from queueport.engine.thresholds import EVERY, Thresholds
from queueport.errors import BackendUnavailable, ConfigurationError, encodable
from queueport.job import DEFAULT_QUEUE
from queueport.queue import JobQueue
from queueport.spi.settings import duration, warned
from queueport.stats import Health, HistoryPoint, Stats
from queueport.status import JobState
from queueport.tasks import registry
from queueport.workers import modules

if TYPE_CHECKING:
    from rich.console import RenderableType

    from queueport.cli.tables import Table

LIMIT = "[QUEUE=]NUMBER"


def stats(queue: JobQueue, *, watch: Watch = None, as_json: Json = False) -> None:
    """Show the number of jobs by queue and state, the last minute and hour, paused and limited queues, and the live
    workers.
    """
    show(queue.stats, Stats.as_dict, _tables, as_json=as_json, watch=watch)


def _tables(current: Stats) -> "Sequence[RenderableType]":
    show_depth = any(counts.depth != counts.queued for counts in current.queues.values())
    states = [state.value for state in JobState]
    columns = ["queue", *(f">{state}" for state in states), ">oldest", *([">depth"] if show_depth else ())]
    rows = [
        [
            name,
            *(getattr(counts, state) for state in states),
            output.age(counts.oldest_queued_age),
            "unknown" if counts.depth is None else str(counts.depth),
        ]
        for name, counts in current.queues.items()
    ]
    rows.append(["total", *(getattr(current.totals, state) for state in states), "", ""])
    queues = output.table(columns, [row[: len(columns)] for row in rows], gap=1)
    paused = [
        (name, output.ago(counts.paused.since), counts.paused.reason)
        for name, counts in current.queues.items()
        if counts.paused is not None
    ]
    pauses = output.table(("paused queue", ">since", "reason"), paused)
    limited = [(name, str(counts.limit)) for name, counts in current.queues.items() if counts.limit is not None]
    live = current.workers
    counters = (
        f"jobs ended {_number(current.processed, 'time')}, {_number(current.failed, 'attempt')} failed, "
        f"{_number(len(live), 'worker')} live"
    )
    past = _past(current)
    recent = output.table(PAST, past, gap=1, keys=2)
    parts = [
        *((recent, "") if past else ()),
        *((pauses, "") if paused else ()),
        *((output.table(("limited queue", "limit"), limited), "") if limited else ()),
        *((worker_table(live), "") if live else ()),
    ]
    return queues, "", *parts, counters


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def pause(
    queue: JobQueue,
    *,
    queue_name: QueueName,
    reason: Annotated[str | None, typer.Option("--reason", help="Why; `stats` shows it.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Start no more jobs of a queue, until it is resumed.

    Takes effect within two seconds in all workers, also in those of Celery, RQ and Dramatiq. Running jobs continue. If
    the queue is paused already, only the reason changes.
    """
    check_persistent(queue)
    known = known_queues(queue)
    queue.pause(queue_name, reason)
    text = f"queue {queue_name} is paused; `queueport resume {queue_name}` starts its jobs again"
    output.print_result({"queue": queue_name, "paused": True, "reason": reason}, text, as_json)
    note_unused(queue_name, known)


def resume(queue: JobQueue, *, queue_name: QueueName, as_json: Json = False) -> None:
    """Start the jobs of a paused queue again."""
    resumed = queue.resume(queue_name)
    text = f"queue {queue_name} is resumed" if resumed else f"queue {queue_name} was not paused"
    output.print_result({"queue": queue_name, "resumed": resumed}, text, as_json)


def limit(
    queue: JobQueue,
    *,
    queue_name: QueueName,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", help="At most so many jobs run at a time.", show_default=False)
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option("--rate", help="At most so many jobs start on average, like 100/m.", show_default=False),
    ] = None,
    burst: Annotated[
        int | None,
        typer.Option("--burst", help="At most so many jobs start at once, with --rate.", show_default=False),
    ] = None,
    lift: Annotated[bool, typer.Option("--none", help="Lift the limit of the queue.")] = False,
    as_json: Json = False,
) -> None:
    """Limit how many jobs of a queue run at a time or start in a time, over all workers.

    Takes effect within two seconds. Replaces the earlier limit of the queue. Running jobs continue.
    """
    given = (concurrency, rate, burst) != (None, None, None)
    if given == lift:
        raise ConfigurationError("give --concurrency or --rate to set a limit, or only --none to lift it")
    if burst is not None and rate is None:
        raise ConfigurationError("--burst has no effect without a rate: give --rate too, or leave it out")
    check_persistent(queue)
    queue.limit(queue_name, concurrency=concurrency, rate=rate, burst=burst)
    text = f"queue {queue_name} has no limit" if lift else f"queue {queue_name} is limited"
    result = {"queue": queue_name, "concurrency": concurrency, "rate": rate, "burst": burst}
    output.print_result(result, text, as_json)


def limits(queue: JobQueue, *, as_json: Json = False) -> None:
    """List the limits of queues. Those of tasks are in the code."""
    found = [{"queue": name, **asdict(limit)} for name, limit in sorted(queue.queue_limits().items())]
    if as_json:
        output.print_json(found)
        return
    rows = [["" if value is None else value for value in limit.values()] for limit in found]
    output.print_parts(output.table(("queue", ">concurrency", ">rate", ">burst"), rows))


PAST = ("queue", "last", ">enqueued", ">succeeded", ">failed", ">dead", ">wait p95", ">run p50", ">run p95")


def _past(current: Stats) -> list[list[object]]:
    """The rows of the last minute and the last hour of each queue, and of all queues, that have done anything."""
    spans = [(name, (queue.last_minute, queue.last_hour)) for name, queue in current.queues.items()]
    rows: list[list[object]] = []
    for name, points in (*spans, ("total", (current.last_minute, current.last_hour))):
        for last, point in zip(("minute", "hour"), points, strict=True):
            if point is not None and point != HistoryPoint(point.at, point.seconds):
                numbers = [point.enqueued, point.succeeded, point.failed, point.dead]
                times = [point.wait.p95, point.run.p50, point.run.p95]
                rows.append([name, last, *numbers, *map(output.brief, times)])
    return rows


def history(
    queue: JobQueue,
    *,
    queue_name: QueueFilter = None,
    task: TaskFilter = None,
    since: Annotated[
        float,
        typer.Option(
            "--since", parser=parse_seconds, metavar="TIME", show_default="1h", help="How far to look back, up to 30d."
        ),
    ] = 3600.0,
    step: Annotated[
        float,
        typer.Option(
            "--step",
            parser=parse_seconds,
            metavar="TIME",
            show_default="1m",
            help="Length of a point; whole hours if --since is above 24h.",
        ),
    ] = 60.0,
    watch: Watch = None,
    as_json: Json = False,
) -> None:
    """Show what happened to jobs in the past, with percentiles of waits and run times."""
    show(
        lambda: queue.history(queue_name, task, since, step),
        lambda points: [point.as_dict() for point in points],
        lambda points: [_history_table(points, "%H:%M" if since <= 86_400 else "%m-%d %H:%M")],
        as_json=as_json,
        watch=watch,
    )


def _history_table(points: Sequence[HistoryPoint], form: str) -> "Table":
    rows = [
        [
            point.at.astimezone().strftime(form),
            *(getattr(point, name) for name in EVENTS),
            output.brief(point.wait.p95),
            output.brief(point.run.p95),
        ]
        for point in points
    ]
    columns = ("time", *(f">{name}" for name in EVENTS), ">wait p95", ">run p95")
    return output.table(columns, rows, gap=1)


EVENTS = ("enqueued", "succeeded", "failed", "dead", "retried", "cancelled")


def check(
    queue: JobQueue,
    *,
    max_depth: Annotated[
        list[str] | None,
        typer.Option("--max-depth", metavar=LIMIT, help="Unhealthy if a queue has more queued jobs than this."),
    ] = None,
    max_age: Annotated[
        list[str] | None,
        typer.Option(
            "--max-age",
            metavar="[QUEUE=]SECONDS",
            help="Unhealthy if a job has been queued for longer than this.",
        ),
    ] = None,
    max_dead: Annotated[
        list[str] | None,
        typer.Option("--max-dead", metavar=LIMIT, help="Unhealthy if a queue has more dead jobs than this."),
    ] = None,
    max_failure_rate: Annotated[
        list[str] | None,
        typer.Option(
            "--max-failure-rate",
            metavar=LIMIT,
            help="Unhealthy if a higher part of a queue's attempts has failed in the last hour, such as 0.1.",
        ),
    ] = None,
    min_workers: Annotated[
        list[str] | None,
        typer.Option(
            "--min-workers",
            metavar=LIMIT,
            help="Unhealthy if fewer worker processes than this are alive; with QUEUE=, if fewer take jobs from it.",
        ),
    ] = None,
    worker: Annotated[
        str | None, typer.Option("--worker", metavar="NAME", help="Check only that the worker with this name is alive.")
    ] = None,
    this_host: Annotated[
        bool, typer.Option("--this-host", help="Check only that a worker of this host is alive.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check that backend and store answer and that a worker takes the waiting jobs, for health probes.

    The exit code is 0 if the check finds no problem, no job waits in a queue without a live worker and no limit is
    exceeded, else 1. Warnings do not change the exit code. The options with a limit can be repeated: emails=1000 is a
    limit for the queue emails, and 50 one for every other queue. With --worker or --this-host, the exit code is 0 if
    the worker or a worker of this host is alive, else 1.
    """
    given = {"max_depth": max_depth, "max_age": max_age, "max_dead": max_dead, "min_workers": min_workers}
    given["max_failure_rate"] = max_failure_rate
    limits = {name: _limits(name, words) for name, words in given.items() if words}
    if worker is not None or this_host:
        if limits:
            raise ConfigurationError("--worker and --this-host check only workers: leave out the limits")
        _check_worker(queue, worker, as_json)
        return
    thresholds, health = Thresholds(**limits), queue.check(workers=True)
    if limits and health.store_seconds is not None:
        health = _with_limits(health, queue, thresholds)
    if as_json:
        output.print_json(health.as_dict())
    else:
        unlogged = [warning for warning in health.warnings if warning not in warned]
        _print_health(queue.url, replace(health, warnings=unlogged))
    if not health.ok:
        raise typer.Exit(FAILED)


def _check_worker(queue: JobQueue, name: str | None, as_json: bool) -> None:
    """Print the live worker with this name; with None, the live workers of this host.

    If this worker is not alive, exits with FAILED. The text, unlike the JSON, then names all live workers.
    """
    live = [worker.name for worker in queue.stats().workers]
    host = encodable(socket.gethostname())
    found = [each for each in live if (each.rsplit("-", 2)[0] == host if name is None else each == name)]
    wanted = f"runs on {host}" if name is None else f"is named {name}"
    text = f"alive: {', '.join(found)}" if found else f"no live worker {wanted}; alive: {', '.join(live) or 'none'}"
    output.print_result({"ok": bool(found), "workers": found}, text, as_json)
    if not found:
        raise typer.Exit(FAILED)


def _limits(name: str, words: list[str]) -> dict[str, Any]:
    """The limits of one option, by queue name."""
    limits: dict[str, Any] = {}
    for word in words:
        queue, _, number = word.rpartition("=")
        read: Callable[[str], float] = READERS.get(name, int)
        try:
            limit = read(number)
        except ValueError:
            option, kind = f"--{name.replace('_', '-')}", "number" if read is not duration else "time such as 90s or 5m"
            wanted = f"a {kind}, or QUEUE= and a {kind}"
            raise ConfigurationError(f"{option} must be {wanted}, not {word!r:.80}") from None
        limits[queue if "=" in word else EVERY] = limit
    return limits


READERS: Mapping[str, Callable[[str], float]] = {"max_age": duration, "max_failure_rate": float}
"""What reads the number of a limit that may be another number than an integer."""


def _with_limits(health: Health, queue: JobQueue, thresholds: Thresholds) -> Health:
    """Add a problem for each limit that is exceeded, and the warnings about the limits.

    If the numbers of the queues cannot be read, the error is a problem.
    """
    warnings = health.warnings
    try:
        stats = queue.stats()
        more, warnings = thresholds.problems(stats), [*warnings, *thresholds.warnings(stats)]
    except BackendUnavailable as error:
        more = [str(error)]
    problems = list(dict.fromkeys([*health.problems, *more]))
    return replace(health, ok=not problems, problems=problems, warnings=warnings)


def _print_health(url: str, health: Health) -> None:
    output.print_line(f"{url} is {'healthy' if health.ok else 'not healthy'}")
    for part, seconds in (("backend", health.backend_seconds), ("store", health.store_seconds)):
        output.print_line(f"{part}: {'failed' if seconds is None else f'{seconds * 1000:.1f} ms'}")
    for kind, sentences in (("problem", health.problems), ("warning", health.warnings)):
        for sentence in sentences:
            output.print_line(f"{kind}: {output.one_line(sentence)}")


def setup(
    queue: JobQueue,
    *,
    module_names: Modules = None,
    queue_names: Annotated[list[str] | None, typer.Option("--queue", help="A queue to create; repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Create the tables and queues that backend and store need before use.

    The queues are those given by --queue, else those of the modules' tasks, else `default`.

    Existing queues keep their settings, but on SQS a missing redrive policy is added. Tables of an older release are
    migrated if necessary.
    """
    modules.load(module_names or modules.environment())
    names = queue_names or sorted({task.queue for task in registry.tasks()}) or [DEFAULT_QUEUE]
    queue.setup(*names)
    output.print_result({"queues": names}, f"{queue.url} is set up for {', '.join(names)}", as_json)

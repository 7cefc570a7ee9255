"""Measure how calls slow down with the number of records: `python -m benchmarks.scale [URL] [--sizes N,N,...]`.

Without a URL, a new SQLite database is measured. A database behind a URL gets new records, and keeps them if the
measurement is interrupted; so use a private server, such as `dramatiq+redis://localhost:6399/0`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import replace_part
from queueport import JobQueue, get_queue, task
from queueport.engine.dispatcher import Dispatcher
from queueport.spi.record import Change, Record
from queueport.spi.store import Insert
from queueport.status import JobError, JobState
from queueport.web import Endpoints

DOCS = Path(__file__).parent.parent / "docs"
SIZES = (1_000, 10_000, 100_000, 1_000_000)
SHARES = {"succeeded": 0.5, "dead": 0.2, "queued": 0.1, "scheduled": 0.1, "retrying": 0.05, "cancelled": 0.05}
"""The part of the records that is in each state. The queued jobs are in other queues than the jobs that are run."""
QUEUES = ("bulk", "emails", "reports")
TASKS = tuple(f"app.tasks.task{n}" for n in range(10))
ERRORS = ("builtins.ValueError", "app.errors.Rejected", "http.client.IncompleteRead")
PAYLOAD = json.dumps({"args": [42, "welcome" * 14], "kwargs": {}}, separators=(",", ":")).encode()
TARGETS: Mapping[str, float] = {
    "stats": 5,
    "status": 1,
    "jobs": 20,
    "dead letters": 10,
    "dispatcher": 20,
    "longest": 50,
    "scrape": 10,
}
"""The highest acceptable milliseconds, by the first words of the name of a measurement."""
RATIO, RATIOS = 1.2, ("enqueue()", "run of one job")
"""The highest acceptable ratio of the time at the largest number of records to the time at the smallest."""
JOBS = 400
"""The number of jobs that are enqueued and run to measure these calls."""
RETAINED = 100_000
"""The highest number of records that retention deletes while other calls are measured."""
numbers = itertools.count()


@task(name="scale.noop")
def noop(number: int) -> int:
    """Return the number."""
    return number


# -- records ---------------------------------------------------------------------------------------


def new(queue: JobQueue, state: str, *, kept: float = 86_400.0) -> Insert:
    """A record in that state. If the state is final, the record must be deleted after `kept` seconds."""
    job_id = f"{next(numbers):012x}{random.getrandbits(80):020x}"
    record = Record(job_id, random.choice(TASKS), random.choice(QUEUES), PAYLOAD, JobState.SCHEDULED)
    return Insert(record, change(queue, JobState(state), kept), "r")


def change(queue: JobQueue, state: JobState, kept: float) -> Change:
    """The change that inserts a new job in that state."""
    lifecycle, now = queue.operations.lifecycle, time.time()
    if state is JobState.SCHEDULED:
        return lifecycle.new(delay=random.uniform(36_000, 86_400), expires=None)
    if state is JobState.QUEUED:
        first = lifecycle.new(delay=None, expires=None)
        return first.with_next(Change({"sent": True, "wake_at": None}, {"sent_at": 0.0} if first.then else {}))
    found: dict[str, Any] = {"state": state, "attempts": 1, "started_at": now}
    if state in (JobState.DEAD, JobState.RETRYING):
        at = datetime.fromtimestamp(now, UTC)
        found["errors"] = (JobError(random.choice(ERRORS), "it was refused", "Traceback ..." * 20, at, 1),)
    if state.final:
        found |= {"finished_at": now, "buried": state is JobState.DEAD}
    return Change(found, {"enqueued_at": 0.0, "wake_at": kept if state.final else random.uniform(36_000, 86_400)})


def fill(queue: JobQueue, count: int, states: Callable[[int], list[str]], **more: float) -> list[str]:
    """Insert this number of records in batches. Returns the ids of some of them."""
    ids = []
    for start in range(0, count, 500):
        inserts = [new(queue, state, **more) for state in states(min(500, count - start))]
        queue.operations.store.insert(inserts)
        ids.append(inserts[0].record.id)
    return ids


def mixed(count: int) -> list[str]:
    """This number of states, in the proportions of SHARES."""
    return random.choices(list(SHARES), list(SHARES.values()), k=count)


# -- measurements ----------------------------------------------------------------------------------


def milliseconds(call: Callable[[], object], times: int = 15) -> float:
    """The median duration of this number of calls."""
    took = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        took.append((time.perf_counter() - started) * 1000)
    return median(took)


def measure(queue: JobQueue, ids: list[str]) -> dict[str, float]:
    """The milliseconds of each call, with the records that the store has now."""
    dispatcher, dead = Dispatcher(queue.operations), queue.dead_letters
    dispatcher.tick()  # the first round also reads the store's clock
    found = {
        "stats()": milliseconds(queue.stats),
        "status()": milliseconds(lambda: queue.status(random.choice(ids)), 100),
        "jobs()": milliseconds(queue.jobs),
        "jobs(queue=)": milliseconds(lambda: queue.jobs(queue="bulk")),
        "jobs(task=)": milliseconds(lambda: queue.jobs(task=TASKS[3])),
    }
    for state in SHARES:
        found[f"jobs(state={state!r})"] = milliseconds(partial(queue.jobs, state=state))
    found["dead letters: list()"] = milliseconds(dead.list)
    found["dead letters: list(error=)"] = milliseconds(lambda: dead.list(error="Rejected"))
    found["dead letters: list(error=), never seen"] = milliseconds(lambda: dead.list(error="never.Seen"))
    found["scrape of /metrics"] = milliseconds(Endpoints(queue=queue).metrics)
    found["dispatcher: a round with nothing due"] = milliseconds(dispatcher.tick)
    found["dispatcher: a round with 99 records due"] = median([round_of_99(queue, dispatcher) for _ in range(5)])
    rounds = [enqueue_and_run(queue) for _ in range(5)]
    found["enqueue()"] = median(enqueue for enqueue, _ in rounds)
    found["run of one job"] = median(run for _, run in rounds)
    return found


def round_of_99(queue: JobQueue, dispatcher: Dispatcher) -> float:
    """The milliseconds of a round of the dispatcher that deletes 99 records, which is less than one batch."""
    fill(queue, 99, lambda count: ["cancelled"] * count, kept=0.0)
    return milliseconds(dispatcher.tick, 1)


def enqueue_and_run(queue: JobQueue) -> tuple[float, float]:
    """The milliseconds for one `enqueue`, and those in which eight threads of this process run one job."""
    enqueue = milliseconds(lambda: queue.enqueue(noop, 1), JOBS)
    worker = queue.worker("default", tasks=[noop], burst=True)
    return enqueue, milliseconds(worker.run, 1) / JOBS


def retain(queue: JobQueue, url: str, count: int) -> dict[str, float]:
    """Let another process delete `count` records, and enqueue meanwhile. The longest and the median `enqueue`."""
    fill(queue, count, lambda some: ["succeeded"] * some, kept=0.0)
    context = multiprocessing.get_context("spawn")
    deleting = context.Process(target=delete_due, args=(url, queue.settings.namespace))
    deleting.start()
    took = []
    while deleting.is_alive():
        took.append(milliseconds(lambda: queue.enqueue(noop, 1), 1))
        time.sleep(0.001)
    if deleting.exitcode:
        raise SystemExit("the other process could not delete the records")
    return {"longest enqueue() during retention": max(took), "enqueue() during retention": median(took)}


def delete_due(url: str, namespace: str) -> None:
    """Do what a dispatcher does, until no record is due."""
    with get_queue(url, namespace=namespace) as queue:
        while queue.operations.dispatch(100):
            pass


# -- the report ------------------------------------------------------------------------------------


def table(measured: Mapping[int, Mapping[str, float]]) -> str:
    """The figures in Markdown, with a column for each number of records."""
    sizes = list(measured)
    lines = [
        "| milliseconds with | " + " | ".join(f"{size:,} records" for size in sizes) + " | target |",
        "| --- " * (len(sizes) + 2) + "|",
    ]
    for name in measured[sizes[-1]]:
        figures = [measured[size].get(name) for size in sizes]
        cells = ["" if figure is None else f"{figure:.3f}" for figure in figures]
        lines.append(f"| {name} | {' | '.join(cells)} | {target(name, figures[0], figures[-1])} |")
    return "\n".join(lines)


def target(name: str, first: float | None, last: float | None) -> str:
    """The target of a measurement. It is in bold face if it is missed; empty if there is none."""
    highest = next((value for start, value in TARGETS.items() if name.startswith(start)), None)
    if highest is None and name in RATIOS and first is not None:
        highest = first * RATIO
    if highest is None or last is None:
        return ""
    return f"≤ {highest:.3g}" if last <= highest else f"**≤ {highest:.3g}**"


def chart(measured: Mapping[int, Mapping[str, float]], path: Path) -> None:
    """Draw each measurement against the number of records."""
    from matplotlib.figure import Figure  # only `--write` needs this package

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for name in next(iter(measured.values())):
        axes.plot(list(measured), [figures[name] for figures in measured.values()], marker=".", label=name)
    axes.set(xscale="log", yscale="log", xlabel="records", ylabel="milliseconds")
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path, format="svg", metadata={"Date": None})


def write(name: str, measured: Mapping[int, Mapping[str, float]]) -> None:
    """Replace the table and the chart of this store in `docs`."""
    chart(measured, DOCS / f"scale-{name}.svg")
    replace_part(DOCS, f"scale {name}", f"![Chart](scale-{name}.svg)\n\n{table(measured)}")


def main() -> None:
    """Measure with each number of records, and print the table. `--write` also replaces it in `docs`."""
    parser = argparse.ArgumentParser(description="Measure how calls slow down with the number of records.")
    parser.add_argument("url", nargs="?", help="the URL of an empty private server (default: a new SQLite database)")
    parser.add_argument("--sizes", default=SIZES, type=lambda text: [int(size) for size in text.split(",")])
    parser.add_argument("--write", choices=("sqlite", "redis"), help="write the table and a chart to docs")
    given = parser.parse_args()
    measured: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="scale_") as folder:
        url, namespace = given.url or f"sqlite:///{folder}/jobs.db", f"scale{time.time_ns()}"
        with get_queue(url, namespace=namespace) as queue:
            queue.setup("default", *QUEUES)
            ids: list[str] = []
            for size, before in zip(given.sizes, (0, *given.sizes), strict=False):
                ids += fill(queue, size - before, mixed)
                measured[size] = measure(queue, ids)
                print(size, json.dumps(measured[size]), file=sys.stderr, flush=True)
            largest = given.sizes[-1]
            measured[largest] |= retain(queue, url, min(RETAINED, largest))
    print(table(measured))
    if given.write:
        write(given.write, measured)


if __name__ == "__main__":
    main()

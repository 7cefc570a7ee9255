"""Measure what has no library to compare with: `python -m benchmarks.core [--write]`.

That is the core alone, on `memory://`, which needs no server; the import of the package; and how much faster two worker
processes are than one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from benchmarks.__main__ import ROOT, machine, one
from benchmarks.pairs import PAIRS
from benchmarks.report import replace_part
from queueport import JobQueue, get_queue, task
from queueport.testing.private_servers import RabbitMQ
from queueport.testing.redis_store import Redis
from queueport.testing.waiting import eventually

COUNT, ROUNDS = 2_000, 15
"""The number of jobs of a round, and the number of rounds."""
WARM = 50
"""The number of jobs before those that are measured: what is computed once for a task is known then."""
BUSY = 6_000
"""The number of jobs that one worker process, and then two, run."""
STARTED: list[int] = []
"""When jobs of `note_start` have started, in nanoseconds."""


@dataclass(frozen=True, slots=True)
class Figure:
    """The values of all rounds, and the target: the longest acceptable duration, or (`at_least`) the lowest ratio.

    The target of a duration is for the best round, which other programs of the machine and Python's garbage collection
    have disturbed least. That of a ratio is for the median.
    """

    name: str
    values: Sequence[float]
    target: float
    at_least: bool = False

    def row(self) -> str:
        """The row of the table. The target is in bold face if it is missed."""
        middle = median(self.values)
        best, sign = (max(self.values), "≥") if self.at_least else (min(self.values), "≤")
        met = middle >= self.target if self.at_least else best <= self.target
        target = f"{sign} {self.target:g}"
        return f"| {self.name} | {best:.2f} | {middle:.2f} | {target if met else f'**{target}**'} |"


@task(name="core.noop")
def noop() -> None:
    """Do nothing."""


@task(name="core.note_start")
def note_start() -> None:
    """Record the time."""
    STARTED.append(time.monotonic_ns())


def microseconds(act: Callable[[], object]) -> float:
    """The duration of `act` for each of the COUNT jobs that it treats."""
    started = time.perf_counter()
    act()
    return (time.perf_counter() - started) / COUNT * 1e6


def one_round() -> tuple[float, float, float]:
    """The microseconds of one `enqueue`, of one job of `enqueue_many`, and of one run in eight threads."""
    with get_queue("memory://") as queue:
        queue.enqueue_many(noop.job() for _ in range(WARM))
        queue.worker("default", tasks=[noop], threads=8, burst=True).run()
        single = microseconds(lambda: [queue.enqueue(noop) for _ in range(COUNT)])
        run = microseconds(queue.worker("default", tasks=[noop], threads=8, burst=True).run)
        return single, microseconds(lambda: queue.enqueue_many(noop.job() for _ in range(COUNT))), run


def memory() -> list[Figure]:
    """The figures of the memory backend."""
    singles, items, runs = zip(*(one_round() for _ in range(ROUNDS)), strict=True)
    with get_queue("memory://") as queue:
        latencies = start_latencies(queue)
    return [
        Figure("`enqueue` on `memory://`, µs", singles, 45),
        Figure("one job of `enqueue_many` on `memory://`, µs", items, 25),
        Figure("run of one job on `memory://`, µs", runs, 90),
        Figure("enqueue to start on an idle worker, `memory://`, ms", latencies, 3),
    ]


def start_latencies(queue: JobQueue) -> list[float]:
    """The milliseconds from the call of `enqueue` to the start of the job, with an idle worker."""
    worker = queue.worker("default", tasks=[note_start])
    thread = threading.Thread(target=worker.run)
    thread.start()
    took = []
    try:
        for number in range(100):
            time.sleep(0.02)  # the worker is idle again
            called = time.monotonic_ns()
            queue.enqueue(note_start)
            eventually(lambda: len(STARTED) > number)  # noqa: B023  # called at once
            took.append((STARTED[number] - called) / 1e6)
    finally:
        worker.stop()
        thread.join()
    return took


def imports() -> Figure:
    """How much longer Python takes if it imports queueport."""
    took = {"pass": [], "import queueport": []}  # type: dict[str, list[float]]
    for _ in range(ROUNDS):
        for code, times in took.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append((time.perf_counter() - started) * 1000)
    without = median(took["pass"])
    return Figure("`import queueport`, ms", [each - without for each in took["import queueport"]], 90)


def second_process(name: str, redis: str, rabbitmq: str) -> Figure:
    """How much faster two worker processes run jobs than one."""
    pair = replace(PAIRS[name], jobs=BUSY)
    ratios = []
    for _ in range(3):
        single = one(pair, "ours", redis, rabbitmq)["run"]
        ratios.append(one(replace(pair, ours="ours:Double"), "ours", redis, rabbitmq)["run"] / single)
    return Figure(f"two worker processes to one, {pair.title}", ratios, 1.7, at_least=True)


def table(figures: Sequence[Figure]) -> str:
    """The figures in Markdown."""
    return "\n".join(
        [
            f"{machine()}",
            "",
            "| | best round | median | target |",
            "| --- | --- | --- | --- |",
            *(f.row() for f in figures),
        ]
    )


def main() -> None:
    """Measure, and print the table. `--write` also replaces it in `docs`."""
    parser = argparse.ArgumentParser(description="Measure the core alone, and two worker processes.")
    parser.add_argument("--write", action="store_true", help="write the table to docs/benchmarks.md")
    given = parser.parse_args()
    figures = [*memory(), imports()]
    redis, rabbitmq = Redis().url, RabbitMQ().url
    figures += [second_process(name, redis, rabbitmq) for name in ("dramatiq-redis", "rabbitmq")]
    text = table(figures)
    print(text)
    if given.write:
        replace_part(ROOT / "docs", "core", text)


if __name__ == "__main__":
    main()

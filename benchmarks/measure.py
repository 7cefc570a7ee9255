"""All measurements of one side, in a fresh process: `python -m benchmarks.measure MODULE:CLASS JOBS` prints JSON.

The parent process sets the environment: BENCH_STARTS (see `probe`), and the servers, folder and option of the side.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psutil

from benchmarks.probe import count_starts, read_starts
from benchmarks.sides.side import Side

DEADLINE = 120.0
"""Seconds after which a measurement fails because jobs have not started."""
SINGLES, BULK, LATENCIES, READS = 500, 1000, 100, 300
CALLERS = 8
"""Threads that enqueue at once."""


def measure(side: Side, jobs: int) -> dict[str, float]:
    """Make every measurement that the side supports. The keys are those of `report.FIGURES`."""
    for _ in range(20):  # this call opens the connections, and is not measured
        side.enqueue()
    found = {"single": rate(SINGLES, lambda: [side.enqueue() for _ in range(SINGLES)])}
    found["bulk"] = rate(BULK, lambda: side.enqueue_many(BULK))
    if side.thread_safe:
        found["callers_p50_ms"], found["callers_p99_ms"] = callers(side)
    if side.worker() is None:
        return found
    with worker(side) as process:
        waiting = 20 + SINGLES + BULK + CALLERS * (SINGLES // CALLERS)
        wait_for_starts(waiting)  # the worker now runs the jobs of the measurements above
        settle(process)
        latencies = sorted(start_latencies(side))
        for percent in (50, 95, 99):
            found[f"start_p{percent}_ms"] = percentile(latencies, percent) * 1000
        found["reads"] = reads(side)
    for name, milliseconds in (("run", 0.0), ("run_1ms", 1.0)):
        found |= run(side, name, jobs, milliseconds)
    return found


def rate(count: int, act: Callable[[], object]) -> float:
    """Call `act`, which does `count` operations, and return the number of operations per second."""
    started = time.perf_counter()
    act()
    return count / (time.perf_counter() - started)


def callers(side: Side) -> tuple[float, float]:
    """Median and 99th percentile of the milliseconds of one enqueue, while 8 threads enqueue at once."""

    def enqueue_some(_: int) -> list[float]:
        times = []
        for _ in range(SINGLES // CALLERS):
            started = time.perf_counter()
            side.enqueue()
            times.append((time.perf_counter() - started) * 1000)
        return times

    with ThreadPoolExecutor(CALLERS) as pool:
        times = sorted(seconds for some in pool.map(enqueue_some, range(CALLERS)) for seconds in some)
    return percentile(times, 50), percentile(times, 99)


def start_latencies(side: Side) -> Iterator[float]:
    """Seconds from the call of `enqueue` to the start of the job, with an idle worker."""
    before = jobs_started()
    for number in range(before, before + LATENCIES):
        time.sleep(0.02)
        called = time.monotonic_ns()
        side.enqueue()
        wait_for_starts(number + 1)
        yield (starts()[number] - called) / 1e9


def reads(side: Side) -> float:
    """The number of results of ended jobs that can be read per second."""
    handle = side.enqueue()
    deadline = time.monotonic() + DEADLINE
    while side.result(handle) is None:
        if time.monotonic() > deadline:
            raise SystemExit("the result of a job did not arrive")
    return rate(READS, lambda: [side.result(handle) for _ in range(READS)])


def run(side: Side, name: str, jobs: int, milliseconds: float) -> dict[str, float]:
    """Jobs per second from the first start to the last, CPU milliseconds per job, and the memory of the worker."""
    before = jobs_started()
    if milliseconds:
        for _ in range(jobs):
            side.enqueue(milliseconds)
    else:
        side.enqueue_many(jobs)
    with worker(side) as process:
        warm = jobs // 10  # the first tenth runs while imports and connections are new
        wait_for_starts(before + warm)
        counted, used = jobs_started(), cpu(process)
        wait_for_starts(before + jobs)
        used, memory = cpu(process) - used, resident(process)
    times = starts()[counted - 1 : before + jobs]
    count = len(times) - 1
    found = {name: count / ((times[-1] - times[0]) / 1e9)}
    return found if milliseconds else {**found, "cpu_ms": used * 1000 / count, "rss_mb": memory / 2**20}


def settle(process: psutil.Process) -> None:
    """Wait until the worker uses less than a tenth of a core: all jobs are finished then."""
    deadline = time.monotonic() + DEADLINE
    while True:
        used = cpu(process)
        time.sleep(0.5)
        if cpu(process) - used < 0.05:
            return
        if time.monotonic() > deadline:
            raise SystemExit("the worker does not become idle")


@contextmanager
def worker(side: Side) -> Iterator[psutil.Process]:
    """Runs the side's worker inside the `with` block."""
    command = side.worker()
    assert command is not None, "this side has no worker"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def family(process: psutil.Process) -> list[psutil.Process]:
    """The process and all its children."""
    return [process, *process.children(recursive=True)]


def cpu(process: psutil.Process) -> float:
    """The seconds that the processor has worked for a process and its children."""
    return sum(each.cpu_times().user + each.cpu_times().system for each in family(process))


def resident(process: psutil.Process) -> float:
    """The bytes of memory of a process and its children."""
    return float(sum(each.memory_info().rss for each in family(process)))


def starts() -> list[int]:
    """The starts of all jobs so far, in order."""
    return read_starts(os.environ["BENCH_STARTS"])


def jobs_started() -> int:
    """The number of jobs that have started."""
    return count_starts(os.environ["BENCH_STARTS"])


def wait_for_starts(count: int) -> None:
    """Wait until that many jobs have started."""
    deadline = time.monotonic() + DEADLINE
    while jobs_started() < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"only {jobs_started()} of {count} jobs have started")
        time.sleep(0.002)


def percentile(ordered: list[float], percent: int) -> float:
    """The value below which that many percent of the values are."""
    return ordered[min(len(ordered) - 1, round(len(ordered) * percent / 100))]


def main(name: str, jobs: int) -> None:
    """Measure the side with this name and print the figures."""
    module, _, cls = name.partition(":")
    side: Side = getattr(importlib.import_module(f"benchmarks.sides.{module}"), cls)()
    figures: dict[str, Any] = measure(side, jobs)
    print(json.dumps(figures))
    sys.stdout.flush()
    os._exit(0)  # exit at once, because some libraries would wait for their threads


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

"""Run the benchmark: `python -m benchmarks [--rounds N] [--write] [PAIR ...]`.

In each round, both sides of a pair are measured one after the other, each in a fresh process. The table shows medians
over the rounds. Run it on an otherwise idle machine: the ratios mean more than the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from redis import Redis as Client

from benchmarks import report
from benchmarks.pairs import PAIRS, Pair
from benchmarks.probe import count_starts
from queueport.testing.private_servers import RabbitMQ
from queueport.testing.redis_store import Redis

ROOT = Path(__file__).parent.parent
LIBRARIES = ("celery", "dramatiq", "huey", "pika", "redis", "rq")


def main() -> None:
    """Measure the given pairs, or all, and print the table. `--write` also replaces the figures in `docs`."""
    parser = argparse.ArgumentParser(description="Compare each library with queueport on it.")
    parser.add_argument("pairs", nargs="*", metavar="PAIR", help=f"of {', '.join(PAIRS)}; default: all")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is measured (default: 3)")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.json and the page made from it")
    given = parser.parse_args()
    names = given.pairs or list(PAIRS)
    if unknown := set(names) - PAIRS.keys():
        parser.error(f"no pair is called {', '.join(sorted(unknown))}: choose from {', '.join(PAIRS)}")
    redis, rabbitmq = Redis().url, RabbitMQ().url
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(given.rounds):
        for name in names:
            figures[name].append(both(PAIRS[name], redis, rabbitmq))
            print(name, json.dumps(figures[name][-1]), file=sys.stderr, flush=True)
    measured = {"machine": machine(), "versions": {name: version(name) for name in LIBRARIES}, "pairs": figures}
    print(report.table(measured))
    if given.write:
        report.write(measured, ROOT / "docs")


def both(pair: Pair, redis: str, rabbitmq: str) -> dict[str, Any]:
    """Measure the library used directly, then queueport."""
    return {side: one(pair, side, redis, rabbitmq) for side in ("native", "ours")}


def one(pair: Pair, side: str, redis: str, rabbitmq: str) -> dict[str, float]:
    """Measure one side on empty servers."""
    with Client.from_url(redis) as client, folder() as place:
        client.flushall()
        address = pair.url.format(redis=redis, rabbitmq=rabbitmq, folder=place)
        environment = {
            "BENCH_REDIS": redis,
            "BENCH_RABBITMQ": rabbitmq,
            "BENCH_FOLDER": str(place),
            "BENCH_OPTION": pair.option,
            "BENCH_STARTS": str(place / "starts"),
            "QUEUEPORT_URL": address,
            "BENCH_QUEUE": place.name,  # the folder's name names a new queue in RabbitMQ
            "QUEUEPORT_NAMESPACE": place.name,
        }
        name = pair.native if side == "native" else pair.ours
        ran = subprocess.run(
            [sys.executable, "-m", "benchmarks.measure", name, str(pair.jobs)],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            check=True,
        )
        found: dict[str, float] = json.loads(ran.stdout)
        if jobs := count_starts(environment["BENCH_STARTS"]):
            found["stored_bytes"] = stored(client, place) / jobs
        return found


def stored(client: Client, place: Path) -> float:
    """The bytes that the jobs take in the databases of the folder and in Redis."""
    files = sum(path.stat().st_size for path in place.glob("*.db*"))
    keys = client.scan_iter(count=1000)
    return float(files + sum(client.memory_usage(key) or 0 for key in keys))


@contextmanager
def folder() -> Iterator[Path]:
    """An empty folder, whose name may be part of a queue's name."""
    place = Path(tempfile.mkdtemp(prefix="bench_"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def machine() -> str:
    """The Python, the system and the number of processors."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"Python {platform.python_version()}, {platform.system()} on {platform.machine()}, {cores} processors"


if __name__ == "__main__":
    main()

"""What a job costs on the built-in backends. A bound may be lowered when a job becomes cheaper, and not be raised."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from queueport import get_queue, hooks
from queueport.engine.dispatcher import SLOWEST, Dispatcher
from queueport.stats import WorkerStats
from queueport.testing.tasks import echo
from tests.costs import Worker, count_calls, count_statements, count_store_calls, noop

JOBS = 96
"""A multiple of the eight jobs that a worker takes at a time."""


@pytest.mark.parametrize(
    ("url", "bounds"), [("memory://", (66, 32, 102)), ("sqlite:///{folder}/jobs.db", (81, 23, 93))], ids=str
)
def test_function_calls(
    url: str, bounds: tuple[int, int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bounds` are those of `enqueue`, of a job of `enqueue_many`, and of the run of a job.

    The history takes at most 8 calls of `enqueue` and, for the two changes of a run, 6 on SQLite and 10 in memory.
    """
    enqueue, item, run = bounds
    for registered in ("_around", "_before", "_dead", "event_hooks"):
        monkeypatch.setattr(hooks, registered, [])  # ignore hooks that other tests have registered
    with get_queue(url.format(folder=tmp_path)) as queue:
        worker = Worker(queue, [noop])
        queue.enqueue_many(noop.job(number) for number in range(8))
        worker.run(8)  # the first jobs include work that is done only once
        jobs = [noop.job(number) for number in range(JOBS)]
        assert count_calls(lambda: [queue.enqueue(noop, number) for number in range(JOBS)]) <= JOBS * enqueue
        assert count_calls(lambda: queue.enqueue_many(jobs)) <= JOBS * item
        assert count_calls(lambda: worker.run(2 * JOBS)) <= 2 * JOBS * run


def test_a_module_that_only_declares_tasks_imports_neither_the_queue_nor_a_store() -> None:
    code = "import queueport, sys; print(*[name for name in sys.modules if name.startswith('queueport.')])"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = ("queueport.queue", "queueport.engine", "queueport.spi", "queueport.stores", "queueport.workers")
    assert "queueport.tasks" in imported
    assert [name for name in imported if name.startswith(heavy)] == []


def test_transactions_of_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with count_statements(monkeypatch) as found, get_queue(f"sqlite:///{tmp_path}/jobs.db") as queue:
        worker = Worker(queue, [noop])
        queue.enqueue(noop, 1)
        worker.run(1)
        found.clear()
        queue.enqueue(noop, 2)
        assert found["COMMIT"] == 1
        queue.enqueue_many(noop.job(number) for number in range(JOBS - 1))
        assert found["COMMIT"] == 2
        assert found["INSERT"] <= JOBS * 3 + 2  # two belong to the history: one for each transaction
        found.clear()
        worker.run(JOBS)
        assert found["COMMIT"] <= JOBS * 2 / 8 + 1  # only the first `take` reads whether a job waits before it writes
        assert found["UPDATE"] <= JOBS * (7 + 2 / 8)  # one begins eight jobs; the others belong to triggers


class Rounds:
    """Lets a dispatcher run three rounds, and records how long it waits before each."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def is_set(self) -> bool:
        return False

    def wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        return len(self.pauses) > 3


@pytest.mark.parametrize(
    ("workers", "serves", "lease", "pause"),
    [
        (1, 1, 30, 0.05),
        (2, 1, 30, 0.05),
        (10, 1, 30, 0.25),
        (1000, 1, 30, SLOWEST),
        (1000, 1, 3, 0.5),
        (40, 40, 30, 0.05),
        (80, 8, 30, 0.25),
    ],
)
def test_many_idle_workers_share_the_polls(
    workers: int, serves: int, lease: float, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queueport.engine.dispatcher.COUNT_EVERY", 0.0)
    with get_queue("memory://", lease=lease) as queue:
        store = queue.operations.store
        for number in range(workers):
            store.announce(WorkerStats(f"worker{number}", ("default",), (), datetime.now(UTC)), 60.0)
        dispatcher, rounds = Dispatcher(queue.operations, serves=serves), Rounds()
        monkeypatch.setattr(dispatcher, "_stop", rounds)
        dispatcher.run()
    assert 0.8 * pause <= min(rounds.pauses[1:]) <= max(rounds.pauses[1:]) <= pause


@pytest.mark.parametrize(
    ("url", "serves"), [("sqlite:///{0}/jobs.db", 40), ("spool:///{0}/q?store=sqlite:///{0}/jobs.db", 1)]
)
def test_where_the_store_is_the_queue_one_dispatcher_serves_all_processes_of_a_worker(
    url: str, serves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Dispatcher] = []

    def make(*args: Any, **options: Any) -> Dispatcher:
        made.append(Dispatcher(*args, **options))
        return made[-1]

    monkeypatch.setattr("queueport.workers.worker.Dispatcher", make)
    monkeypatch.setattr("queueport.workers.supervisor.run", lambda *_: None)
    with get_queue(url.format(tmp_path)) as queue:
        queue.worker(tasks=[echo], threads=1, processes=40).run()
    assert [dispatcher._serves for dispatcher in made] == [serves]


def test_store_calls_where_the_store_is_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    with get_queue("memory://") as queue, count_store_calls(queue.operations.store, monkeypatch) as found:
        worker = Worker(queue, [noop])
        queue.enqueue_many(noop.job(number) for number in range(JOBS))
        assert dict(found) == {"insert": 1}
        found.clear()
        worker.run(JOBS)
        assert dict(found) == {"take": JOBS // 8, "swap": JOBS // 8}

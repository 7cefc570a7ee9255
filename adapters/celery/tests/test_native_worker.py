"""Celery's own worker command keeps the contract's lines of retries, losses, crashes and timeouts, too (W9)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from adapters.celery.tests.harness import CeleryHarness
from queueport import JobQueue
from queueport.errors import JobFailed
from queueport.testing import Harness
from queueport.testing.crashes import Crashes
from queueport.testing.losses import Losses
from queueport.testing.retries import Retries
from queueport.testing.stopping import Stopping, budgets
from queueport.testing.tasks import QUEUE, die, echo
from queueport.testing.trace import Trace


class NativeHarness(CeleryHarness):
    """Where a test asks for a worker it gets `celery worker` with the prefork pool, a process for each thread."""

    def worker_command(self, *options: str) -> Sequence[str]:
        given = dict(re.findall(r"--(\w+)=(\S+)", " ".join(options)))
        queues = [option.removeprefix("--queue=") for option in options if option.startswith("--queue=")]
        count = int(given.get("threads", 2)) * int(given.get("processes", 1))
        return self.native_command(queues or [QUEUE], "-c", str(count))

    @contextmanager
    def working(self, queue: JobQueue, *queues: str, **options: Any) -> Iterator[None]:
        settings = {f"QUEUEPORT_{name.upper()}": str(value) for name, value in queue.spec()["settings"].items()}
        words = [f"--{name}={value}" for name, value in options.items()]
        worker = self.process(*queues, options=words, native=False, **settings)
        yield
        assert worker.stop() == 0


class TestPrefork(Retries, Losses, Crashes):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> NativeHarness:
        return NativeHarness("redis", private=getattr(request.function, "disrupts", False))

    # named after the lines of the contract
    test_W6_a_timeout = Stopping.test_W6_a_timeout_is_a_failure_and_the_worker_lives  # noqa: N815
    test_W6_another_try = Stopping.test_W6_after_a_timeout_it_is_tried_again  # noqa: N815
    test_W6_no_interrupt = Stopping.test_W6_code_that_cannot_be_interrupted_ends_with_its_process  # noqa: N815

    @pytest.mark.parametrize("limit", [None, 1], ids=["third", "first"])
    def test_X2_a_job_that_kills_its_workers_is_dead_and_others_go_on(  # noqa: N802
        self, harness: Harness, queue: JobQueue, trace: Trace, limit: int | None
    ) -> None:
        """As the contract has it, but only a process of the pool dies: Celery replaces it."""
        deaths = 3 if limit is None else limit
        worker = harness.process()
        deadly = queue.enqueue(die.using(crash_limit=limit).job())
        others = [queue.enqueue(echo, n) for n in range(10)]
        with pytest.raises(JobFailed, match="WorkerLost"):
            deadly.result(deaths * (harness.settings["lease"] + 5.0))
        assert [handle.result(15) for handle in others] == list(range(10))
        assert budgets(deadly.status()) == (deaths, 0, deaths)
        assert trace.times(deadly.id) == deaths
        assert worker.running


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_celerys_other_pools_run_jobs(celery: CeleryHarness, pool: str) -> None:
    queue = celery.open()
    worker = celery.start(celery.native_command([QUEUE], "-P", pool))
    assert [queue.enqueue(echo, n).result(10) for n in range(3)] == [0, 1, 2]
    assert worker.stop() == 0


def test_a_worker_whose_tasks_cannot_be_imported_says_so_and_ends(celery: CeleryHarness) -> None:
    worker = celery.start(celery.native_command([QUEUE]), ready=False, QUEUEPORT_TASKS="no.such.module")
    assert worker.wait() == 1
    assert "there is no module 'no.such.module'" in worker.log

"""Workers of Celery's own command pass the contract's tests of retries, losses, crashes and timeouts (W9)."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from adapters.celery.tests import dying_child
from adapters.celery.tests.harness import CeleryHarness
from queueport import JobQueue, Retry, Task
from queueport.errors import JobFailed
from queueport.testing import Harness
from queueport.testing.contract.case import budgets, disrupts
from queueport.testing.contract.crash import LossTests, StaleWorkerTests, WorkerLossTests, running
from queueport.testing.contract.retry import RetryTests
from queueport.testing.contract.worker import WorkerTests
from queueport.testing.hard_tasks import asleep_once, sleep_once, spin_once
from queueport.testing.tasks import QUEUE, die, echo, wait_for
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually
from tests.telemetry import check_the_trace_continues


class NativeHarness(CeleryHarness):
    """Starts `celery worker` for every worker of a test, with a prefork process for each thread."""

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


class TestPrefork(RetryTests, WorkerLossTests, LossTests, StaleWorkerTests):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> NativeHarness:
        return NativeHarness("redis", private=getattr(request.function, "disrupts", False))

    # The names of these tests begin with contract lines.
    test_W6_a_timeout = WorkerTests.test_W6_a_timeout_is_a_failure_and_the_worker_lives  # noqa: N815
    test_W6_another_try = WorkerTests.test_W6_after_a_timeout_the_job_is_retried  # noqa: N815
    test_W6_no_interrupt = WorkerTests.test_W6_code_that_cannot_be_interrupted_ends_with_its_process  # noqa: N815

    def test_X1_one_process_of_two_is_killed_and_replaced(  # noqa: N802
        self, harness: Harness, queue: JobQueue, trace: Trace
    ) -> None:
        """As in the contract, but the stats list only Celery's parent process, which receives the messages."""
        worker = harness.process()
        handle = queue.enqueue(wait_for, "go")
        os.kill(running(trace, handle).pid, signal.SIGKILL)
        self.runs_again(harness, queue, trace, handle)
        assert len(queue.stats().workers) == 1
        assert worker.stop() == 0

    @pytest.mark.parametrize("limit", [None, 1], ids=["third", "first"])
    def test_X2_a_job_that_kills_its_workers_is_dead_and_others_go_on(  # noqa: N802
        self, harness: Harness, queue: JobQueue, trace: Trace, limit: int | None
    ) -> None:
        """As in the contract, but only a process of the pool dies, and Celery replaces it."""
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

    @disrupts
    def test_X5_a_worker_that_starts_while_the_store_is_down_held_by_it(  # noqa: N802
        self, harness: Harness, queue: JobQueue, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As in the contract, with Celery's own command, which waits for its broker on the same server."""
        assert isinstance(harness, NativeHarness)
        handle = queue.enqueue(echo, 1)
        with harness.store_down():
            worker = harness.start(harness.native_command([QUEUE], "-c", "1"), ready=False)
            eventually(lambda: "[queues]" in worker.log, 30, lambda: worker.log)
        assert handle.result(40) == 1
        assert worker.running


def test_a_killed_process_of_the_pool_is_not_a_lost_worker_and_a_job_that_it_had_not_begun_runs_soon(
    celery: CeleryHarness, trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = celery.open()
    monkeypatch.setenv(dying_child.KILLED, str(tmp_path / "killed"))
    late = {"QUEUEPORT_LOST_AFTER": "60.0", "QUEUEPORT_TASKS": dying_child.__name__}
    celery.start(celery.native_command([QUEUE], "-c", "2"), ready=True, **late)
    assert [listed.queues for listed in queue.stats().workers] == [(QUEUE,)]
    handle = queue.enqueue(echo, 1)
    assert handle.result(30) == 1  # Celery notices a killed process after ten seconds
    assert budgets(handle.status()) == (1, 0, 0)
    assert [*queue.operations.store.workers(lost=True)] == []


def test_celerys_worker_survives_the_loss_of_the_connection_over_which_it_gets_commands(
    private_redis: CeleryHarness, trace: Trace
) -> None:
    """The worker loses its other connection to Redis a little later, while Celery waits for messages over it."""
    harness = private_redis
    queue = harness.open()
    worker = harness.start(harness.native_command([QUEUE]))
    handle = queue.enqueue(wait_for, "go")
    running(trace, handle)
    with redis.Redis.from_url(harness.server.url) as client:
        allowed = client.config_get("maxclients")["maxclients"] or "10000"
        client.config_set("maxclients", 1)  # nobody can connect again
        try:
            (polling,) = [each["id"] for each in client.client_list() if each["cmd"] == "brpop"]
            with client.pipeline() as pipe:
                pipe.client_kill_filter(_type="pubsub")
                pipe.client_kill_filter(_id=polling)
                assert pipe.execute() == [1, 1]
            eventually(lambda: "Connection to broker lost" in worker.log, 20, lambda: worker.log)
        finally:
            client.config_set("maxclients", allowed)
    trace.open("go")
    assert handle.result(20) == "go"
    assert queue.enqueue(echo, 1).result(20) == 1
    assert worker.running


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_celerys_other_pools_run_jobs(celery: CeleryHarness, pool: str) -> None:
    queue = celery.open()
    worker = celery.start(celery.native_command([QUEUE], "-P", pool))
    assert [queue.enqueue(echo, n).result(10) for n in range(3)] == [0, 1, 2]
    assert worker.stop() == 0


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_trace_continues_in_celerys_worker(celery: CeleryHarness, trace: Trace, pool: str) -> None:
    start = partial(celery.start, celery.native_command([QUEUE], "-P", pool))
    check_the_trace_continues(celery.open(), start, trace.folder)


def test_a_cold_shutdown_returns_the_job_to_its_queue(celery: CeleryHarness, trace: Trace) -> None:
    queue = celery.open(lease=5)
    worker = celery.start(celery.native_command([QUEUE], "-c", "1"), QUEUEPORT_GRACE="0.5", QUEUEPORT_LEASE="5")
    handle = queue.enqueue(spin_once.using(retry=Retry(max_attempts=1)).job(30.0))
    eventually(lambda: trace.times(handle.id) == 1)
    os.kill(worker.pid, signal.SIGQUIT)
    worker.wait()
    celery.start(celery.native_command([QUEUE]))
    assert handle.result(20) == 2
    assert budgets(handle.status()) == (2, 0, 0)


@pytest.mark.parametrize("task", [spin_once, sleep_once, asleep_once], ids=["code", "call", "coroutine"])
def test_after_the_grace_period_a_signal_to_all_processes_returns_the_job_to_its_queue(
    celery: CeleryHarness, trace: Trace, task: Task[[float], int, Any]
) -> None:
    queue = celery.open(lease=5)
    worker = celery.start(celery.native_command([QUEUE], "-c", "1"), QUEUEPORT_GRACE="0.5", QUEUEPORT_LEASE="5")
    handle = queue.enqueue(task.using(retry=Retry(max_attempts=1)).job(30.0))
    eventually(lambda: trace.times(handle.id) == 1)
    worker.terminate_group()
    worker.wait()
    celery.start(celery.native_command([QUEUE]))
    assert handle.result(20) == 2
    assert budgets(handle.status()) == (2, 0, 0)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"QUEUEPORT_TASKS": "no.such.module"}, "there is no module 'no.such.module'"),
        ({"QUEUEPORT_URL": "celery+redis://localhost?x=1"}, "celery+redis://localhost has no option 'x'"),
    ],
)
def test_a_worker_that_cannot_start_ends_with_one_line_of_error(
    celery: CeleryHarness, environment: dict[str, str], said: str
) -> None:
    worker = celery.start(celery.native_command([QUEUE]), ready=False, **environment)
    assert worker.wait() == 1
    assert said in worker.log
    assert worker.log.count("\n") == 1


@disrupts
def test_a_message_returns_to_its_queue_if_the_worker_stops_before_the_store_answers(
    trace: Trace, request: pytest.FixtureRequest
) -> None:
    celery = CeleryHarness("rabbitmq", private=True)
    request.addfinalizer(celery.end)
    handle = celery.open().enqueue(echo, 1)
    worker = celery.start(celery.native_command([QUEUE], "-c", "1"), QUEUEPORT_GRACE="0.5")
    assert handle.result(10) == 1
    body = celery.message_of(handle.id)
    with celery.store_down():
        celery.inject(QUEUE, body)
        eventually(lambda: "wait until the store answers" in worker.log, 20, lambda: worker.log)
        worker.terminate_group()
        worker.wait(30)
        found = celery.broker.messages(celery.broker.names.native(QUEUE))
    assert [message.headers["id"] for message in found] == ["injected"]

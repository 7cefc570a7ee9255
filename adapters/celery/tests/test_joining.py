"""A joined Celery app: only queueport retries the jobs of its tasks, and the app's own calls work as before."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import group
from celery.states import ALL_STATES, EXCEPTION_STATES

from adapters.celery.tests import joined_tasks, legacy_app
from adapters.celery.tests.harness import JoinedHarness
from adapters.celery.tests.legacy_app import BEAT, BROKERS, IMPORTS, JOINS
from queueport import JobState, Retry, get_queue, task
from queueport.errors import ConfigurationError, JobFailed
from queueport.testing.tasks import QUEUE, echo, wait_for
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually
from tests.servers import rabbitmq_server, redis_server

SOON = Retry(max_attempts=2, initial=0.1, jitter=0.0)
STORE = "redis://127.0.0.1:6379/0"


@pytest.fixture(params=["redis", "rabbitmq"])
def joined(request: pytest.FixtureRequest, trace: Trace, monkeypatch: pytest.MonkeyPatch) -> Iterator[JoinedHarness]:
    """The harness of the existing app. Each test that uses it runs on both brokers."""
    urls = [server.url.replace("amqp://", "pyamqp://") for server in (redis_server(), rabbitmq_server())]
    for variable, url in zip(BROKERS, urls, strict=True):
        monkeypatch.setenv(variable, url)
    harness = JoinedHarness(request.param)
    apps = {"redis": legacy_app.on_redis, "rabbitmq": legacy_app.on_rabbitmq}
    apps[request.param].conf.update(broker_url=urls[request.param == "rabbitmq"], result_backend=urls[0])
    yield harness
    harness.end()
    print(harness.logs())  # noqa: T201  # pytest shows it where the test failed


def test_a_worker_that_imports_the_module_too_late_ends_with_an_error(joined: JoinedHarness, trace: Trace) -> None:
    queue = joined.open()
    handle = queue.enqueue(task.named("legacy.add"), 1, 2)
    worker = joined.start(joined.native_command([QUEUE], "-I", JOINS), ready=False, **{IMPORTS: ""})
    assert worker.wait(30) != 0
    assert f"{JOINS} was imported too late for the queues {joined.namespace}" in worker.log
    assert handle.status().attempts == 0
    joined.process(native=True)
    assert handle.result(15) == 3


def test_jobs_whose_messages_a_killed_worker_had_prefetched_run_within_a_lease(
    joined: JoinedHarness, trace: Trace
) -> None:
    """The app has Celery's default prefetch: four messages for each process of the pool."""
    queue = joined.open()
    late = {"QUEUEPORT_LOST_AFTER": "60.0"}  # the search for lost messages would find these messages, too
    killed = joined.process(native=True, **late)
    running = queue.enqueue_many(wait_for.job("go") for _ in range(2))
    eventually(lambda: len(trace.runs()) == 2)
    prefetched = queue.enqueue_many(echo.job(number) for number in range(4))
    eventually(lambda: queue.stats().queues[QUEUE].depth == 0)
    joined.process(native=True, **late)
    assert {handle.status().state for handle in prefetched} == {JobState.QUEUED}
    killed.kill()
    trace.open("go")
    handles = [*running, *prefetched]
    eventually(lambda: all(handle.status().finished for handle in handles), joined.settings["lease"] + 5.0)
    assert {(handle.status().attempts, handle.status().crashes) for handle in prefetched} == {(1, 0)}


def test_a_task_gets_keyword_arguments_of_any_name(joined: JoinedHarness, trace: Trace) -> None:
    queue = joined.open()
    joined.process(native=True)
    given = {"self": 1, "args": 2, "kwargs": 3, "declared": 4, "request": 5}
    assert queue.enqueue("legacy.named", **given).result(15) == given


@pytest.mark.parametrize("name", ["legacy.flaky", "legacy.automatic"])
def test_only_queueport_retries_the_job_of_a_task_that_retries_itself(
    joined: JoinedHarness, trace: Trace, name: str
) -> None:
    queue = joined.open()
    joined.process(native=True)
    ours = queue.enqueue(task.named(name, retry=SOON), "ours")
    queue.native.tasks[name].apply_async(["celery's"], queue=joined.own)
    with pytest.raises(JobFailed, match="ValueError: ours"):
        ours.result(20)
    assert len(trace.notes("tried", key="ours")) == 2
    assert (ours.status().failures, ours.status().state) == (2, JobState.DEAD)
    assert queue.dead_letters.count() == 1
    eventually(lambda: len(trace.notes("tried", key="celery's")) == 3, 20)
    assert queue.enqueue("legacy.add", 1).result(10) == 1
    assert len(trace.notes("tried", key="celery's")) == 3, "max_retries=2 must still mean three tries"
    assert len(trace.notes("tried", key="ours")) == 2


def test_a_task_runs_within_its_base_class_and_has_a_request(joined: JoinedHarness, trace: Trace) -> None:
    queue = joined.open()
    joined.process(native=True)
    handle = queue.enqueue(task.named("legacy.add", headers={"tenant": "a"}), 1, b=2)
    assert handle.result(20) == 3
    (noted,) = trace.notes("added")
    assert (noted["id"], noted["retries"], noted["headers"]) == (handle.id, 0, {"tenant": "a"})
    assert len(trace.notes("surrounded", task="legacy.add")) == 1
    assert (handle.status().state, handle.status().attempts) == (JobState.SUCCEEDED, 1)


def test_calls_by_celery_itself_work_as_before(joined: JoinedHarness, trace: Trace) -> None:
    queue = joined.open()
    joined.process(native=True)
    add = queue.native.tasks["legacy.add"]
    plain = add.apply_async([1], {"b": 2}, queue=joined.own)
    own = add.s(1, 2).set(queue=joined.own)
    chain = (own | add.s(4).set(queue=joined.own)).apply_async()
    chord = (group([own, own]) | queue.native.tasks["legacy.total"].s().set(queue=joined.own)).apply_async()
    assert (plain.get(timeout=20), chain.get(timeout=20), chord.get(timeout=20)) == (3, 7, 6)
    assert queue.jobs() == [], "queueport must not have records of them"


def test_beat_works_as_before(joined: JoinedHarness, trace: Trace, tmp_path: Path) -> None:
    queue = joined.open()
    beating = joined.native_command([QUEUE], "--beat", f"--schedule={tmp_path}/beat")
    joined.start(beating, ready=True, **{BEAT: joined.own})
    eventually(lambda: len(trace.notes("added")) >= 2, 20)
    assert queue.enqueue("legacy.add", 1).result(20) == 1
    assert len(queue.jobs()) == 1, "queueport must not have records of the other calls"


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # Celery's Redis backend calls setex
def test_states_in_celerys_result_backend_do_not_affect_jobs_and_are_not_written(
    joined: JoinedHarness, trace: Trace
) -> None:
    queue = joined.open()
    handles = {state: queue.enqueue(task.named("legacy.add"), 1, 2) for state in ALL_STATES}
    backend = queue.native.backend
    for state, handle in handles.items():
        backend.store_result(handle.id, ValueError("told") if state in EXCEPTION_STATES else 7, state)
    joined.process(native=True)
    try:
        assert {state: handle.result(20) for state, handle in handles.items()} == dict.fromkeys(ALL_STATES, 3)
        assert {state: backend.get_state(handle.id) for state, handle in handles.items()} == {s: s for s in ALL_STATES}
    finally:
        for handle in handles.values():
            backend.forget(handle.id)
    assert len(trace.notes("added")) == len(ALL_STATES)


def test_queueports_own_worker_runs_tasks_that_a_module_has_joined(joined: JoinedHarness, trace: Trace) -> None:
    queue = joined.open()
    joined.start([sys.executable, "-m", "queueport", "worker", joined_tasks.__name__, "--queue=default", "--threads=2"])
    handle = queue.enqueue("legacy.add", 1, b=2)
    failing = queue.enqueue(task.named("legacy.flaky", retry=SOON), "ours")
    assert handle.result(20) == 3
    with pytest.raises(JobFailed, match="ValueError: ours"):
        failing.result(20)
    assert len(trace.notes("tried", key="ours")) == 2


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("celery://adapters.celery.tests.legacy_app", "write celery://package.module:app"),
        ("celery://nowhere.to_be_found:app", "there is no module 'nowhere.to_be_found'"),
        ("celery://adapters.celery.tests.legacy_app:missing", "has no 'missing': name its app"),
        ("celery://adapters.celery.tests.legacy_app:not_an_app", "names an object of type object, not a Celery app"),
    ],
)
def test_a_url_that_names_no_app_is_refused_at_once(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        get_queue(url, store=STORE)

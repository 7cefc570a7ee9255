"""An existing Celery app joined: its tasks as queueport's jobs with one owner of retries, its own ways untouched."""

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
from queueport.testing.tasks import QUEUE
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually
from tests.servers import rabbitmq_server, redis_server

SOON = Retry(max_attempts=2, initial=0.1, jitter=0.0)
STORE = "redis://127.0.0.1:6379/0"


@pytest.fixture(params=["redis", "rabbitmq"])
def joined(request: pytest.FixtureRequest, trace: Trace, monkeypatch: pytest.MonkeyPatch) -> Iterator[JoinedHarness]:
    """The app, and a worker of its own that takes queueport's jobs, too."""
    urls = [server.url.replace("amqp://", "pyamqp://") for server in (redis_server(), rabbitmq_server())]
    for variable, url in zip(BROKERS, urls, strict=True):
        monkeypatch.setenv(variable, url)
    harness = JoinedHarness(request.param)
    apps = {"redis": legacy_app.on_redis, "rabbitmq": legacy_app.on_rabbitmq}
    apps[request.param].conf.update(broker_url=urls[request.param == "rabbitmq"], result_backend=urls[0])
    yield harness
    harness.end()
    print(harness.story())  # noqa: T201  # pytest shows it where the test failed


def test_a_worker_that_joins_too_late_says_so_and_takes_nothing(joined: JoinedHarness, trace: Trace) -> None:
    queue = joined.open()
    handle = queue.enqueue(task.named("legacy.add"), 1, 2)
    worker = joined.start(joined.native_command([QUEUE], "-I", JOINS), ready=False, **{IMPORTS: ""})
    assert worker.wait(30) != 0
    assert f"{JOINS} was imported too late to take {joined.namespace}" in worker.log
    assert handle.status().attempts == 0
    joined.process(native=True)
    assert handle.result(15) == 3


@pytest.mark.parametrize("name", ["legacy.flaky", "legacy.automatic"])
def test_a_task_that_retries_itself_has_one_owner_of_its_retries(
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
    assert len(trace.notes("tried", key="celery's")) == 3, "max_retries=2 is three tries, as ever"
    assert len(trace.notes("tried", key="ours")) == 2


def test_a_task_runs_in_its_own_surroundings_and_knows_its_request(joined: JoinedHarness, trace: Trace) -> None:
    queue = joined.open()
    joined.process(native=True)
    handle = queue.enqueue(task.named("legacy.add", headers={"tenant": "a"}), 1, b=2)
    assert handle.result(20) == 3
    (noted,) = trace.notes("added")
    assert (noted["id"], noted["retries"], noted["headers"]) == (handle.id, 0, {"tenant": "a"})
    assert len(trace.notes("surrounded", task="legacy.add")) == 1
    assert (handle.status().state, handle.status().attempts) == (JobState.SUCCEEDED, 1)


def test_what_celery_sends_itself_is_as_it_was(joined: JoinedHarness, trace: Trace) -> None:
    queue = joined.open()
    joined.process(native=True)
    add = queue.native.tasks["legacy.add"]
    plain = add.apply_async([1], {"b": 2}, queue=joined.own)
    own = add.s(1, 2).set(queue=joined.own)
    chain = (own | add.s(4).set(queue=joined.own)).apply_async()
    chord = (group([own, own]) | queue.native.tasks["legacy.total"].s().set(queue=joined.own)).apply_async()
    assert (plain.get(timeout=20), chain.get(timeout=20), chord.get(timeout=20)) == (3, 7, 6)
    assert queue.jobs() == [], "queueport knows nothing of them"


def test_its_beat_goes_on(joined: JoinedHarness, trace: Trace, tmp_path: Path) -> None:
    queue = joined.open()
    beating = joined.native_command([QUEUE], "--beat", f"--schedule={tmp_path}/beat")
    joined.start(beating, ready=True, **{BEAT: joined.own})
    eventually(lambda: len(trace.notes("added")) >= 2, 20)
    assert queue.enqueue("legacy.add", 1).result(20) == 1
    assert len(queue.jobs()) == 1, "queueport knows nothing of the others"


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # Celery's
def test_no_state_of_celerys_decides_about_a_job_and_none_is_written(joined: JoinedHarness, trace: Trace) -> None:
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


def test_queueports_own_worker_knows_its_tasks_where_a_module_joins_them(joined: JoinedHarness, trace: Trace) -> None:
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
        ("celery://adapters.celery.tests.legacy_app:missing", "there is no 'missing'"),
        ("celery://adapters.celery.tests.legacy_app:not_an_app", "is no Celery app but of type object"),
    ],
)
def test_an_app_that_is_none_is_said_at_once(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        get_queue(url, store=STORE)

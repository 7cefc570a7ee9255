"""Limits of tasks and queues: their declaration, the jobs that wait for them, and what they cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from queueport import Job, JobQueue, JobState, get_queue, task
from queueport.engine.dispatcher import Dispatcher
from queueport.errors import ConfigurationError, InvalidJob
from queueport.job import JobHandle
from queueport.job.limits import QueueLimit
from queueport.spi.store import MOST_LIMITS
from queueport.stores.memory.store import MemoryStore
from queueport.tasks import Task, registry
from queueport.testing import FakeQueue
from queueport.testing.waiting import eventually
from tests.costs import Worker, count_store_calls
from tests.mutants.wire import Broker, WireTransport


@pytest.fixture(autouse=True)
def isolated() -> Iterator[None]:
    with registry.isolated():
        yield


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    with get_queue("memory://") as queue:
        yield queue


@pytest.fixture(params=["memory", "sqlite", "wire"])
def any_queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobQueue]:
    """A queue on a store that is the queue, in memory or not, and on a broker."""
    with get_queue(f"sqlite:///{tmp_path}/jobs.db" if request.param == "sqlite" else "memory://") as opened:
        wire = JobQueue(opened._url, opened.settings, WireTransport(Broker()), MemoryStore())
        yield wire if request.param == "wire" else opened


def test_the_memory_store_forgets_the_limits_of_keys_whose_jobs_have_ended(queue: JobQueue) -> None:
    @task(name="tests.keyed", concurrency=1, rate="1000/s", concurrency_key=lambda key: key)
    def keyed(key: int) -> int:
        return key

    handles = [queue.enqueue(keyed, number % 10) for number in range(40)]
    with queue.worker(tasks=[keyed]):
        assert [handle.result(10) for handle in handles] == [number % 10 for number in range(40)]
    store = queue.operations.store
    assert isinstance(store, MemoryStore)
    known = store.records.limits
    eventually(lambda: not store.held(None, 1) and not (known.running or known.held or known.passed or known.full_at))


class Gate:
    """A task that waits until the test lets it end, and counts how many of its jobs run at a time."""

    def __init__(self, **options: Any) -> None:
        self.lock, self.open = threading.Lock(), threading.Event()
        self.now = self.peak = 0
        self.order: list[int] = []

        def run(number: int, customer: str = "") -> None:
            with self.lock:
                self.now += 1
                self.peak = max(self.peak, self.now)
                self.order.append(number)
            self.open.wait(10)
            with self.lock:
                self.now -= 1

        self.task: Task[..., None, None] = task(name="tests.gate", **options)(run)


def wait_until_held(handle: JobHandle[Any]) -> None:
    eventually(lambda: handle.status().reason == "limited")


def test_no_more_jobs_run_than_the_limit_and_they_keep_their_order(queue: JobQueue) -> None:
    gate = Gate(concurrency=2)
    handles = [queue.enqueue(gate.task, number) for number in range(20)]
    with queue.worker(tasks=[gate.task], threads=8):
        eventually(lambda: sum(handle.status().reason == "limited" for handle in handles) == 18 and gate.now == 2)
        assert {handle.status().attempts for handle in handles[2:]} == {0}
        gate.open.set()
        for handle in handles:
            handle.result(timeout=10)
    assert gate.peak == 2
    assert sorted(gate.order) == list(range(20))
    begun = [started for handle in handles if (started := handle.status().started_at)]
    assert len(begun) == 20
    assert begun == sorted(begun)  # a thread that has begun a job may run its code late


def test_each_key_has_its_own_slots(queue: JobQueue) -> None:
    gate = Gate(concurrency=1, concurrency_key=lambda number, customer: customer)
    handles = [queue.enqueue(gate.task, number, customer) for number, customer in enumerate("aabb")]
    with queue.worker(tasks=[gate.task], threads=8):
        eventually(lambda: gate.now == 2)
        states = [handle.status().state for handle in handles]
        assert states == [JobState.RUNNING, JobState.QUEUED] * 2
        gate.open.set()
        for handle in handles:
            handle.result(timeout=10)
    assert gate.peak == 2


def test_the_limit_of_a_queue_is_changed_live(queue: JobQueue) -> None:
    gate = Gate()
    queue.limit("default", concurrency=1)
    assert queue.queue_limits() == {"default": QueueLimit(concurrency=1)}
    handles = [queue.enqueue(gate.task, number) for number in range(6)]
    with queue.worker(tasks=[gate.task], threads=8):
        eventually(lambda: sum(handle.status().reason == "limited" for handle in handles) == 5)
        queue.limit("default", concurrency=3)
        eventually(lambda: gate.now == 3)
        queue.limit("default")
        eventually(lambda: gate.now == 6)
        gate.open.set()
        for handle in handles:
            handle.result(timeout=10)
    assert queue.queue_limits() == {}


def test_a_limited_job_does_not_block_others(queue: JobQueue) -> None:
    gate = Gate(concurrency=1)
    other = task(name="tests.other")(_nothing)
    for number in range(10):
        queue.enqueue(gate.task, number)
    last = queue.enqueue(other)
    with queue.worker(tasks=[gate.task, other], threads=2):
        last.result(timeout=10)
        gate.open.set()


def test_held_jobs_cost_no_call_each(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(concurrency=1)
    gate.open.set()
    queue.enqueue_many(gate.task.job(number) for number in range(1000))
    worker = Worker(queue, [gate.task])
    worker.run(1)
    dispatcher = Dispatcher(queue.operations)
    dispatcher.tick()
    with count_store_calls(queue.operations.store, monkeypatch) as found:
        for _ in range(10):
            dispatcher.tick()
    assert sum(found.values()) <= 10 * 4


def _nothing() -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"concurrency": 0}, "concurrency must be a whole number of at least 1, not 0"),
        ({"concurrency": True}, "concurrency must be"),
        ({"rate": "fast"}, "write '100/m'"),
        ({"rate": "0/s"}, "a number above 0"),
        ({"rate": "9" * 400 + "/s"}, "a rate must be one start in 100 years or more, and at most 1000000000/s"),
        ({"rate": f"0.{'0' * 320}1/d"}, "a rate must be"),
        ({"rate": "0.00001/d"}, "a rate must be one start in 100 years"),
        ({"concurrency": 10**5000}, "concurrency must be at most 1000000000"),
        ({"rate": "1/s", "burst": 10**10}, "burst must be at most 1000000000"),
        ({"burst": 2}, "burst= has no effect without a rate"),
        ({"concurrency_key": _nothing}, "needs concurrency= or rate="),
        ({"concurrency": 1, "concurrency_key": "customer"}, "must be a function"),
    ],
    ids=[
        *(
            "zero",
            "bool",
            "no-rate",
            "rate-of-zero",
            "infinite-rate",
            "rate-that-is-zero",
            "slow-rate",
            "huge",
            "big-burst",
        ),
        *("burst-alone", "key-alone", "key-is-text"),
    ],
)
def test_a_wrong_limit_is_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Gate(**options)


@pytest.mark.parametrize(
    "key",
    [
        lambda number: 1 / 0,
        lambda number: None,
        lambda number: "x" * 201,
        lambda number: 10**5000,
        lambda number: -(10**199),
        lambda number: [10**5000],
    ],
    ids=["raises", "none", "long", "large", "negative", "list"],
)
def test_a_concurrency_key_that_gives_no_key_is_an_error_at_enqueue(queue: JobQueue, key: object) -> None:
    gate = Gate(concurrency=1, concurrency_key=key)
    with pytest.raises(InvalidJob, match="the concurrency_key of task"):
        queue.enqueue(gate.task, 1)
    assert queue.jobs() == []


@pytest.mark.parametrize("rate", ["0.001/d", "1000000000/s"])
def test_the_slowest_and_the_fastest_rates_start_jobs(any_queue: JobQueue, rate: str) -> None:
    gate = Gate(rate=rate, concurrency=1_000_000_000)
    gate.open.set()
    handle = any_queue.enqueue(gate.task, 1)
    with any_queue.worker(tasks=[gate.task]):
        handle.result(timeout=10)


def _limit_key(made: Job[Any]) -> str | None:
    return made.limit_key


def test_a_concurrency_key_gets_the_default_values_of_the_task() -> None:
    keyed = Gate(concurrency=1, concurrency_key=lambda number, customer: f"{number} {customer}").task
    assert _limit_key(keyed.job(1)) == "1 "
    assert _limit_key(keyed.job(customer="ann", number=2)) == "2 ann"
    assert _limit_key(keyed.using(delay=5).job(1, "ann")) == "1 ann"

    @task(name="tests.rest", concurrency=1, concurrency_key=lambda first, *rest, word: f"{first}{rest}{word}")
    def rest(first: int = 0, *rest: int, word: str = "x") -> None: ...

    assert [_limit_key(job) for job in (rest.job(), rest.job(1, 2, word="y"))] == ["0()x", "1(2,)y"]


def test_a_concurrency_key_may_leave_out_parameters_that_the_job_does_not_give() -> None:
    fewer = Gate(concurrency=1, concurrency_key=lambda number: number).task
    assert _limit_key(fewer.job(7)) == "7"
    with pytest.raises(InvalidJob, match=r"the concurrency_key of task .* raised TypeError"):
        fewer.job(7, "ann")
    builtin = Gate(concurrency=1, concurrency_key=str).task  # Python does not know the parameters of `str`
    assert _limit_key(builtin.job(7)) == "7"


def test_the_jobs_of_a_schedule_have_their_concurrency_key() -> None:
    keyed = Gate(concurrency=1, concurrency_key=lambda number, customer: customer).task

    def keys(queue: FakeQueue) -> list[str | None]:
        return [queue.operations.read(status.id).limit_key for status in queue.jobs()]

    with FakeQueue() as queue:
        queue.schedules.add("ann", keyed.job(1, "ann"), every=60)
        queue.schedules.run_now("ann")
        assert keys(queue) == ["ann"]
        queue.advance(60)
        assert keys(queue) == ["ann", "ann"]
        queue.schedules.add("ann", keyed.job(1, "bob"), every=60)
        queue.schedules.run_now("ann")
        assert sorted(map(str, keys(queue))) == ["ann", "ann", "bob"]


def test_schedules_of_two_keys_do_not_block_each_other(queue: JobQueue) -> None:
    gate = Gate(concurrency=1, concurrency_key=lambda number, customer: customer)
    for customer in ("ann", "bob"):
        queue.schedules.add(customer, gate.task.job(1, customer), every=3600)
    handles = [queue.schedules.run_now(customer) for customer in ("ann", "bob")]
    with queue.worker(tasks=[gate.task], threads=8):
        eventually(lambda: gate.now == 2)
        gate.open.set()
        for handle in handles:
            handle.result(timeout=10)


def test_a_replay_has_the_concurrency_key_of_its_arguments(queue: JobQueue) -> None:
    def replayed(**changes: Any) -> str | None:
        return queue.operations.read(queue.replay(old.id, **changes).id).limit_key

    with registry.isolated():
        keyed = Gate(concurrency=1, concurrency_key=lambda number, customer: customer).task
        old = queue.enqueue(keyed, 1, "ann")
        assert (replayed(), replayed(args=[2, "ann"]), replayed(args=[1, "bob"])) == ("ann", "ann", "bob")
        with pytest.raises(InvalidJob, match="the concurrency_key of task"):
            replayed(args=[1, ""])
    assert (replayed(), replayed(args=[1, "bob"])) == ("ann", "ann")  # the task is not known any more


def test_a_schedule_with_a_damaged_concurrency_key_is_left_out(queue: JobQueue) -> None:
    keyed = Gate(concurrency=1, concurrency_key=lambda number, customer: customer).task
    queue.schedules.add("damaged", keyed.job(1, "ann"), every=60)
    (document,) = queue.operations.store.documents("schedule")
    value = {**document.value, "job": {**document.value["job"], "limit_key": {"a": 1}}}
    queue.operations.store.put_document(replace(document, value=value, rev="r"), document.rev)
    assert queue.schedules.list() == []


def test_the_starts_of_one_second_are_the_default_burst() -> None:
    assert QueueLimit(rate="90/m").starts == (1.5, 2)
    assert QueueLimit(rate="1/h").starts == (1 / 3600, 1)
    assert QueueLimit(rate="10/s", burst=3).starts == (10.0, 3)


def test_a_fake_queue_applies_no_limits() -> None:
    gate = Gate(rate="1/d", concurrency=1)
    gate.open.set()
    with FakeQueue() as queue:
        for number in range(3):
            queue.enqueue(gate.task, number)
        assert queue.drain() == 3


def test_a_job_that_waits_for_a_rate_starts_at_its_time_and_not_at_the_next_poll(queue: JobQueue) -> None:
    @task(name="tests.paced", rate="20/s", burst=1)
    def paced(number: int) -> float:
        return time.monotonic()

    queue.operations.store.poll = 1.0
    handles = queue.enqueue_many(paced.job(number) for number in range(20))
    with queue.worker(tasks=[paced], threads=2):
        starts = sorted(handle.result(30) for handle in handles)
    assert 0.9 < starts[-1] - starts[0] < 10  # with one start a poll, at least 15 s


def test_only_the_dispatcher_that_let_the_latest_job_of_a_rate_on_plans_the_next_one(queue: JobQueue) -> None:
    @task(name="tests.planned", rate="6/m", burst=1)
    def planned() -> None: ...

    queue.enqueue_many(planned.job() for _ in range(3))
    operations = queue.operations
    operations.limits_at_begin.declare([planned])
    with queue.worker(tasks=[planned]):
        eventually(lambda: queue.stats().totals.succeeded == 1 and operations.store.held(None, 1))
    assert operations.let_on() == {}
    (wait,) = operations.let_on(["task:tests.planned"]).values()
    assert 8 < wait <= 10


def test_a_job_with_a_limited_task_and_a_limited_queue_starts_when_both_let_it(queue: JobQueue) -> None:
    def takes_time() -> None:
        time.sleep(0.02)  # the work of the job: others are held meanwhile

    limited, other = task(name="tests.one", concurrency=1)(takes_time), task(name="tests.other")(takes_time)
    queue.limit("default", concurrency=1)
    handles = queue.enqueue_many([*(limited.job() for _ in range(20)), *(other.job() for _ in range(20))])
    with queue.worker(tasks=[limited, other], threads=8):
        for handle in handles:
            handle.result(10)


def test_a_rate_that_was_raised_lets_jobs_begin_at_once(queue: JobQueue) -> None:
    gate = Gate()
    gate.open.set()
    queue.limit("default", rate="1/h")
    first, second = (queue.enqueue(gate.task, number) for number in range(2))
    with queue.worker(tasks=[gate.task]):
        first.result(10)
        wait_until_held(second)
        queue.limit("default", rate="100/s")
        second.result(10)


def test_all_limits_with_held_jobs_are_served_however_many_there_are(queue: JobQueue) -> None:
    slow = Gate(rate="1/h", concurrency_key=lambda number, customer: customer)
    slow.open.set()
    last = task(name="tests.last", rate="20/s", burst=1)(_nothing)  # the name of its limit comes after all others
    keys = MOST_LIMITS + 10
    queue.enqueue_many(slow.task.job(number, f"c{number % keys}") for number in range(2 * keys))
    with queue.worker(tasks=[slow.task, last], threads=8):
        eventually(lambda: len(slow.order) == keys)
        for handle in queue.enqueue_many(last.job() for _ in range(5)):
            handle.result(10)
    assert len(slow.order) == keys


def test_a_job_of_a_paused_queue_does_not_keep_the_slot_of_a_task(queue: JobQueue) -> None:
    gate = Gate(concurrency=1)
    first = queue.enqueue(gate.task, 0)
    with queue.worker("default", "bulk", tasks=[gate.task], threads=4):
        eventually(lambda: gate.order == [0])
        paused = queue.enqueue(gate.task.using(queue="bulk"), 1)
        wait_until_held(paused)
        queue.pause("bulk")
        urgent = queue.enqueue(gate.task, 2)
        wait_until_held(urgent)
        gate.open.set()
        first.result(10)
        urgent.result(10)
        assert paused.status().attempts == 0
        queue.resume("bulk")
        paused.result(10)


def test_a_job_that_no_worker_takes_loses_its_place_in_the_limit(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queueport.engine.lifecycle.PASSED", 0.2)
    gate = Gate(concurrency=1)
    first = queue.enqueue(gate.task, 0)
    with queue.worker("default", tasks=[gate.task], threads=4):
        eventually(lambda: gate.order == [0])
        left = queue.enqueue(gate.task.using(queue="bulk"), 1)
        with queue.worker("bulk", tasks=[gate.task]):
            wait_until_held(left)
        last = queue.enqueue(gate.task, 2)
        wait_until_held(last)
        gate.open.set()
        first.result(10)
        last.result(10)
        assert left.status().attempts == 0


def test_a_burst_also_runs_the_jobs_that_wait_for_a_limit(any_queue: JobQueue) -> None:
    @task(name="tests.slow_start", rate="20/s", burst=1)
    def slow_start(number: int) -> int:
        return number

    handles = any_queue.enqueue_many(slow_start.job(number) for number in range(6))
    any_queue.worker(tasks=[slow_start], burst=True).run()
    assert [handle.result(0) for handle in handles] == list(range(6))


def test_a_burst_does_not_wait_for_jobs_that_it_cannot_run(any_queue: JobQueue) -> None:
    gate, other = Gate(concurrency=1), task(name="tests.other")(_nothing)
    gate.open.set()
    with registry.isolated():
        unknown = task(name="tests.unknown", concurrency=1)(_nothing)
        waiting = [any_queue.enqueue(unknown), any_queue.enqueue(other.using(queue="paused"))]
        waiting.append(any_queue.enqueue(other.using(queue="elsewhere")))
    any_queue.pause("paused")
    run = any_queue.enqueue(gate.task, 1)
    any_queue.worker("default", "paused", tasks=[gate.task, other], burst=True).run()
    assert run.status().state is JobState.SUCCEEDED
    assert {handle.status().state for handle in waiting} == {JobState.QUEUED}


def test_a_burst_waits_for_held_jobs_without_reading_the_store_all_the_time(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    @task(name="tests.second", rate="1/s", burst=1)
    def second(number: int) -> None: ...

    queue.enqueue_many(second.job(number) for number in range(2))
    with count_store_calls(queue.operations.store, monkeypatch) as found:
        queue.worker(tasks=[second], burst=True).run()
    assert sum(found.values()) < 100

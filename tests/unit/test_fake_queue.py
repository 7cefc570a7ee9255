"""The queue for the tests of applications: `FakeQueue`, `fake`, `inline`, and the pytest fixture `job_queue`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from queueport import Capability, JobState, Retry, RetryLater, chain, current_job, get_queue, task
from queueport.errors import ConfigurationError, InvalidJob, JobFailed, PayloadTooLarge, ResultTimeout, Unsupported
from queueport.tasks import registry
from queueport.testing import FakeQueue, fake, inline

calls: list[Any] = []


@dataclass
class Order:
    number: int


@task(name="fake.add")
def add(a: int, b: int = 1) -> int:
    calls.append((a, b))
    return a + b


@task(name="fake.double")
def double(a: int) -> int:
    return 2 * a


@task(name="fake.ship", queue="shipping")
def ship(order: Order, *, express: bool = False) -> str:
    calls.append(order)
    return f"{order.number}{express}"


@task(name="fake.flaky", retry=Retry(max_attempts=3, initial=60.0))
def flaky(succeeds_at: int) -> int:
    if current_job().attempt < succeeds_at:
        raise ConnectionError("not yet")
    return current_job().attempt


@task(name="fake.fetch")
async def fetch(number: int) -> int:
    await asyncio.sleep(0)
    if number < 0:
        raise KeyError(number)
    add.enqueue(number)
    return number


@task(name="fake.forever")
def forever() -> None:
    raise RetryLater(delay=1, burns=False)


@task(name="fake.unencodable")
def unencodable() -> Any:
    return object()


@pytest.fixture(autouse=True)
def no_calls() -> Iterator[None]:
    calls.clear()
    with registry.isolated():
        for each in (add, double, ship, flaky, fetch, forever, unencodable):
            registry.add(each)
        yield


def test_nothing_runs_until_drain_and_no_thread_is_left() -> None:
    before = threading.active_count()
    with fake() as queue:
        handle = add.enqueue(2, b=3)
        assert calls == []
        assert handle.status().state is JobState.QUEUED
        assert queue.drain() == 1
        assert handle.result() == 5
        assert [status.result for status in queue.succeeded] == [5]
        fetch.enqueue(4)
        assert queue.drain() == 2
    assert calls == [(2, 3), (4, 1)]
    assert threading.active_count() == before


def test_the_queue_is_the_default_only_inside_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUEUEPORT_URL", raising=False)
    with fake() as queue, get_queue() as default:
        assert default.url == queue.url
    with pytest.raises(ConfigurationError, match="no queue URL is set"):
        add.enqueue(1)


def test_drain_retries_at_once_and_without_retries_it_held_by_the_clock() -> None:
    started = time.monotonic()
    with fake() as queue:
        handle = flaky.enqueue(3)
        assert queue.drain() == 3
        assert handle.result() == 3
        late = flaky.enqueue(2)
        assert queue.drain(retries=False) == 1
        assert late.status().state is JobState.RETRYING
        assert queue.drain(retries=False) == 0
        queue.advance(90)
        assert queue.drain(retries=False) == 1
        assert late.status().state is JobState.SUCCEEDED
        flaky.enqueue(9)
        assert queue.drain() == 3
        assert [status.error.type for status in queue.dead if status.error] == ["ConnectionError"]
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("keep", "kept"), [("2 jobs per queue", {2, 3, 4, 5}), ("1 job per task", {4, 5}), ("1 job", {5})]
)
def test_the_newest_succeeded_jobs_of_each_queue_or_task_are_kept(keep: str, kept: set[int]) -> None:
    with fake(keep_succeeded=keep) as queue:
        for number in range(6):
            declared = add if number % 2 else double
            declared.using(queue="odd" if number % 2 else "even").enqueue(number)
        assert queue.drain() == 6
        queue.advance(10)
        assert {status.args[0] for status in queue.jobs(state=JobState.SUCCEEDED)} == kept


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ("1d, queue:odd=1 job", {0, 2, 4, 5}),
        ("1d, queue:odd=5s", {0, 2, 4}),
        ("1 job per queue, queue:odd=2 jobs", {3, 4, 5}),
        ("1 job per queue, queue:odd=1h", {1, 3, 4, 5}),
        ("1d, task:fake.double=5s", {1, 3, 5}),
        ("1h, task:fake.double=2 jobs", {1, 2, 3, 4, 5}),
        ("1 job per task, task:fake.double=0 jobs", {5}),
    ],
)
def test_single_queues_and_tasks_have_their_own_retention(keep: str, kept: set[int]) -> None:
    with fake(keep_succeeded=keep) as queue:
        for number in range(6):
            declared = add if number % 2 else double
            declared.using(queue="odd" if number % 2 else "even").enqueue(number)
        assert queue.drain() == 6
        queue.advance(10)
        assert {status.args[0] for status in queue.jobs(state=JobState.SUCCEEDED)} == kept


def test_keep_result_of_a_job_takes_precedence_over_the_time_of_its_queue() -> None:
    with fake(keep_succeeded="1d, queue:short=5s") as queue:
        add.using(queue="short").enqueue(1)
        add.using(queue="short", keep_result=3600).enqueue(2)
        assert queue.drain() == 2
        queue.advance(10)
        assert [status.args[0] for status in queue.jobs(state=JobState.SUCCEEDED)] == [2]


def test_time_passes_for_delays_expiry_and_retention() -> None:
    with fake(keep_succeeded=3600) as queue:
        delayed = add.using(delay=timedelta(minutes=10)).enqueue(1)
        at = add.using(run_at=queue.now + timedelta(minutes=20)).enqueue(2)
        expiring = add.using(expires=60).enqueue(3)
        assert queue.drain(limit=1) == 1
        assert expiring.status().state is JobState.SUCCEEDED
        lost = add.using(expires=60).enqueue(4)
        queue.advance(600)
        assert lost.status().reason == "expired"
        assert queue.drain() == 1
        assert delayed.result() == 2
        queue.at(queue.now + timedelta(minutes=10))
        assert queue.drain() == 1
        assert at.result() == 3
        queue.advance(timedelta(days=1))
        assert queue.jobs(state="succeeded") == []
        assert [status.args for status in queue.enqueued] == [[1], [2], [3], [4]]
        with pytest.raises(ValueError, match="cannot go back by 5 s"):
            queue.advance(-5)
        with pytest.raises(ValueError, match="has no time zone"):
            queue.at(datetime(2030, 1, 1))  # noqa: DTZ001


def test_drain_runs_only_the_jobs_it_was_asked_for() -> None:
    with fake() as queue:
        add.enqueue(1)
        add.enqueue(2)
        ship.enqueue(Order(3))
        assert queue.drain(queue="shipping") == 1
        assert queue.drain(task=ship) == 0
        assert queue.drain(task="fake.add", limit=1) == 1
        assert calls == [Order(3), (1, 1)]


def test_higher_priorities_run_first() -> None:
    with fake() as queue:
        for number in (0, 5, -5):
            add.using(priority=number).enqueue(number)
        queue.drain()
    assert [a for a, _ in calls] == [5, 0, -5]


def test_a_job_that_never_ends_stops_drain_with_advice() -> None:
    with fake() as queue:
        forever.enqueue()
        with pytest.raises(AssertionError, match=r"was attempted 1000 times .* drain\(limit=...\)"):
            queue.drain()


def test_jobs_of_tasks_that_are_not_registered_stay_queued() -> None:
    with fake() as queue:
        handle = queue.enqueue("another.service", 1)
        assert queue.drain() == 0
        assert handle.status().state is JobState.QUEUED
        queue.assert_enqueued("another.service", args=[1])


def test_a_result_is_not_waited_for() -> None:
    with fake(), pytest.raises(ResultTimeout, match=r"is still queued: call drain\(\)"):
        add.enqueue(1).result(timeout=60)
    with fake(), pytest.raises(ResultTimeout, match=r"is still scheduled: call advance\(\) to make it due, then drain"):
        add.using(delay=5).enqueue(1).result()

    async def check() -> None:
        with fake(), pytest.raises(ResultTimeout, match=r"is still queued: call drain\(\)"):
            await (await add.aenqueue(1)).result()

    asyncio.run(check())


def test_arguments_are_checked_as_in_production() -> None:
    with fake(), pytest.raises(InvalidJob, match="argument 'a'"):
        add.enqueue("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# -- inline ---------------------------------------------------------------------------------------


def test_inline_runs_at_enqueue_and_raises_what_the_task_raises() -> None:
    with inline() as queue:
        assert add.enqueue(1).result() == 2
        assert add.using(delay=3600).enqueue(5).result() == 6
        with pytest.raises(ConnectionError, match="not yet"):
            flaky.enqueue(2)
        with pytest.raises(KeyError):
            fetch.enqueue(-1)
        with pytest.raises(JobFailed):
            unencodable.enqueue()
        assert [status.args for status in queue.succeeded] == [[1], [5]]
        assert [status.state for status in queue.enqueued][2:] == ["retrying", "retrying", "dead"]


def test_inline_leaves_a_job_alone_whose_task_is_not_registered() -> None:
    with inline() as queue:
        queue.enqueue(task.named("of.another.service").using(delay=60))
        queue.enqueue("of.another.service")
        assert [status.state for status in queue.enqueued] == ["scheduled", "queued"]


def test_inline_runs_the_jobs_that_a_job_enqueues() -> None:
    with inline() as queue:
        fetch.enqueue(3)
        assert [status.task for status in queue.succeeded] == ["fake.fetch", "fake.add"]


def test_inline_runs_the_jobs_that_follow_others_when_they_are_due() -> None:
    passing = double.using(pass_result=True)
    with inline() as queue:
        chained = queue.enqueue(chain(add.using(delay=60).job(1), passing.job(), passing.job()))
        assert [handle.result() for handle in (chained, *chained.follow_ups)] == [2, 4, 8]
        batch = queue.batch([add.job(1), add.job(2)], then=double.job(3), on_dead=double.job(4))
        assert [(job.state, job.attempts, job.reason) for job in batch.follow_ups()] == [
            ("succeeded", 1, None),
            ("cancelled", 0, "not_needed"),
        ]
        with pytest.raises(JobFailed):
            queue.batch([unencodable.job(), add.job(1)], then=double.job(5), on_dead=double.job(6), batch_id="fails")
        assert [(job.args, job.state) for job in queue.get_batch("fails").follow_ups()] == [
            ([5], "scheduled"),
            ([6], "succeeded"),
        ]


# -- jobs that follow others ----------------------------------------------------------------------


@pytest.mark.parametrize("profile", [None, "sqlite"])
def test_jobs_that_follow_others_run_in_drain(profile: str | None) -> None:
    passing = double.using(pass_result=True)
    with FakeQueue(profile=profile) as queue:
        chained = queue.enqueue(chain(add.job(1), passing.job(), passing.job()))
        batch = queue.batch([add.using(delay=60).job(1), unencodable.job()], then=double.job(3), on_dead=double.job(4))
        queue.assert_enqueued(double, count=4)
        assert queue.drain(limit=100) == 5
        assert [handle.result() for handle in (chained, *chained.follow_ups)] == [2, 4, 8]
        assert [(job.args, job.state) for job in batch.follow_ups()] == [([3], "scheduled"), ([4], "succeeded")]
        queue.dead_letters.purge()
        queue.advance(60)
        assert queue.drain() == 2
        assert [(job.args, job.state) for job in batch.follow_ups()] == [([3], "succeeded"), ([4], "succeeded")]
        assert batch.wait().ended


def test_waiting_for_a_batch_says_what_to_call_because_no_job_can_run() -> None:
    with FakeQueue() as queue:
        batch = queue.batch([add.job(1)])
        with pytest.raises(ResultTimeout, match=r"is still queued: call drain\(\) to run it"):
            batch.wait()
        queue.drain()
        assert batch.wait(0).succeeded == 1


# -- assertions -----------------------------------------------------------------------------------


def test_assertions_compare_typed_arguments_and_options() -> None:
    with fake() as queue:
        queue.assert_nothing_enqueued()
        ship.using(key="k", delay=60).enqueue(Order(7), express=True)
        found = queue.assert_enqueued(
            ship, args=[Order(7)], kwargs={"express": True}, queue="shipping", delay=60, key="k", count=1
        )
        assert found[0].state is JobState.SCHEDULED
        queue.assert_enqueued(add, count=0)
        queue.assert_nothing_enqueued(add)


def test_a_failed_assertion_shows_the_nearest_job_and_all_jobs() -> None:
    with fake() as queue:
        with pytest.raises(AssertionError, match=r"no job of fake.add was enqueued\nno job was enqueued"):
            queue.assert_enqueued(add)
        add.enqueue(1, b=2)
        add.enqueue(5)
        with pytest.raises(AssertionError) as failed:
            queue.assert_enqueued(add, args=(1,), kwargs={"b": 9})
        assert str(failed.value).splitlines() == [
            "no job of fake.add with args=(1,), kwargs={'b': 9} was enqueued; the nearest has kwargs={'b': 2}",
            "enqueued:",
            "  fake.add(1, b=2) queue='default' queued",
            "  fake.add(5) queue='default' queued",
        ]
        with pytest.raises(AssertionError, match=r"expected 1 jobs of fake\.add, but 2 were enqueued\n"):
            queue.assert_enqueued(add, count=1)
        with pytest.raises(AssertionError, match="nothing should be enqueued\n"):
            queue.assert_nothing_enqueued()
        with pytest.raises(AssertionError, match=r"no job of fake\.add should be enqueued\n"):
            queue.assert_nothing_enqueued(add)
        with pytest.raises(TypeError, match="expected a task or the name of a task, not <built-in"):
            queue.assert_enqueued(calls.append)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# -- decorators and async tests -------------------------------------------------------------------


@fake()
def decorated() -> int:
    add.enqueue(1)
    queue = get_queue()
    assert isinstance(queue, FakeQueue)
    return queue.drain()


@inline()
async def decorated_async() -> int:
    handle = await add.aenqueue(1)
    return await handle.result()


def test_assertions_work_after_the_queue_was_closed() -> None:
    with fake() as queue:
        add.enqueue(1)
        queue.drain()
    queue.assert_enqueued(add, args=(1,), count=1)
    assert [status.result for status in queue.succeeded] == [2]


def test_decorators_give_each_call_a_new_queue() -> None:
    assert decorated() == 1
    assert decorated() == 1
    assert asyncio.run(decorated_async()) == 2


def test_a_coroutine_that_never_ends_stops_adrain_with_advice() -> None:
    @task(name="fake.forever_async")
    async def forever_async() -> None:
        raise RetryLater(delay=1, burns=False)

    async def check() -> None:
        with fake() as queue:
            await forever_async.aenqueue()
            with pytest.raises(AssertionError, match="was attempted 1000 times"):
                await asyncio.wait_for(queue.adrain(), 60)

    asyncio.run(check())


def test_adrain_runs_coroutines_in_the_loop_of_the_test() -> None:
    loops: list[object] = []

    @task(name="fake.loop")
    async def loop(number: int) -> int:
        loops.append(asyncio.get_running_loop())
        await add.aenqueue(number)
        return number

    async def check() -> None:
        with fake() as queue:
            await loop.aenqueue(1)
            assert await queue.adrain(limit=1) == 1
            assert loops == [asyncio.get_running_loop()]
            assert await queue.adrain() == 1
            loop.enqueue(2)
            assert queue.drain() == 2  # in a thread with another loop, because this loop is running
            assert loops[1] is not loops[0]

    asyncio.run(check())
    assert calls == [(1, 1), (2, 1)]


# -- profiles -------------------------------------------------------------------------------------


def test_a_profile_has_the_limits_and_capabilities_of_a_backend() -> None:
    with fake(profile="spool") as queue:
        assert queue.backend == "spool"
        assert Capability.GROUPS not in queue.capabilities
        with pytest.raises(Unsupported, match="spool does not support group= at this URL: leave it out"):
            add.using(group="g").enqueue(1)
        for number in range(50):
            add.enqueue(number)
        assert queue.drain() == 50
        assert all(status.attempts == 1 for status in queue.succeeded)
    numbers = [a for a, _ in calls]
    assert sorted(numbers) == list(range(50))
    assert numbers != sorted(numbers)
    with pytest.raises(ConfigurationError, match="no backend for sqss:// is installed"):
        FakeQueue(profile="sqss")


def test_the_limits_of_a_profile_are_enforced(monkeypatch: pytest.MonkeyPatch) -> None:
    from queueport import Limits
    from queueport.stores.driver import SqliteDriver

    monkeypatch.setattr(SqliteDriver, "limits", Limits(payload=100))
    with fake(profile="sqlite"), pytest.raises(PayloadTooLarge, match="sqlite accepts at most 100"):
        ship.enqueue(Order(10**90))


def test_drain_counts_only_jobs_that_it_has_begun() -> None:
    @task(name="fake.cancel")
    def cancel(job_id: str) -> None:
        get_queue().cancel(job_id)

    with fake() as queue:
        cancel.using(priority=1).enqueue(add.enqueue(1).id)
        add.enqueue(2)
        assert queue.drain(limit=2) == 2
        assert calls == [(2, 1)]
        assert queue.drain() == 0


def test_drain_takes_an_alias_and_refuses_what_is_not_a_task() -> None:
    @task(name="fake.renamed", aliases=["fake.old"])
    def renamed() -> str:
        return "ran"

    function: Any = renamed.function
    with fake() as queue:
        handle = renamed.enqueue()
        with pytest.raises(TypeError, match="decorate the function with @task"):
            queue.drain(task=function)
        assert queue.drain(task="fake.old") == 1
        assert handle.result() == "ran"

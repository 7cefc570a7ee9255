"""A task that waits for the result of another job, which may never end. For authors of `JobQueue.result`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from queueport import AsyncJobQueue, Job, JobQueue, JobState, Retry, Task, current_job, get_queue, task
from queueport.errors import ConfigurationError, JobCancelled, JobFailed
from queueport.testing.waiting import eventually

ONCE = Retry(max_attempts=1)


@task(name="waiting.child")
def child() -> int:
    return 1


@task(name="waiting.parent")
def parent(timeout: float | None = None) -> int:
    return get_queue().enqueue(child).result(timeout)


@task(name="waiting.blocking_parent", retry=ONCE)
async def blocking_parent() -> int:
    return get_queue().enqueue(child.using(queue="elsewhere")).result()


@task(name="waiting.awaiting_parent", retry=ONCE)
async def awaiting_parent() -> int:
    return await (await AsyncJobQueue(get_queue()).enqueue(child.using(queue="elsewhere"))).result()


@task(name="waiting.own", retry=ONCE)
def own(timeout: float | None) -> None:
    get_queue().result(current_job().id, timeout)


@task(name="waiting.own_async", retry=ONCE)
async def own_async() -> None:
    await AsyncJobQueue(get_queue()).result(current_job().id)


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    with get_queue("memory://?namespace=waiting_tasks") as queue:
        yield queue


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "waits for the result" in record.getMessage()]


def test_a_wait_without_timeout_for_a_job_that_has_not_begun_is_logged_once(
    queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    with queue.worker(tasks=[parent, child], threads=1):
        handle = queue.enqueue(parent)
        eventually(lambda: warnings(caplog), 10)
        (waiting,) = queue.jobs(state="queued")
        expected = f"job {handle.id} waits for the result of job {waiting.id} (queued). The wait occupies a thread"
        expected += " of its worker: if this happens to all of them in all workers, the awaited jobs cannot run; "
        assert warnings(caplog) == [f"{expected}pass a timeout to result()"]
        handle.cancel()
        assert queue.result(waiting.id, 10) == 1
        eventually(lambda: handle.status().state is JobState.CANCELLED)
    assert len(warnings(caplog)) == 1


def test_a_wait_that_can_end_is_not_logged(queue: JobQueue, caplog: pytest.LogCaptureFixture) -> None:
    with queue.worker(tasks=[parent, child], threads=2):
        assert queue.enqueue(parent).result(10) == 1
        assert queue.enqueue(parent, 10).result(10) == 1
    with queue.worker(tasks=[parent, child], threads=1), pytest.raises(JobFailed, match="ResultTimeout"):
        queue.enqueue(parent.using(retry=ONCE), 1.5).result(10)
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        (blocking_parent, "blocks the event loop of its worker: await the result on an AsyncJobQueue"),
        (
            awaiting_parent,
            "occupies one of the `coroutines` of its worker: if this happens to all of them in all workers, the",
        ),
    ],
)
def test_a_wait_of_an_async_task_is_logged(
    queue: JobQueue,
    caplog: pytest.LogCaptureFixture,
    task: Task[[], int, Any],
    problem: str,
) -> None:
    with queue.worker("default", tasks=[task]):
        handle = queue.enqueue(task)
        eventually(lambda: warnings(caplog), 8)
        (waiting,) = queue.jobs(queue="elsewhere")
        waiting_text = f"job {handle.id} waits for the result of job {waiting.id} (queued). The wait {problem}"
        assert warnings(caplog)[0].startswith(waiting_text)
        queue.cancel(waiting.id)
        with pytest.raises(JobFailed, match="JobCancelled"):
            handle.result(10)
    assert len(warnings(caplog)) == 1


def test_a_wait_outside_a_task_is_not_logged(queue: JobQueue, caplog: pytest.LogCaptureFixture) -> None:
    handle = queue.enqueue(child)
    timer = threading.Timer(1.5, handle.cancel)
    timer.start()
    with pytest.raises(JobCancelled):
        handle.result()
    assert warnings(caplog) == []


@pytest.mark.parametrize("job", [own.job(None), own.job(60), own_async.job()], ids=["sync", "timeout", "async"])
def test_a_task_that_held_by_its_own_job_fails_at_once(queue: JobQueue, job: Job[None]) -> None:
    message = r"InvalidState: job \w+ waits for its own result"
    with queue.worker(tasks=[own, own_async]), pytest.raises(JobFailed, match=message):
        queue.enqueue(job).result(5)


@pytest.mark.parametrize("wrong", ["5", True, float("nan"), 10**400])
def test_a_duration_that_is_not_a_number_of_seconds_is_refused(wrong: Any) -> None:
    with get_queue("memory://") as queue:
        handle, batch = queue.enqueue(child), queue.batch([child.job()])
        worker = queue.worker(tasks=[child])

        async def awaited() -> None:
            await AsyncJobQueue(queue).result(handle.id, wrong)

        async def changes() -> None:
            await anext(AsyncJobQueue(queue).changes(handle.id, every=wrong))

        for name, call in (
            ("timeout", lambda: handle.result(wrong)),
            ("timeout", lambda: batch.wait(wrong)),
            ("timeout", lambda: asyncio.run(awaited())),
            ("every", lambda: asyncio.run(changes())),
            ("grace", lambda: queue.worker(tasks=[child], grace=wrong)),
            ("grace", lambda: worker.stop(grace=wrong)),
            ("wait", lambda: queue.worker(tasks=[child], wait=wrong)),
        ):
            with pytest.raises(ConfigurationError, match=f"^{name} must be a number of seconds"):
                call()

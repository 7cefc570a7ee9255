"""The types that mypy and pyright must infer for tasks, and the errors that they must report. This code never runs.

Both checkers must reject a line with two ignores, because each checker reports an ignore that suppresses no error.
"""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from queueport import AsyncJobHandle, AsyncJobQueue, Job, JobHandle, JobQueue, JobStatus, Retry, Task, chain, task


@task
def send(user_id: int, template: str = "plain") -> str:
    return f"{user_id} {template}"


@task(queue="uploads", retry=Retry(max_attempts=5, retry_on=(OSError, "app.Busy")), timeout=timedelta(seconds=30))
def upload(*files: bytes, **labels: str) -> dict[str, int]:
    return {}


@task
async def fetch(url: str) -> bytes:
    return url.encode()


@task(name="app.ping", aliases=("ping",), expires=None, crash_limit=1, keep_result=60)
async def ping() -> None: ...


class Images:
    @task
    @staticmethod
    def resize(width: int) -> float:
        return width / 2


class Sounds:
    @staticmethod
    @task
    def cut(seconds: float) -> int:
        return 1


elsewhere = task.named("other.service.resize", queue="images", priority=5)


@send.on_dead
def alarm(status: JobStatus) -> None: ...


async def inferred(queue: JobQueue, aq: AsyncJobQueue) -> None:
    assert_type(send(1, template="x"), str)
    assert_type(await assert_type(fetch("x"), Coroutine[Any, Any, bytes]), bytes)
    assert_type(elsewhere(7, size=1), Any)
    assert_type(Images.resize(1), float)
    assert_type(Sounds.cut(1), int)
    assert_type(alarm.__name__, str)

    assert_type(send.job(1), Job[str])
    assert_type(fetch.job("x"), Job[bytes])
    assert_type(upload.job(b"x", label="y"), Job[dict[str, int]])
    assert_type(ping.job(), Job[None])
    assert_type(elsewhere.job(7), Job[Any])
    assert_type(Images.resize.job(1), Job[float])
    assert_type(Sounds.cut.job(1), Job[int])

    assert_type(send.enqueue(1, "x"), JobHandle[str])
    assert_type(fetch.enqueue("x").result(timeout=1), bytes)
    assert_type(await send.aenqueue(1), AsyncJobHandle[str])
    assert_type(await (await fetch.aenqueue("x")).result(), bytes)

    assert_type(send.using(delay=60, queue="bulk").using(run_at=datetime.now(UTC)).job(1), Job[str])
    assert_type(fetch.using(key="k", headers={"a": "b"}, expires=timedelta(hours=1)).job("x"), Job[bytes])

    assert_type(send.using(pass_result=True).job(template="x"), Job[str])
    assert_type(fetch.using(pass_result=True, queue="bulk").job(), Job[bytes])
    assert_type(fetch.using(pass_result=False).job("x"), Job[bytes])
    assert_type(task.named("other.report", pass_result=True).job("Ann"), Job[Any])
    assert_type(chain(fetch.job("x"), fetch.using(pass_result=True, then=send.job(1)).job()), Job[bytes])

    assert_type(queue.enqueue(send, 1, template="x"), JobHandle[str])
    assert_type(queue.enqueue(fetch, "x"), JobHandle[bytes])
    assert_type(queue.enqueue(send.job(1)), JobHandle[str])
    assert_type(queue.enqueue("other.service.resize", 7, size=1), JobHandle[Any])
    assert_type(queue.enqueue_many(send.job(i) for i in range(3)), list[JobHandle[str]])
    assert_type(queue.handle("id", fetch), JobHandle[bytes])
    assert_type(queue.handle("id"), JobHandle[Any])
    assert_type(await aq.enqueue(send, 1), AsyncJobHandle[str])


def rejected(queue: JobQueue) -> None:
    send("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send.job("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send.job()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    send.job(1, templet="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    send.enqueue("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    fetch.enqueue(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    upload.job("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    upload.job(label=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Images.resize.job("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send.using(delay="soon")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    send.using(dellay=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    send.using(delay=1).job("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    fetch.using(pass_result=True).job("x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    send.using(pass_result=True).job(template=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send.on_dead(lambda: None)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    task(delay=60)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    task(queue=1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    task.named("x", priority="high")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    queue.enqueue(send, "x")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    queue.enqueue(send)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    queue.enqueue(len, [])  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    handle = queue.enqueue(send, 1)
    _1: JobHandle[int] = handle  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    _2: Task[[int], str, str] = fetch  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

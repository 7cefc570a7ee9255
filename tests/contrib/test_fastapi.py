"""FastAPI and Starlette, with real requests to the app."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from queueport import Health, JobStatus, Stats, get_queue, task
from queueport.contrib.fastapi import JobQueueDep, job_queue_lifespan
from queueport.errors import ConfigurationError
from queueport.testing import FakeQueue


@task(name="fastapi.add")
def add(a: int, b: int = 1) -> int:
    return a + b


def make_app(url: str | None = None) -> FastAPI:
    app = FastAPI(lifespan=job_queue_lifespan(url))

    @app.post("/add/{number}", status_code=202)
    async def enqueue(number: int, queue: JobQueueDep) -> dict[str, str]:
        return {"job": (await queue.enqueue(add, number)).id}

    @app.get("/jobs/{job_id}")
    async def status(job_id: str, queue: JobQueueDep) -> JobStatus:
        return await queue.status(job_id)

    @app.get("/stats")
    async def stats(queue: JobQueueDep) -> Stats:
        return await queue.stats()

    @app.get("/health")
    async def health(queue: JobQueueDep) -> Health:
        return await queue.check()

    return app


def test_handlers_enqueue_and_read_jobs(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    with TestClient(make_app(url)) as client:
        job_id = client.post("/add/4").json()["job"]
        with get_queue(url) as queue:
            queue.worker(tasks=[add], burst=True).run()
        shown = client.get(f"/jobs/{job_id}").json()
        assert (shown["state"], shown["result"], shown["args"]) == ("succeeded", 5, [4])
        stats = client.get("/stats").json()
        assert stats["queues"]["default"]["succeeded"] == 1
        assert client.get("/health").json()["ok"] is True
        assert "queues" in client.get("/openapi.json").json()["components"]["schemas"]["Stats"]["properties"]


def test_the_lifespan_closes_the_queue_that_it_opened(tmp_path: Path) -> None:
    app = make_app(f"sqlite:///{tmp_path}/jobs.db")
    with TestClient(app):
        queue = app.state.job_queue.sync
        queue.enqueue(add, 1)
    assert not hasattr(app.state, "job_queue")
    with pytest.raises(Exception, match="is closed"):
        queue.enqueue(add, 1)


def test_without_a_url_handlers_get_the_default_queue_of_a_test(job_queue: FakeQueue) -> None:
    with TestClient(make_app()) as client:
        client.post("/add/7")
        job_queue.assert_enqueued(add, args=(7,))
    client = TestClient(make_app())  # the client does not start the lifespan
    client.post("/add/8")
    job_queue.assert_enqueued(add, args=(8,))


def test_a_wrong_url_is_an_error_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="no backend for nosuch"), TestClient(make_app("nosuch://x")):
        pass
    monkeypatch.delenv("QUEUEPORT_URL", raising=False)
    with pytest.raises(ConfigurationError, match="no queue URL is set"), TestClient(make_app()):
        pass


def test_a_slow_enqueue_does_not_block_the_event_loop(job_queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one handler waits for the store, another one answers."""
    import threading

    released = threading.Event()
    insert = job_queue.operations.store.insert

    def slow(inserts: Any) -> Any:
        assert released.wait(10)
        return insert(inserts)

    monkeypatch.setattr(job_queue.operations.store, "insert", slow)
    app = make_app()

    @app.get("/free")
    async def free() -> str:
        released.set()
        return "answered"

    async def both() -> list[Any]:
        import httpx2

        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            enqueueing = asyncio.create_task(client.post("/add/1"))
            await asyncio.sleep(0)
            return [(await client.get("/free")).json(), (await enqueueing).status_code]

    assert asyncio.run(both()) == ["answered", 202]

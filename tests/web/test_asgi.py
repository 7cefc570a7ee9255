"""The ASGI app under many clients, and with a store that is slow."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.testclient import TestClient

from queueport import get_queue, task
from queueport.contrib.fastapi import job_queue_lifespan, jobs_router
from queueport.testing import FakeQueue
from queueport.web import Endpoints
from queueport.web.asgi import jobs_app, jobs_routes

CLIENTS = 200


@task(name="asgi.wait")
def wait(released: bool = True) -> str:
    return "waited"


class Client:
    """A client that follows a job, without a server: what the app sends to it, and when it goes away."""

    def __init__(self, app: Starlette, job_id: str, spec_version: str = "2.3") -> None:
        self.app, self.job_id, self.spec_version = app, job_id, spec_version
        self._messages: asyncio.Queue[str] = asyncio.Queue()
        self.gone = asyncio.Event()

    async def follow(self) -> None:
        """Return when the app has ended the response."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": self.spec_version},
            "method": "GET",
            "path": f"/jobs/{self.job_id}/events",
            "query_string": b"",
            "headers": [],
        }
        await self.app(scope, self._receive, self._send)

    async def got(self, text: str) -> None:
        """Read messages until one of them contains this text."""
        async with asyncio.timeout(20):
            while text not in await self._messages.get():
                pass

    async def _receive(self) -> MutableMapping[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if self.gone.is_set():
            raise OSError("the client is gone")
        await self._messages.put(message.get("body", b"").decode())


def test_many_clients_wait_without_threads_of_their_own() -> None:
    with get_queue("memory://") as queue:
        app, handle = jobs_app(Endpoints(queue=queue, keep_alive=0.5)), queue.enqueue(wait)

        async def follow() -> int:
            before = threading.active_count()
            clients = [Client(app, handle.id) for _ in range(CLIENTS)]
            following = [asyncio.ensure_future(client.follow()) for client in clients]
            for client in clients:
                await client.got(": no change")
            used = threading.active_count() - before
            await asyncio.to_thread(queue.worker(tasks=[wait], burst=True).run)
            await asyncio.gather(*following)
            for client in clients:
                await client.got('"state": "succeeded"')
            return used

        assert asyncio.run(follow()) < 40  # the executor of asyncio has at most 32


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
def test_a_disconnected_client_ends_its_request(spec_version: str) -> None:
    async def follow() -> None:
        client = Client(app, handle.id, spec_version)
        following = asyncio.ensure_future(client.follow())
        await client.got("event: status")
        client.gone.set()
        async with asyncio.timeout(10):
            if spec_version == "2.4":  # Starlette notices it when it sends the next comment
                with pytest.raises(ClientDisconnect):
                    await following
            else:
                await following

    with get_queue("memory://") as queue:
        app, handle = jobs_app(Endpoints(queue=queue, keep_alive=0.3)), queue.enqueue(wait)
        asyncio.run(follow())


def test_the_process_is_alive_while_all_threads_wait_for_the_store(
    job_queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, stats = threading.Event(), job_queue.operations.store.stats

    def slow() -> Any:
        assert released.wait(20)
        return stats()

    monkeypatch.setattr(job_queue.operations.store, "stats", slow)
    app = jobs_app()

    async def ask() -> list[int]:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            asking = [asyncio.ensure_future(client.get("/health/jobs")) for _ in range(50)]
            await asyncio.sleep(0)
            alive = await asyncio.wait_for(client.get("/livez"), 10)
            released.set()
            return [alive.status_code, *(answer.status_code for answer in await asyncio.gather(*asking))]

    assert asyncio.run(ask()) == [200] * 51


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "no queue URL is set: run `export QUEUEPORT_URL="),
        ("reddis://localhost", "no backend for reddis:// is installed"),
    ],
)
def test_the_app_does_not_start_with_a_missing_or_wrong_url(tmp_path: Path, url: str, says: str) -> None:
    command = [sys.executable, "-m", "uvicorn", "--factory", "queueport.web.asgi:jobs_app", "--port", "0"]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "QUEUEPORT_URL": url},
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if "ERROR" in line]) == 2  # the other line is of uvicorn


def test_the_app_starts_and_ends_with_the_default_queue(job_queue: FakeQueue) -> None:
    with TestClient(jobs_app()) as client:
        assert client.get("/health/jobs").status_code == 200


@pytest.mark.parametrize("framework", ["starlette", "fastapi"])
def test_the_routes_use_the_queue_of_the_apps_lifespan(framework: str, tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    lifespan = job_queue_lifespan(url)
    app: Starlette = FastAPI(lifespan=lifespan) if framework == "fastapi" else Starlette(lifespan=lifespan)
    if isinstance(app, FastAPI):
        app.include_router(jobs_router(), prefix="/ops")
    else:
        app.routes.extend(jobs_routes())
    with TestClient(app) as client, get_queue(url) as queue:
        handle = queue.enqueue(wait)
        prefix = "/ops" if framework == "fastapi" else ""
        assert client.get(f"{prefix}/jobs/{handle.id}/status").json()["state"] == "queued"

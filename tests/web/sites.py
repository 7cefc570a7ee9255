"""The endpoints in each framework, behind a real HTTP server in a thread. For the tests in this folder."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import httpx2
import uvicorn
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.urls import clear_url_caches
from fastapi import FastAPI
from flask import Flask
from werkzeug.serving import make_server

from queueport.contrib.django.urls import jobs_urls
from queueport.contrib.fastapi import jobs_router
from queueport.contrib.flask import jobs_blueprint
from queueport.testing.waiting import eventually
from queueport.web import Endpoints
from queueport.web.asgi import jobs_app

Run = Callable[[Any], Any]


@dataclass
class Site:
    """A running server with the endpoints."""

    client: httpx2.Client
    waiting: Callable[[], int]
    """The number of requests that the server has not answered completely."""

    def get(self, path: str, code: int = 200, **headers: str) -> Any:
        """The JSON of the answer, which must have this code."""
        answer = self.client.get(path, headers=headers)
        assert answer.status_code == code, answer.text
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
        return answer.json()

    @contextmanager
    def events(self, job_id: str) -> Iterator[Events]:
        """The open stream of a job's events."""
        with self.client.stream("GET", f"/jobs/{job_id}/events") as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            yield Events(response.iter_lines())


class Events:
    """The events of a stream: each has its `id`, its `event` and its `data`, or a `comment`."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for line in self._lines:
            if not line:
                return found
            name, _, value = line.partition(": ")
            found[name or "comment"] = json.loads(value) if name == "data" else value
        raise StopIteration

    def until(self, wanted: Callable[[Mapping[str, Any]], bool]) -> dict[str, Any]:
        """Read events until one is wanted, and return it."""
        for event in self:
            if wanted(event):
                return event
        raise AssertionError("the stream has ended without such an event")


@contextmanager
def serve_asgi(app: Any) -> Iterator[Site]:
    """Serve an ASGI app with uvicorn."""
    config = uvicorn.Config(app, log_level="error", ws="none", loop="asyncio", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            eventually(lambda: server.started)
            with httpx2.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=20) as client:
                yield Site(client, lambda: len(server.server_state.tasks))
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def serve_wsgi(app: Any) -> Iterator[Site]:
    """Serve a WSGI app with a thread for each request."""
    before = {*threading.enumerate()}
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def waiting() -> int:
        new = {*threading.enumerate()} - before - {thread}
        return sum("process_request" in each.name for each in new)

    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=20) as client:
            yield Site(client, waiting)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def django(endpoints: Endpoints) -> None:
    """Make these endpoints the URLs of the Django project in this process."""
    if not settings.configured:
        settings.configure(SECRET_KEY="for tests", ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None)
    settings.ROOT_URLCONF = tuple(jobs_urls(endpoints))
    clear_url_caches()


@contextmanager
def serve(framework: str, endpoints: Endpoints) -> Iterator[Site]:
    """Serve the endpoints with a framework of FRAMEWORKS."""
    if framework == "starlette":
        with serve_asgi(jobs_app(endpoints)) as site:
            yield site
    elif framework == "fastapi":
        app = FastAPI()
        app.include_router(jobs_router(endpoints))
        with serve_asgi(app) as site:
            yield site
    elif framework == "flask":
        shop = Flask(__name__)
        shop.register_blueprint(jobs_blueprint(endpoints))
        with serve_wsgi(shop) as site:
            yield site
    else:
        django(endpoints)
        serving = serve_asgi(ASGIHandler()) if framework == "django (asgi)" else serve_wsgi(WSGIHandler())
        with serving as site:
            yield site


FRAMEWORKS = ("starlette", "fastapi", "flask", "django (asgi)", "django (wsgi)")

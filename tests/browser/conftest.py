"""Chromium, real workers and a served dashboard, for the tests in this folder. `nox -s browser` runs them."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from queueport import JobQueue, get_queue
from queueport.testing.waiting import eventually
from queueport.web.dashboard import dashboard_app
from tests.browser import shop
from tests.examples.backends import environment_of

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
"""The programs that these tests can use, the first that is installed."""
BACKENDS = ["sqlite", "rabbitmq + redis"]
PATIENCE = 15_000
"""Milliseconds that a test waits for an element or a text: several refreshes of a page, on a slow machine."""
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", action="store_true", help="Write the pictures of the documentation.")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.fail("Chromium was not found: install it, for example with `apt-get install chromium`")
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, chromium_sandbox=os.geteuid() != 0)
        yield opened
        opened.close()


@dataclass(frozen=True, slots=True)
class Served:
    """A dashboard at an address, and the queues that it shows."""

    address: str
    queues: dict[str, JobQueue]

    @property
    def queue(self) -> JobQueue:
        """The first queue, which is called "main"."""
        return self.queues["main"]


@contextmanager
def opened(backend: str, folder: Path) -> Iterator[JobQueue]:
    """A queue with a namespace of its own."""
    with environment_of(backend, folder, *shop.QUEUES) as variables:
        url, namespace = variables["QUEUEPORT_URL"], variables["QUEUEPORT_NAMESPACE"]
        with get_queue(url, namespace=namespace, lease=3) as queue:
            queue.setup(*shop.QUEUES)
            yield queue


@contextmanager
def working(queue: JobQueue, *queues: str) -> Iterator[None]:
    """Run a worker in this process."""
    worker = queue.worker(*(queues or shop.QUEUES), tasks=shop.TASKS, threads=4, grace=1)
    worker.start()
    try:
        yield
    finally:
        shop.released.set()
        worker.stop()


@contextmanager
def serving(queues: dict[str, JobQueue], **options: Any) -> Iterator[Served]:
    """Serve a dashboard in a thread, as `queueport web` does in a process."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        app = dashboard_app(queues, **options)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, proxy_headers=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            eventually(lambda: server.started)
            yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}", queues)
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture(params=BACKENDS)
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    """A dashboard with actions over one backend, with a worker that serves some of its queues."""
    shop.released.clear()
    with ExitStack() as stack:
        queue = stack.enter_context(opened(request.param, tmp_path))
        dashboard = stack.enter_context(serving({"main": queue}, allow_actions=True))
        stack.enter_context(working(queue))
        yield dashboard


Open = Callable[..., Page]


@pytest.fixture
def tab(browser: Browser) -> Iterator[Open]:
    """Opens a page in a browser of its own.

    At the end, the page must not have asked another host, and unless `strict` is False, not have logged an error.
    """
    faults: list[str] = []
    contexts: list[BrowserContext] = []

    def new(served: Served, path: str = "/", size: str = "desktop", *, strict: bool = True, **options: Any) -> Page:
        width, height = WIDTHS[size]
        context = browser.new_context(viewport={"width": width, "height": height}, base_url=served.address, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)

        def heard(message: ConsoleMessage) -> None:
            if strict and message.type in ("error", "warning"):
                faults.append(f"{page.url}: {message.text}")

        def asked(request: Request) -> None:
            if not request.url.startswith(served.address):
                faults.append(f"{page.url} asked {request.url}")

        page.on("console", heard)
        page.on("request", asked)
        page.on("pageerror", lambda error: faults.append(f"{page.url}: {error}"))
        page.on("dialog", lambda dialog: faults.append(f"{page.url} opened a dialog: {dialog.message}"))
        page.goto(path)
        return page

    yield new
    for context in contexts:
        context.close()
    assert faults == []

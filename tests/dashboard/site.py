"""A client of the dashboard that reads its pages as a browser would, and the tasks of these tests."""

from __future__ import annotations

import threading
from html.parser import HTMLParser
from typing import Any

from starlette.testclient import TestClient
from starlette.types import ASGIApp

from queueport import Abort, JobQueue, Retry, Task, current_job, task
from queueport.testing.waiting import eventually
from queueport.web.dashboard import dashboard_app

LOCAL = "http://127.0.0.1:8484"

released = threading.Event()
"""A job of `wait` runs until a test sets this event."""


@task(name="pages.add", queue="sums")
def add(a: int, b: int = 0) -> int:
    return a + b


@task(name="pages.charge", queue="payments")
def charge(order: str, password: str = "") -> dict[str, str]:
    raise ConnectionResetError(f"the bank hung up on {order}")


@task(name="pages.login", queue="payments", retry=Retry(max_attempts=1))
def login(user: str, password: str, options: dict[str, Any]) -> dict[str, Any]:
    return {"user": user, "session_token": "tok-1", "url": "redis://:hunter2@host/0"}


@task(name="pages.wait")
def wait() -> None:
    current_job().progress(3, 10, "packing")
    assert released.wait(30)


@task(name="pages.fail")
def fail(text: str) -> None:
    raise Abort(text)


TASKS: list[Task[..., Any, Any]] = [add, charge, login, wait, fail]


def work(queue: JobQueue) -> None:
    """Run all jobs that are due."""
    queue.worker(tasks=TASKS, threads=2, burst=True).run()


class Page(HTMLParser):
    """A parsed page: its text, links, forms and elements."""

    VOID = ("meta", "link", "input", "img", "br")
    INLINE = ("a", "b", "small", "span", "code", "time")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: dict[str, str] = {}
        """The address of each link, by its text."""
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: dict[str, str] = {}
        """The text of each text area, by its name."""
        self._area: str | None = None
        self._link: str | None = None
        self._label: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.elements.append((tag, given))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "a":
            self._link, self._label = given.get("href"), []
        if tag == "textarea":
            self._area = given["name"]
            self.texts[self._area] = ""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"
        if tag not in self.INLINE:
            self.words.append(" ")
        if tag == "textarea" and self._area is not None:
            self.texts[self._area] = self.texts[self._area].removeprefix("\n")  # as browsers do
            self._area = None
        if tag == "a" and self._link is not None:
            self.links["".join(self._label).strip()] = self._link
            self._link = None

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        self._label.append(data)
        if self._area is not None:
            self.texts[self._area] += data

    @property
    def text(self) -> str:
        """The text, with single spaces."""
        return " ".join("".join(self.words).split())

    def find(self, tag: str, **attributes: str) -> dict[str, str]:
        """The attributes of the only element with this tag and these attributes."""
        (found,) = [given for name, given in self.elements if name == tag and attributes.items() <= given.items()]
        return found

    def has(self, tag: str, **attributes: str) -> bool:
        return any(name == tag and attributes.items() <= given.items() for name, given in self.elements)


class Site:
    """The dashboard of some queues, seen by a browser of the same machine."""

    def __init__(self, queues: Any, app: ASGIApp | None = None, **options: Any) -> None:
        made = dashboard_app(queues, **options) if app is None else app
        self.client = TestClient(made, LOCAL, client=("127.0.0.1", 50_000), follow_redirects=False)

    def get(self, path: str, status: int = 200, **options: Any) -> Page:
        """Read a page, which must have this status."""
        response = self.client.get(path, **options)
        assert response.status_code == status, response.text
        return Page(response.text)

    def wait(self, path: str, text: str) -> Page:
        """Read a page again and again until it contains the text."""
        eventually(lambda: text in self.get(path).text)
        return self.get(path)

    def confirm(self, path: str, **options: Any) -> Any:
        """Open the confirmation page of an action, and send its form. Returns the response."""
        page = self.get(path, **options)
        headers = {"Origin": LOCAL, **options.pop("headers", {})}
        data = {"token": page.find("input", name="token")["value"]}
        return self.client.post(page.find("form", method="post")["action"], data=data, headers=headers, **options)

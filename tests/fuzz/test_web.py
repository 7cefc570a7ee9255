"""Requests to the dashboard and the endpoints: whatever they contain, an answer without an error of the server."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from queueport import Abort, JobQueue, JobState, get_queue, task
from queueport.web import Endpoints
from queueport.web.asgi import jobs_app
from queueport.web.dashboard import access, dashboard_app
from queueport.web.dashboard.actions import ACTIONS
from tests.fuzz.values import fuzzed, texts

LOCAL = "http://127.0.0.1:8484"


@task(name="fuzz.web_fail")
def fail(text: str) -> None:
    raise Abort(text)


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobQueue]:
    """A queue with a queued job, a dead job and a schedule."""
    folder: Path = tmp_path_factory.mktemp("web")
    with get_queue(f"sqlite:///{folder}/jobs.db") as opened:
        opened.enqueue(fail.using(job_id="dead"), "<b>\x00")
        opened.worker(tasks=[fail], burst=True).run()
        opened.enqueue(fail.using(job_id="queued", queue="idle"), "x")
        assert opened.status("dead").state is JobState.DEAD
        yield opened


@pytest.fixture(scope="module")
def sites(queue: JobQueue) -> Iterator[list[TestClient]]:
    """The dashboard without and with a password, and the endpoints. An error of the server raises."""
    apps: list[ASGIApp] = [
        dashboard_app({"q": queue}, allow_actions=True),
        dashboard_app({"q": queue}, password="pass"),
        jobs_app(Endpoints(queue=queue)),
    ]
    clients = [TestClient(app, LOCAL, client=("127.0.0.1", 5)) for app in apps]
    yield clients
    for client in clients:
        client.close()


PATHS = ["/", "/audit", "/find", "/q/jobs", "/q/jobs/dead", "/q/jobs/queued", "/nowhere/jobs", "/static/style.css"]
PATHS += [f"/q/actions/{action}" for action in ACTIONS]
PATHS += ["/health/jobs", "/jobs/dead/status", "/jobs/dead/events", "/readyz", "/livez", "/metrics", "/openapi.json"]
NAMES = ["state", "queue", "task", "error", "after", "done", "token", "confirm", "age", "job_id", "page", "reason"]
odd = texts.map(lambda text: text.encode(errors="surrogatepass"))
pairs = st.lists(st.tuples(st.sampled_from(NAMES) | texts, texts), max_size=4)
HEADERS = ["accept", "last-event-id", "cookie", "authorization", "host", "origin", "sec-fetch-site", "content-type"]
HEADERS += ["x-forwarded-for", "content-length", "hx-request"]


def _bytes(given: list[tuple[str, str]]) -> bytes:
    return urlencode([(a.encode(errors="surrogatepass"), b.encode(errors="surrogatepass")) for a, b in given]).encode()


def header(data: bytes) -> bytes:
    """A value that a server passes to an app: it refuses control characters itself."""
    return bytes(byte for byte in data if byte >= 32 and byte != 127)


@given(
    path=st.sampled_from(PATHS) | odd.map(lambda data: f"/q/jobs/{quote(data)}") | odd.map(lambda d: f"/{quote(d)}"),
    query=pairs.map(_bytes) | st.binary(max_size=30).map(lambda data: quote(data, safe="&=%+").encode()),
    method=st.sampled_from(["GET", "GET", "POST", "POST", "HEAD", "PUT"]),
    headers=st.dictionaries(st.sampled_from(HEADERS), st.one_of(odd, st.binary(max_size=30)).map(header), max_size=3),
    body=pairs.map(_bytes) | st.binary(max_size=60),
)
@fuzzed
def test_a_request_is_answered_and_changes_nothing(
    sites: list[TestClient], queue: JobQueue, *, path: str, query: bytes, method: str, headers: Any, body: bytes
) -> None:
    for client in sites:
        sent: Any = {"content-type": b"application/x-www-form-urlencoded", **headers}
        sent.pop("content-length", None)
        url = f"{path}?{query.decode()}"
        content = body if method in ("POST", "PUT") else None
        answer = client.request(method, url, headers=sent, content=content, follow_redirects=False)
        assert answer.status_code < 500, answer.text
    assert queue.status("dead").state is JobState.DEAD
    assert queue.status("queued").state is JobState.QUEUED
    assert queue.paused() == {}


@given(odd | st.binary(max_size=40), st.booleans())
@fuzzed
def test_a_login_is_refused_without_the_password(
    sites: list[TestClient], monkeypatch: pytest.MonkeyPatch, login: bytes, basic: bool
) -> None:
    monkeypatch.setattr(access, "WRONG_PASSWORD_PAUSE", 0.0)
    encoded = b"Basic " + base64.b64encode(login) if basic else header(login)
    headers: Any = {"authorization": encoded}
    assert sites[1].get("/", headers=headers).status_code == (200 if login.partition(b":")[2] == b"pass" else 401)


@given(st.dictionaries(st.sampled_from(["token", "confirm", "x"]), texts), texts, st.booleans())
@fuzzed
def test_a_forged_form_is_refused(
    sites: list[TestClient], queue: JobQueue, form: dict[str, str], cookie: str, real: bool
) -> None:
    client = sites[0]
    value = json.dumps(cookie).strip('"')
    headers: Any = {"cookie": header(f"queueport_confirm={value}".encode()), "origin": LOCAL.encode()}
    answer = client.post("/q/actions/retry?job_id=dead", headers=headers, content=_bytes([*form.items()]))
    assert answer.status_code < 500
    assert queue.status("dead").state is JobState.DEAD

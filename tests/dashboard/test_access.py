"""Who may see the dashboard, and what a browser may do with its pages."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from queueport import JobQueue, get_queue
from queueport.errors import ConfigurationError
from queueport.web.dashboard import access, dashboard_app
from tests.dashboard.site import LOCAL, Site, add


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8484", "LOCALHOST", "[::1]:8484", "127.0.0.2"])
def test_a_browser_on_this_machine_may_see_the_pages(sqlite: JobQueue, host: str) -> None:
    assert Site(sqlite).get("/", headers={"Host": host}).text


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8484", "10.0.0.1", "", "[::1", "a@localhost"],
)
def test_a_foreign_name_for_this_machine_is_refused(sqlite: JobQueue, host: str) -> None:
    """DNS rebinding: a website's name resolves to 127.0.0.1, so that its scripts could read the answer."""
    response = Site(sqlite).client.get("/", headers={"Host": host})
    assert response.status_code == 403
    assert "answers only to a browser on the same machine" in response.text


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Forwarded-Proto", "Via"])
def test_without_a_password_a_proxy_is_refused(sqlite: JobQueue, header: str) -> None:
    assert Site(sqlite).client.get("/", headers={header: "127.0.0.1"}).status_code == 403


def test_without_a_password_http_1_0_is_refused(sqlite: JobQueue) -> None:
    """With only `proxy_pass`, nginx asks by HTTP/1.0 for 127.0.0.1, and adds no header."""
    app = dashboard_app(sqlite)

    async def proxied(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "http_version": "1.0"}, receive, send)

    assert TestClient(proxied, LOCAL, client=("127.0.0.1", 1)).get("/").status_code == 403


def test_without_a_password_another_machine_is_refused(sqlite: JobQueue) -> None:
    app = dashboard_app(sqlite)
    for client in (("10.0.0.7", 1), ("testclient", 1)):
        assert TestClient(app, LOCAL, client=client).get("/").status_code == 403


def test_the_password_lets_any_machine_in(sqlite: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "WRONG_PASSWORD_PAUSE", 0.0)
    client = TestClient(dashboard_app(sqlite, password="pä55"), "https://jobs.example", client=("10.0.0.7", 1))
    for path in ("/", "/sqlite/jobs", "/-/static/dashboard.css", "/nosuch"):
        refused = client.get(path)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic ")
    for wrong in ("", "pa55", "pä55x", "pä5"):
        assert client.get("/", headers=basic("ann", wrong)).status_code == 401
    for broken in (b"Basic", b"Basic %%%", b"Basic /////w==", b"Bearer pa55", b"Basic \xff\xfe"):
        assert client.get("/", headers=[(b"Authorization", broken)]).status_code == 401
    assert "as ann" in client.get("/", headers=basic("ann", "pä55")).text
    assert "as anonymous" in client.get("/", headers=basic("", "pä55")).text


def test_a_wrong_password_is_answered_late(sqlite: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    paused = []

    async def sleep(seconds: float) -> None:
        paused.append(seconds)

    monkeypatch.setattr("queueport.web.dashboard.access.asyncio.sleep", sleep)
    client = TestClient(dashboard_app(sqlite, password="right"), LOCAL)
    client.get("/")
    client.get("/", headers=basic("ann", "right"))
    assert paused == []
    client.get("/", headers=basic("ann", "wrong"))
    assert paused == [access.WRONG_PASSWORD_PAUSE]


def test_an_application_can_authenticate_its_users(sqlite: JobQueue) -> None:
    def known(request: Request) -> str | None:
        return request.headers.get("x-user")

    async def later(request: Request) -> str | None:
        return request.headers.get("x-user")

    for authenticate in (known, later):
        app = Starlette(routes=[Mount("/jobs", dashboard_app(sqlite, authenticate=authenticate))])
        client = TestClient(app, "https://shop.example", client=("10.0.0.7", 1))
        assert client.get("/jobs/").status_code == 403
        assert "as ann" in client.get("/jobs/", headers={"X-User": "ann"}).text


@pytest.mark.parametrize("answer", [None, "", False, 0])
def test_an_authenticator_that_names_no_user_lets_nobody_in(sqlite: JobQueue, answer: Any) -> None:
    client = TestClient(dashboard_app(sqlite, authenticate=lambda request: answer), "https://shop.example")
    assert client.get("/").status_code == 403


def test_an_authenticator_that_returns_no_name_is_an_error(sqlite: JobQueue) -> None:
    answer: Any = True
    client = TestClient(dashboard_app(sqlite, authenticate=lambda request: answer), "https://shop.example")
    with pytest.raises(ConfigurationError, match="must return a user's name or None, not bool"):
        client.get("/")


def test_wrong_options_are_refused(sqlite: JobQueue) -> None:
    with pytest.raises(ConfigurationError, match="the password is empty"):
        dashboard_app(sqlite, password="")
    with pytest.raises(ConfigurationError, match="exclude each other"):
        dashboard_app(sqlite, password="x", authenticate=lambda request: None)


def test_every_answer_has_the_security_headers(sqlite: JobQueue) -> None:
    handle = sqlite.enqueue(add, 1)
    site = Site(sqlite, allow_actions=True)
    places = ["/", "/sqlite/jobs", f"/sqlite/jobs/{handle.id}", "/audit", "/nosuch", "/-/static/htmx.min.js"]
    foreign = site.client.get("/", headers={"Host": "evil.example"})
    for response in [*map(site.client.get, places), foreign]:
        policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
        assert "unsafe" not in response.headers["content-security-policy"]
        assert response.headers["x-frame-options"] == "DENY"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        static = response.headers["content-type"].startswith("text/javascript")
        assert response.headers["cache-control"] == ("no-cache" if static else "no-store")


def test_nothing_is_loaded_from_elsewhere() -> None:
    """The templates and static files of queueport name no other host; htmx is tested in a browser."""
    folder = Path(access.__file__).parent
    for path in [*folder.glob("templates/*"), *folder.glob("static/dashboard.*"), folder / "static/icon.svg"]:
        text = path.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert "//" not in "\n".join(line for line in text.splitlines() if not line.strip().startswith("//")), path


def test_a_websocket_is_closed() -> None:
    with get_queue("memory://") as queue:
        client = TestClient(dashboard_app(queue), LOCAL, client=("127.0.0.1", 1))
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/"):
            pass

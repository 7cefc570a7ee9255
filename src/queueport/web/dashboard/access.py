"""Who may see the dashboard, and the proof that a person has confirmed an action. For the app.

Without a password and without an authenticator, only this machine may see the pages: the client's address and the name
in the address bar must be those of the loopback interface, and no proxy may be in between. The name is checked because
of DNS rebinding, by which a foreign website could read the pages through the browser of somebody on this machine.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import inspect
import ipaddress
import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from queueport.errors import ConfigurationError

__all__ = ["Access", "Authenticate", "FormTokens", "is_loopback", "read_form"]

Authenticate = Callable[[Request], str | Awaitable[str | None] | None]
"""Returns the name of the user who sends a request, or None to refuse the request. May be a coroutine function."""

HEADERS = {
    b"content-security-policy": b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    b"connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    b"x-frame-options": b"DENY",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}
"""Sent with every response, unless the response has a header of this name."""
FORWARDED = re.compile(r"forwarded|via|x-real-ip|x-forwarded-.*")
"""Matches the names of headers by which a proxy shows itself."""
WRONG_PASSWORD_PAUSE = 0.5
"""Seconds before a wrong password is answered, so that guessing takes long."""
LOCAL_USER = "local"
"""The name of the user if there is neither a password nor an authenticator."""


def is_loopback(host: str) -> bool:
    """True if the name or address is one of the loopback interface."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Access:
    """An ASGI app that lets requests pass to `app` if their sender may see the pages. Adds the security headers."""

    def __init__(self, app: ASGIApp, password: str | None, authenticate: Authenticate | None) -> None:
        self._app = app
        self._password = None if password is None else _digest(password)
        self._authenticate = authenticate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)  # the lifespan
            return

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                added = [(name, value) for name, value in HEADERS.items() if name not in given]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        user = await self._user(Request(scope))
        if isinstance(user, Response):
            await user(scope, receive, send_secured)
            return
        scope.setdefault("state", {})["dashboard_user"] = user
        await self._app(scope, receive, send_secured)

    async def _user(self, request: Request) -> str | Response:
        """The name of the user, or the response that refuses the request."""
        if self._authenticate is not None:
            found = self._authenticate(request)
            user = await found if inspect.isawaitable(found) else found
            if not user:  # also False and "": a mistake of the function must not let anybody in
                return PlainTextResponse("You may not see this dashboard.", 403)
            if not isinstance(user, str):
                raise ConfigurationError(f"authenticate must return a user's name or None, not {type(user).__name__}")
            return user
        if self._password is not None:
            return await self._login(request, self._password)
        return LOCAL_USER if _is_local(request) else PlainTextResponse(LOCAL_ONLY, 403)

    async def _login(self, request: Request, expected: bytes) -> str | Response:
        """Check the password of HTTP Basic. The user name is free; the audit log shows it."""
        scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                user, _, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
            except ValueError:  # not base64, or not UTF-8
                user, password = "", ""
            if hmac.compare_digest(_digest(password), expected):
                return user or "anonymous"
            await asyncio.sleep(WRONG_PASSWORD_PAUSE)
        asked = {"WWW-Authenticate": 'Basic realm="queueport", charset="UTF-8"'}
        return PlainTextResponse("A password is needed. Any user name will do.", 401, asked)


LOCAL_ONLY = (
    "Without a password, this dashboard answers only to a browser on the same machine that asks for localhost or "
    "127.0.0.1, without a proxy. Set a password or an authenticator to allow more."
)


def _is_local(request: Request) -> bool:
    """True if the request comes from this machine, names the loopback interface, and shows no sign of a proxy.

    No browser uses HTTP/1.0, but nginx does by default, and then sends none of the headers.
    """
    host = re.sub(r":\d*$", "", request.headers.get("host", ""))
    proxied = request.scope.get("http_version") == "1.0" or any(map(FORWARDED.fullmatch, request.headers))
    return request.client is not None and is_loopback(request.client.host) and is_loopback(host) and not proxied


def _digest(text: str) -> bytes:
    """A digest, so that texts of different lengths are compared in the same time."""
    return hashlib.sha256(text.encode()).digest()


TOKEN_SECONDS = 3600.0
"""How long a confirmation page can be used."""
COOKIE = "queueport_confirm"


class FormTokens:
    """Makes and checks the signed tokens of confirmation pages.

    A token is bound to a cookie of the browser, to the user, to the address with the action and its parameters, and to
    an hour. Another website can neither read a token nor make one. `secret` signs the tokens: processes that serve the
    same dashboard need the same; None makes a random one.
    """

    def __init__(self, secret: str | None) -> None:
        self._key = secrets.token_bytes() if secret is None else _digest(secret)

    def issue(self, request: Request) -> tuple[str, str]:
        """The token for this address, and the cookie's value, which the response must set."""
        cookie = request.cookies.get(COOKIE) or secrets.token_urlsafe()
        issued = f"{time.time():.0f}"
        return f"{issued}.{self._sign(request, cookie, issued)}", cookie

    def finish(self, request: Request, response: Response, value: str) -> None:
        """Give the page with the form the cookie of `issue`, and let the browser send the form's Origin."""
        response.headers["Referrer-Policy"] = "same-origin"  # with no-referrer, the browser would hide the Origin
        path = request.scope.get("root_path") or "/"
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, value, path=path, secure=secure, httponly=True, samesite="strict")

    def refusal(self, request: Request, form: Mapping[str, str]) -> str | None:
        """Why this form does not prove that the user has confirmed the action; None if it does."""
        if not _same_origin(request):
            return "This request came from another website, so nothing was changed."
        issued, _, signature = form.get("token", "").partition(".")
        expected = self._sign(request, request.cookies.get(COOKIE, ""), issued)
        if not hmac.compare_digest(_digest(signature), _digest(expected)):
            return "This form is not valid, so nothing was changed. Open the page of the action again."
        if time.time() - float(issued) > TOKEN_SECONDS:
            return "This form is older than an hour, so nothing was changed. Open the page of the action again."
        return None

    def _sign(self, request: Request, cookie: str, issued: str) -> str:
        signed = [cookie, request.state.dashboard_user, request.url.path, request.url.query, issued]
        return hmac.new(self._key, json.dumps(signed).encode(), hashlib.sha256).hexdigest()


def _same_origin(request: Request) -> bool:
    """False if the browser says that another website has sent the request. Browsers send Origin with each POST."""
    origin = request.headers.get("origin")
    if origin is not None:
        return origin.partition("://")[2] == request.headers.get("host")
    return request.headers.get("sec-fetch-site", "same-origin") == "same-origin"


FORM_LIMIT = 10_000
"""The maximum number of bytes of a form."""


async def read_form(request: Request, limit: int = FORM_LIMIT) -> dict[str, str]:
    """The fields of an HTML form. Raises HTTPException if it has more than `limit` bytes or is something else."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "Only HTML forms are accepted here.")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise HTTPException(413, "The form is too large.")
    return dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))

"""Reads from RabbitMQ's management API what AMQP does not offer: unacknowledged messages and alarms. For the transport.

https://www.rabbitmq.com/docs/http-api-reference
"""

from __future__ import annotations

import base64
import json
import logging
from http import HTTPStatus
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from queueport.spi.url import BackendURL
from queueport_rabbitmq.errors import ALARM
from queueport_rabbitmq.server import Server

__all__ = ["Management"]

logger: logging.Logger = logging.getLogger("queueport")

UNUSABLE = (OSError, ValueError, HTTPException)
"""The errors that a call raises if it gets no valid answer, or if the URL is wrong."""


class Management:
    """The management API at `url`. If `url` names no user, the AMQP URL's user is used. Methods never raise."""

    def __init__(self, url: str, server: Server) -> None:
        self._server = server
        parts = urlsplit(url)
        self._base = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/api"
        user, password = (server.user, server.password) if parts.username is None else (parts.username, parts.password)
        self._login = f"{unquote(user)}:{unquote(password or '')}"
        self._shown = BackendURL(url).shown

    def unacknowledged(self, queue: str) -> int | None:
        """The number of delivered messages of a queue that are not acknowledged; None if the number is not known.

        The count may be some seconds old: by default, RabbitMQ collects it every five seconds.
        """
        try:
            found = self._get(f"queues/{quote(self._server.vhost, safe='')}/{quote(queue, safe='')}")
        except UNUSABLE as error:
            logger.debug("the management API at %s gave no count of %s: %s", self._shown, queue, error)
            return None
        count = found.get("messages_unacknowledged")
        return count if isinstance(count, int) else None

    def warnings(self) -> list[str]:
        """Warnings for operators, one sentence each: an alarm, or a management API that cannot be used."""
        api = f"the management API at {self._shown}"
        try:
            self._get("overview")
            self._get("health/checks/local-alarms")
        except HTTPError as error:
            with error:
                if error.code == HTTPStatus.SERVICE_UNAVAILABLE:
                    return [ALARM.format(self._server)]
                if error.code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                    return [f"{api} refuses its user ({_reason(error)}): give it the tag `monitoring`"]
                return [f"{api} answers {error.code} ({_reason(error)}): correct management= in the URL"]
        except UNUSABLE as error:
            return [f"{api} cannot be used ({error}): correct management= in the URL"]
        return []

    def _get(self, path: str) -> dict[str, Any]:
        login = base64.b64encode(self._login.encode()).decode()
        request = Request(f"{self._base}/{path}", headers={"Authorization": f"Basic {login}"})  # noqa: S310  # http(s)
        handlers = [HTTPSHandler(context=self._server.context())] if self._base.startswith("https") else []
        with build_opener(ProxyHandler({}), *handlers).open(request, timeout=self._server.timeout / 2) as answer:
            found = json.load(answer)
        return found if isinstance(found, dict) else {}


def _reason(error: HTTPError) -> str:
    """The reason that is in the body of the API's answer; if there is none, the reason phrase of its HTTP status."""
    try:
        return str(json.load(error)["reason"])
    except (*UNUSABLE, LookupError, TypeError):
        return str(error.reason)

"""What only RabbitMQ's management API knows: unacknowledged counts and alarms. For the transport.

https://www.rabbitmq.com/docs/http-api-reference
"""

from __future__ import annotations

import base64
import json
import logging
from http import HTTPStatus
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from queueport.url import hidden
from queueport_rabbitmq.server import Server

__all__ = ["Management"]

logger: logging.Logger = logging.getLogger("queueport")


class Management:
    """The API at a URL; it is asked as the URL's user, or else as that of the AMQP URL. Nothing here raises."""

    def __init__(self, url: str, server: Server) -> None:
        self._server = server
        parts = urlsplit(url)
        self._base = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/api"
        user, password = (server.user, server.password) if parts.username is None else (parts.username, parts.password)
        self._login = f"{unquote(user)}:{unquote(password or '')}"
        self._shown = hidden(url)

    def unacknowledged(self, queue: str) -> int | None:
        """Messages of a queue that were delivered and not acknowledged; None where that cannot be known.

        The numbers are some seconds old: RabbitMQ gathers them every five.
        """
        try:
            found = self._get(f"queues/{quote(self._server.vhost, safe='')}/{quote(queue, safe='')}")
        except (OSError, ValueError) as error:
            logger.debug("the management API at %s has no count of %s: %s", self._shown, queue, error)
            return None
        count = found.get("messages_unacknowledged")
        return count if isinstance(count, int) else None

    def warnings(self) -> list[str]:
        """What an operator should know, one sentence each."""
        try:
            self._get("overview")
            self._get("health/checks/local-alarms")
        except HTTPError as error:
            with error:
                if error.code == HTTPStatus.SERVICE_UNAVAILABLE:
                    return [f"{self._server} has a memory or disk alarm and takes no messages: free some"]
                if error.code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                    return [f"the management API at {self._shown} refuses its user: give it the tag `monitoring`"]
                return [f"the management API at {self._shown} answers {error.code}: correct management= in the URL"]
        except (OSError, ValueError) as error:
            return [f"the management API at {self._shown} cannot be reached ({error}): correct management= in the URL"]
        return []

    def _get(self, path: str) -> dict[str, Any]:
        login = base64.b64encode(self._login.encode()).decode()
        request = Request(f"{self._base}/{path}", headers={"Authorization": f"Basic {login}"})  # noqa: S310  # http(s)
        handlers = [HTTPSHandler(context=self._server.context())] if self._base.startswith("https") else []
        with build_opener(ProxyHandler({}), *handlers).open(request, timeout=self._server.timeout / 2) as answer:
            found = json.load(answer)
        return found if isinstance(found, dict) else {}

"""kombu's Redis transport with one synchronous client for each channel. For the apps that `app.of_worker` makes."""

from __future__ import annotations

from typing import Any

from kombu.transport import redis

__all__ = ["Transport"]

_Untyped: Any = redis  # kombu's type stubs lack this module


class _Channel(_Untyped.Channel):  # type: ignore[misc]  # see above
    """Keeps one synchronous client. kombu itself makes a new client for each message that it receives
    or acknowledges.

    Making clients would take a quarter of a worker's processor time. One client can serve all calls, because it has no
    state except its pool of connections.
    """

    _kept: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        if asynchronous:
            return super()._create_client(asynchronous=True)
        kept = self._kept
        if kept is None or kept.connection_pool is not self.pool:
            kept = self._kept = super()._create_client()
        return kept


class Transport(_Untyped.Transport):  # type: ignore[misc]  # see above
    """kombu's Redis transport, whose channels keep their client; see `_Channel`."""

    Channel = _Channel

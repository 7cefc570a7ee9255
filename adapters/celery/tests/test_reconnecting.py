"""A worker connects to its broker soon after an outage, however long that was."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from kombu import Connection

from queueport.testing.servers import free_port
from queueport_celery.consumer import JobConsumer

ATTEMPTS = 6


class Enough(BaseException):
    """Ends the attempts to connect."""


@pytest.mark.parametrize(("limit", "pauses"), [(None, [2.0] * ATTEMPTS), (100, [2.0, 4.0, 6.0, 8.0, 10.0, 12.0])])
def test_the_pauses_grow_only_if_the_application_limits_the_attempts(
    limit: int | None, pauses: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def sleep(_: float) -> None:
        if len(found()) == ATTEMPTS:
            raise Enough

    def found() -> list[float]:
        return [float(seconds) for seconds in re.findall(r"Trying again in ([0-9.]+) seconds", caplog.text)]

    monkeypatch.setattr("kombu.utils.functional.sleep", sleep)
    consumer: Any = JobConsumer.__new__(JobConsumer)  # its __init__ needs a whole worker
    conf = {"broker_connection_max_retries": limit, "broker_connection_retry_on_startup": True}
    consumer.app = SimpleNamespace(conf=SimpleNamespace(**conf, broker_connection_retry=True))
    consumer.first_connection_attempt, consumer.broker_connection_retry_attempt = True, 0
    with pytest.raises(Enough):
        consumer.ensure_connected(Connection(f"amqp://127.0.0.1:{free_port()}//"))
    assert found() == pauses

"""RabbitMQ keeps its promises while a worker is killed and replaced, a server is cut off, and a clock is wrong."""

from __future__ import annotations

import pytest

from queueport import Capability, get_queue
from queueport.testing.chaos.servers import open_servers
from tests.servers import rabbitmq_server, redis_server
from tests.servers.chaos import check_chaos


@pytest.mark.timeout(180)  # on a busy machine, servers and workers take long to start
def test_no_breach_is_found() -> None:
    check_chaos(
        f"{rabbitmq_server(private=True).url}?store={redis_server(private=True).url}",
        "child",
        "roll",
        "cut",
        "clock-back",
    )


@pytest.mark.parametrize(("name", "classic"), [("rabbitmq", False), ("rabbitmq-classic", True)])
def test_each_type_of_queue_has_private_servers(name: str, classic: bool) -> None:
    with open_servers(name) as servers, get_queue(servers.url) as queue:
        queue.setup("default")
        assert (Capability.PRIORITY in queue.capabilities) is classic

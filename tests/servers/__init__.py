"""Servers for the tests of this repository: one that already runs, or a private one that a test may stop.

    server = redis_server()                # shared with other processes: use a namespace, and clean up
    server = redis_server(private=True)    # used by this test process only

If a server can be neither found nor started, the test is skipped with the reason; if `CI` is set, the test fails.
"""

from __future__ import annotations

from functools import partial

from queueport.testing.private_servers import Nats, RabbitMQ
from queueport.testing.redis_store import redis_server
from queueport.testing.servers import Server, running, started
from tests.servers.aws import Moto
from tests.servers.nats import has_jetstream

__all__ = ["aws_server", "nats_server", "rabbitmq_server", "redis_server"]

EMULATORS = {service: partial(Moto) for service in ("sqs", "dynamodb")}
"""An emulator for each service."""


def rabbitmq_server(*, private: bool = False) -> Server:
    """A RabbitMQ server: at QUEUEPORT_TEST_AMQP_URL, otherwise on the standard port, otherwise a private one."""
    shared = None if private else running("QUEUEPORT_TEST_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")
    return shared or started(RabbitMQ)


def nats_server(*, private: bool = False) -> Server:
    """A NATS with JetStream: at QUEUEPORT_TEST_NATS_URL, else on the standard port, else a private one."""
    shared = None if private else running("QUEUEPORT_TEST_NATS_URL", "nats://127.0.0.1:4222")
    return shared if shared is not None and has_jetstream(shared.url) else started(Nats)


def aws_server(service: str) -> Server:
    """A private emulator of "sqs" or "dynamodb". Pass its URL to an adapter as the option `endpoint`."""
    return started(EMULATORS[service])

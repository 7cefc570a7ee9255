"""The backends on which examples run: their URLS, and an environment with a namespace for each run."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from adapters.nats.tests.jetstream import JetStream
from adapters.rabbitmq.tests.broker import Broker
from queueport.testing.servers import Server
from tests.servers import aws_server, nats_server, rabbitmq_server, redis_server

URLS: dict[str, Callable[[Path], str]] = {
    "sqlite": lambda folder: f"sqlite:///{folder}/jobs.db",
    "spool": lambda folder: f"spool:///{folder}/spool",
    "spool + sqlite": lambda folder: f"spool:///{folder}/spool?store=sqlite:///{folder}/jobs.db",
    "rabbitmq + redis": lambda _: f"{rabbitmq_server().url}?store={redis().url}",
    "rabbitmq (classic) + redis": lambda _: f"{rabbitmq_server().url}?store={redis().url}&queue_type=classic",
    "nats + redis": lambda _: f"{nats_server().url}?store={redis().url}",
    "sqs + redis": lambda _: f"sqs://us-east-1?endpoint={aws_server('sqs').url}&create=true&wait=1&store={redis().url}",
    "sqs + dynamodb": lambda _: (
        f"sqs://us-east-1?endpoint={aws_server('sqs').url}&create=true&wait=1&store={dynamodb()}"
    ),
    "celery + redis": lambda _: f"celery+{redis().url}",
    "celery + rabbitmq + redis": lambda _: f"celery+{rabbitmq_server().url}?store={redis().url}",
    "rq + redis": lambda _: f"rq+{redis().url}",
    "dramatiq + redis": lambda _: f"dramatiq+{redis().url}",
    "dramatiq + rabbitmq + redis": lambda _: f"dramatiq+{rabbitmq_server().url}?store={redis().url}",
}
"""The URL of each backend, besides memory://. The argument is a folder for its files."""


@contextmanager
def environment_of(backend: str, folder: Path, *queues: str) -> Iterator[dict[str, str]]:
    """Yield the environment variables for a backend, with a namespace of its own.

    At the end, the namespace is removed from the servers that other tests use too. `queues` are the queues to remove
    besides the default queue.
    """
    namespace = f"example_{uuid.uuid4().hex[:12]}"
    yield {
        "QUEUEPORT_URL": URLS[backend](folder),
        "QUEUEPORT_NAMESPACE": namespace,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }
    if "rabbitmq" in backend:
        names = [f"{queue}{ending}" for queue in ("default", *queues) for ending in ("", ".DQ", ".XQ")]
        Broker(rabbitmq_server().url, namespace).clean(*names)
    if "nats" in backend:
        JetStream(nats_server().url, namespace).clean()


def redis() -> Server:
    """A Redis that only this test process uses, so that the examples need not clean up."""
    return redis_server(private=True)


def dynamodb() -> str:
    """URL of the store in DynamoDB, percent-encoded because it has options and is itself an option."""
    return quote(f"dynamodb://us-east-1/examples?endpoint={aws_server('dynamodb').url}&create=true", safe="")

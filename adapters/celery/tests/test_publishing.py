"""What is published arrives, in order, as Celery's protocol has it; and what is said of it is so."""

from __future__ import annotations

import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from adapters.celery.tests.harness import CeleryHarness
from queueport import get_queue
from queueport.driver import SendOutcome
from queueport.errors import BackendUnavailable
from queueport.message import Message
from queueport.settings import read
from queueport.stores.memory import MemoryStore
from queueport.testing.tasks import echo
from queueport_celery import CeleryDriver
from queueport_celery.envelope import ENTRY, body_of
from queueport_celery.link import WINDOW
from tests.servers import rabbitmq_server, redis_server


def messages(count: int, queue: str = "q") -> list[Message]:
    """So many, with the ids 0, 1, 2 and so on."""
    bodies = [b'{"v":1,"id":"%d","payload":{"args":[%d],"kwargs":{}}}' % (n, n) for n in range(count)]
    return [Message(str(n), "tests.task", queue, 1, time.time(), body) for n, body in enumerate(bodies)]


def driver_of(celery: CeleryHarness) -> CeleryDriver:
    """The driver of a queue."""
    driver = celery.open().operations.driver
    assert isinstance(driver, CeleryDriver)
    return driver


def test_a_batch_of_several_windows_arrives_whole_and_in_order(celery: CeleryHarness) -> None:
    count = 2 * WINDOW + 1
    driver = driver_of(celery)
    assert {sent.outcome for sent in driver.publish(messages(count))} == {SendOutcome.SENT}
    depth = driver.depth("q")
    assert depth is not None
    assert depth.ready == count
    found = celery.broker.messages(celery.broker.names.work("q"))
    assert [message.headers["id"] for message in found] == [str(n) for n in range(count)]
    celery.broker.clean("q")


def test_a_message_is_one_of_celerys_protocol(celery: CeleryHarness) -> None:
    (sent,) = messages(1)
    driver_of(celery).publish([sent])
    (found,) = celery.broker.messages(celery.broker.names.work("q"))
    headers = found.headers
    assert (headers["task"], headers["shadow"], headers["id"]) == (ENTRY, "tests.task", "0")
    assert (headers["argsrepr"], headers["kwargsrepr"]) == ("(0,)", "{}")
    assert (headers["retries"], headers["eta"], headers["expires"]) == (0, None, None)
    assert found.content_type == "application/json"
    assert found.properties["correlation_id"] == "0"
    assert body_of(found) == sent.body.replace(b",", b", ").replace(b":", b": ")
    celery.broker.clean("q")


def test_a_queue_that_was_deleted_meanwhile_is_made_again(celery: CeleryHarness) -> None:
    driver = driver_of(celery)
    assert driver.publish(messages(1))[0].outcome is SendOutcome.SENT
    celery.broker.delete(celery.broker.names.work("q"))
    assert {sent.outcome for sent in driver.publish(messages(3))} == {SendOutcome.SENT}
    assert len(celery.broker.messages(celery.broker.names.work("q"))) == 3
    celery.broker.clean("q")


def test_purge_and_depth_of_a_queue_that_is_not_there(celery: CeleryHarness) -> None:
    driver = driver_of(celery)
    driver.purge("never-made")
    depth = driver.depth("never-made")
    assert depth is not None
    assert depth.ready == 0


def test_confirms_are_asked_of_a_library_that_gives_them() -> None:
    url, settings = read("celery+amqp://localhost", {"store": "memory://"})
    driver = CeleryDriver.open(url, settings, MemoryStore())
    assert driver.app.conf.broker_write_url.startswith("pyamqp://")


@pytest.mark.parametrize(
    ("broker", "login", "rest", "says"),
    [
        ("redis", "x:wrong@", "/0", "does not accept this user and password"),
        ("redis", "", "/99", "has no database of that number"),
        ("rabbitmq", "guest:wrong@", "/%2F", "refuses .*ACCESS_REFUSED.*: look at the URL"),
        ("rabbitmq", "", "/nowhere", "refuses .*vhost nowhere not found.*: look at the URL"),
    ],
)
def test_a_broker_that_says_no_is_not_said_to_be_away(
    tmp_path: Path, broker: str, login: str, rest: str, says: str
) -> None:
    server = redis_server() if broker == "redis" else rabbitmq_server()
    url = f"celery+{urlsplit(server.url).scheme}://{login}127.0.0.1:{urlsplit(server.url).port}{rest}"
    store = f"sqlite:///{tmp_path}/jobs.db"
    with get_queue(url, store=store) as queue, pytest.raises(BackendUnavailable, match=says) as caught:
        queue.enqueue(echo, 1)
    assert "wrong" not in str(caught.value)


def test_a_queue_made_by_somebody_else_in_another_way_is_said(celery: CeleryHarness) -> None:
    name = celery.broker.names.work("q")
    if celery.broker.url.startswith("redis"):
        with redis.Redis.from_url(celery.broker.url) as client:
            client.set(name, "foreign")
    else:
        with celery.broker.channel() as channel:
            channel.queue_declare(name, durable=False, auto_delete=False)
    with pytest.raises(BackendUnavailable, match=r"something else where a queue|refuses .*what else uses its queues"):
        celery.open().enqueue(echo.using(queue="q"), 1)
    celery.broker.clean("q")

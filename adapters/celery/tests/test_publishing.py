"""Messages arrive in order and follow Celery's protocol, and the publisher reports the right outcomes."""

from __future__ import annotations

import base64
import json
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from adapters.celery.tests.harness import CeleryHarness
from queueport import get_queue
from queueport.errors import BackendUnavailable
from queueport.spi.message import Message, SendOutcome
from queueport.spi.settings import read
from queueport.stores.memory.store import MemoryStore
from queueport.testing.private_servers import LARGEST
from queueport.testing.tasks import QUEUE, echo
from queueport.testing.waiting import eventually
from queueport_celery import CeleryDriver
from queueport_celery.embedded import EmbeddedWorker
from queueport_celery.messages import ENTRY, body_of
from queueport_celery.publisher import WINDOW
from tests.servers import rabbitmq_server, redis_server
from tests.servers.forgetting import check_calls_over_forgotten_connections
from tests.servers.health import (
    LONG,
    check_never_sent,
    check_redis_adapter,
    check_replica,
    fails_without_descriptors,
    problems,
)
from tests.servers.misdeclared import check_a_queue_with_other_arguments


def messages(count: int, queue: str = "q") -> list[Message]:
    """`count` messages, with the ids 0, 1, 2 and so on."""
    bodies = [b'{"v":1,"id":"%d","payload":{"args":[%d],"kwargs":{}}}' % (n, n) for n in range(count)]
    return [Message(str(n), "tests.task", queue, 1, time.time(), body) for n, body in enumerate(bodies)]


def driver_of(celery: CeleryHarness) -> CeleryDriver:
    """The driver of a queue."""
    driver = celery.open().operations.driver
    assert isinstance(driver, CeleryDriver)
    return driver


def test_a_batch_of_several_windows_arrives_completely_and_in_order(celery: CeleryHarness) -> None:
    count = 2 * WINDOW + 1
    driver = driver_of(celery)
    assert {sent.outcome for sent in driver.publish(messages(count))} == {SendOutcome.SENT}
    depth = driver.depth("q")
    assert depth is not None
    assert depth.ready == count
    found = celery.broker.messages(celery.broker.names.native("q"))
    assert [message.headers["id"] for message in found] == [str(n) for n in range(count)]
    celery.broker.clean("q")


def test_one_step_enqueue_sends_what_kombu_would_send() -> None:
    server = redis_server()
    with get_queue(f"celery+{server.url}", namespace="onestep") as queue, redis.Redis.from_url(server.url) as client:
        assert queue.driver.publishes_with_insert
        ((command,),) = queue.driver.publish_commands(messages(1))
        queue.driver.publish(messages(1))
        native, found = client.rpop("onestep.q"), json.loads(command[2])
        assert isinstance(native, bytes)
        expected = json.loads(native)
        for sent in (found, expected):
            assert len(sent["properties"].pop("delivery_tag")) == 36
            sent["body"] = json.loads(base64.b64decode(sent["body"]))
            sent["body"][0][0].pop("sent_at", None)
        assert found == expected
        assert command[:2] == [b"LPUSH", b"onestep.q"]


def test_a_message_follows_celerys_protocol(celery: CeleryHarness) -> None:
    (sent,) = messages(1)
    driver_of(celery).publish([sent])
    (found,) = celery.broker.messages(celery.broker.names.native("q"))
    headers = found.headers
    assert (headers["task"], headers["shadow"], headers["id"]) == (ENTRY, "tests.task", "0")
    assert (headers["argsrepr"], headers["kwargsrepr"]) == ("(0,)", "{}")
    assert (headers["retries"], headers["eta"], headers["expires"]) == (0, None, None)
    assert found.content_type == "application/json"
    assert found.properties["correlation_id"] == "0"
    assert body_of(found) == sent.body.replace(b",", b", ").replace(b":", b": ")
    celery.broker.clean("q")


def test_rabbitmq_refuses_a_message_that_is_too_large_alone() -> None:
    """RabbitMQ closes the channel because of such a message, and so loses the messages after it."""
    url, settings = read(f"celery+{rabbitmq_server(private=True).url}", {"store": "memory://", "call_timeout": 10.0})
    driver = CeleryDriver.open(url, settings, MemoryStore())
    first, large, last = messages(3, queue="too-large")
    large = replace(large, body=b'{"v":1,"payload":{"args":["%s"],"kwargs":{}}}' % (b"x" * LARGEST))
    sent = driver.publish([first, large, last])
    assert [one.outcome for one in sent] == [SendOutcome.SENT, SendOutcome.REFUSED, SendOutcome.SENT]
    assert "message size" in str(sent[1].error)
    driver.purge("too-large")
    driver.close()


def test_a_queue_that_was_deleted_is_declared_again(celery: CeleryHarness) -> None:
    driver = driver_of(celery)
    assert driver.publish(messages(1))[0].outcome is SendOutcome.SENT
    celery.broker.delete(celery.broker.names.native("q"))
    assert {sent.outcome for sent in driver.publish(messages(3))} == {SendOutcome.SENT}
    assert len(celery.broker.messages(celery.broker.names.native("q"))) == 3
    celery.broker.clean("q")


def test_purge_and_depth_treat_a_missing_queue_as_empty(celery: CeleryHarness) -> None:
    driver = driver_of(celery)
    driver.purge("never-made")
    depth = driver.depth("never-made")
    assert depth is not None
    assert depth.ready == 0


def test_rabbitmq_is_used_through_a_library_that_has_confirms() -> None:
    url, settings = read("celery+amqp://localhost", {"store": "memory://"})
    driver = CeleryDriver.open(url, settings, MemoryStore())
    assert driver.app.conf.broker_url.startswith("pyamqp://")


@pytest.mark.parametrize("native", [False, True], ids=["ours", "celery's"])
def test_environment_variables_of_celery_do_not_override_the_broker_of_the_url(
    celery: CeleryHarness, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"):
        monkeypatch.setenv(name, "redis://127.0.0.1:1/0")  # refuses connections
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "nonsense://")
    queue = celery.open()
    worker = celery.process(native=native)
    assert queue.enqueue(echo, 1).result(10) == 1
    assert queue.native.control.inspect(timeout=2).ping()
    assert "127.0.0.1:1/" not in worker.log


@pytest.mark.parametrize(
    ("broker", "login", "rest", "says"),
    [
        ("redis", "x:wrong@", "/0", "does not accept this user and password"),
        ("redis", "", "/99", "has no database of that number"),
        ("rabbitmq", "guest:wrong@", "/%2F", "refuses .*ACCESS_REFUSED.*: check the URL"),
        ("rabbitmq", "", "/nowhere", "refuses .*vhost nowhere not found.*: check the URL"),
    ],
)
def test_a_refusal_by_the_broker_is_not_reported_as_an_outage(
    tmp_path: Path, broker: str, login: str, rest: str, says: str
) -> None:
    server = redis_server() if broker == "redis" else rabbitmq_server()
    url = f"celery+{urlsplit(server.url).scheme}://{login}127.0.0.1:{urlsplit(server.url).port}{rest}"
    store = f"sqlite:///{tmp_path}/jobs.db"
    with get_queue(url, store=store) as queue, pytest.raises(BackendUnavailable, match=says) as caught:
        queue.enqueue(echo, 1)
    assert "wrong" not in str(caught.value)


def test_the_error_says_that_something_else_uses_the_queue(celery: CeleryHarness) -> None:
    name = celery.broker.names.native("q")
    if celery.broker.url.startswith("redis"):
        with redis.Redis.from_url(celery.broker.url) as client:
            client.set(name, "foreign")
    else:
        with celery.broker.channel() as channel:
            channel.queue_declare(name, durable=False, auto_delete=False)
    with pytest.raises(BackendUnavailable, match=r"a key of another type where|refuses .*other programs use its"):
        celery.open().enqueue(echo.using(queue="q"), 1)
    celery.broker.clean("q")


def test_check_says_once_what_prevents_an_enqueue(tmp_path: Path) -> None:
    check_redis_adapter("celery", tmp_path)
    store = f"sqlite:///{tmp_path}/other.db"
    (problem,) = problems(f"celery+amqp://{LONG}/", store=store)
    assert "has a host name that is not valid" in problem
    fails_without_descriptors("celery+amqp://127.0.0.1:1/", store=store)


def test_a_redis_that_has_become_a_replica_is_reported_and_used_again_later(caplog: pytest.LogCaptureFixture) -> None:
    check_replica("celery", caplog)


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_a_call_over_an_idle_connection_that_was_forgotten_succeeds(broker: str) -> None:
    check_calls_over_forgotten_connections(CeleryHarness(broker))


def test_a_queue_with_other_arguments_is_reported_and_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[object] = []
    start = EmbeddedWorker._new_controller

    def counted(self: EmbeddedWorker) -> Any:
        tries.append(self)
        return start(self)

    monkeypatch.setattr(EmbeddedWorker, "_new_controller", counted)
    monkeypatch.setattr("queueport_celery.embedded.LONGEST_PAUSE", 0.5)
    check_a_queue_with_other_arguments(CeleryHarness("rabbitmq"), rabbitmq_server().url, tries, caplog)


def test_a_celery_worker_that_could_not_be_created_is_created_again(
    celery: CeleryHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures, make = [OSError(24, "Too many open files")], EmbeddedWorker._new_controller

    def failing_once(self: EmbeddedWorker) -> Any:
        if failures:
            raise failures.pop()
        return make(self)

    monkeypatch.setattr(EmbeddedWorker, "_new_controller", failing_once)
    queue = celery.open()
    with queue.worker(QUEUE, threads=1):
        assert queue.enqueue(echo, 1).result(10) == 1
    assert "could not be created; trying again" in caplog.text


def test_a_celery_worker_that_is_stopped_while_it_is_created_takes_no_messages(
    celery: CeleryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[EmbeddedWorker] = []
    make = EmbeddedWorker._new_controller

    def make_after_stop(self: EmbeddedWorker) -> Any:
        found.append(self)
        assert self._stopping.wait(10)
        return make(self)

    queue = celery.open()
    with monkeypatch.context() as patched:
        patched.setattr(EmbeddedWorker, "_new_controller", make_after_stop)
        with queue.worker(QUEUE, threads=1):
            eventually(lambda: found)
        eventually(lambda: not found[0]._thread.is_alive())
    handle = queue.enqueue(echo, 1)
    with queue.worker(QUEUE, threads=1):
        assert handle.result(10) == 1


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_job_is_not_recorded_if_no_connection_can_be_opened(scheme: str, tmp_path: Path) -> None:
    check_never_sent(f"celery+{scheme}://{{}}/", tmp_path)


def test_closing_a_connection_does_not_change_the_default_timeout_of_other_sockets(
    celery: CeleryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = celery.open()
    assert queue.driver.depth(QUEUE) is not None
    changed: list[float | None] = []
    monkeypatch.setattr(socket, "setdefaulttimeout", changed.append)
    queue.close()
    assert changed == []

"""Dramatiq's tools can read queueport's messages on the brokers, and workers put aside all other messages."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import pytest

from adapters.dramatiq.tests.onrabbitmq import RabbitMQQueues
from adapters.dramatiq.tests.onredis import RedisQueues
from queueport import Retry
from queueport.connect import get_queue
from queueport.errors import BackendUnavailable, ConfigurationError, DuplicateJob, JobNotFound
from queueport.spi.message import Message
from queueport.testing import Harness
from queueport.testing.tasks import QUEUE, add, echo, fail
from queueport.testing.waiting import eventually
from queueport.workers.receiver import Receiver
from queueport_dramatiq.rabbitmq import QueueportRabbitmqBroker
from queueport_rabbitmq import dead_letters
from tests.servers import rabbitmq_server, redis_server
from tests.servers.forgetting import check_calls_over_forgotten_connections
from tests.servers.health import check_never_sent, check_redis_adapter, check_replica
from tests.servers.misdeclared import check_a_queue_with_other_arguments

ONCE = Retry(max_attempts=1)


class BrokerHarness(Harness):
    """Dramatiq on Redis or RabbitMQ (`kind`), with the records in a Redis."""

    def __init__(self, kind: str) -> None:
        self.store = redis_server()
        server = self.store if kind == "redis" else rabbitmq_server()
        super().__init__(f"dramatiq+{server.url}?store={quote(self.store.url, safe='')}")
        self.queues: Any = (RedisQueues if kind == "redis" else RabbitMQQueues)(server.url, self.namespace)

    def clean(self) -> None:
        if isinstance(self.queues, RabbitMQQueues):
            self.queues.clean([QUEUE])
        RedisQueues(self.store.url, self.namespace).clean()


@pytest.fixture(params=["redis", "rabbitmq"])
def harness(request: pytest.FixtureRequest) -> Iterator[BrokerHarness]:
    made = BrokerHarness(request.param)
    yield made
    made.end()


def test_a_message_shows_its_job_to_dramatiqs_tools(harness: BrokerHarness) -> None:
    handle = harness.open().enqueue(add, 2, b=3)
    (message,) = harness.queues.waiting(QUEUE)
    assert (message["actor_name"], message["message_id"]) == (add.name, handle.id)
    assert (message["args"], message["kwargs"]) == ([2], {"b": 3})
    assert message["queue_name"] == f"{harness.namespace}.{QUEUE}"
    assert message["options"]["queueport"]["id"] == handle.id


def test_a_dead_letter_shows_its_error(harness: BrokerHarness) -> None:
    queue = harness.open()
    handle = queue.enqueue(fail.using(retry=ONCE).job("broken"))
    with queue.worker(QUEUE):
        eventually(lambda: len(harness.queues.dead(QUEUE)) == 1, 15)
    (dead,) = (json.loads(message) for message in harness.queues.dead(QUEUE))
    assert (dead["message_id"], dead["args"]) == (handle.id, ["broken"])
    assert dead["options"]["queueport"]["error"]["message"] == "broken"


def test_many_threads_can_remove_dead_letters_at_once(harness: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "BUSY", 0.0005)  # shorter pauses let the threads search at the same time
    queues = [harness.open(call_timeout=30.0) for _ in range(6)]
    handles = queues[0].enqueue_many(echo.using(queue=QUEUE).job(number) for number in range(130))
    copies = [Message.of(queues[0].operations.read(handle.id), 0.0, buried=True) for handle in handles]
    queues[0].driver.bury(QUEUE, copies)

    def take(first: int) -> None:
        for number in range(first, 120, len(queues)):
            queues[first].driver.unbury(QUEUE, [copies[number]])

    with ThreadPoolExecutor() as pool:
        list(pool.map(take, range(len(queues))))
    left = {json.loads(dead)["message_id"] for dead in harness.queues.dead(QUEUE)}
    assert left == {handle.id for handle in handles[120:]}


@pytest.mark.parametrize("garbage", [b"\xff\x00{", b"[1]", b"{}"])
def test_a_message_that_dramatiq_cannot_decode_is_put_aside_unchanged(
    harness: BrokerHarness, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    queue = harness.open()
    queue.driver.setup([QUEUE])
    harness.queues.put(QUEUE, garbage)
    handles = queue.enqueue_many(echo.job(number) for number in range(3))
    with caplog.at_level(logging.WARNING), queue.worker(QUEUE, threads=2):
        assert [handle.result(5) for handle in handles] == [0, 1, 2]
        eventually(lambda: harness.queues.dead(QUEUE) == [garbage], 10)
    depth = queue.driver.depth(QUEUE)
    assert depth is not None
    assert (depth.ready, depth.in_flight or 0) == (0, 0)


def test_an_actors_message_in_queueports_queue_is_refused_as_dramatiq_does(harness: BrokerHarness) -> None:
    queue = harness.open()
    queue.driver.setup([QUEUE])
    message = {"queue_name": f"{harness.namespace}.{QUEUE}", "actor_name": echo.name, "args": [1], "kwargs": {}}
    more: dict[str, Any] = {"options": {}, "message_id": "foreign", "message_timestamp": 0}
    harness.queues.put(QUEUE, json.dumps({**message, **more}).encode())
    with queue.worker(QUEUE, threads=2):
        assert queue.enqueue(echo, 1).result(10) == 1
        eventually(lambda: [json.loads(dead)["message_id"] for dead in harness.queues.dead(QUEUE)] == ["foreign"])


def test_a_message_is_not_acknowledged_if_the_store_did_not_answer(
    harness: BrokerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = harness.open(lost_after=60.0)
    handle = queue.enqueue(echo, "again")
    begin, asked = Receiver.begin, threading.Event()

    def away(receiver: Receiver, bodies: Sequence[bytes], stop: Any = None) -> Any:
        if not asked.is_set():
            asked.set()
            raise BackendUnavailable("the store does not answer")
        return begin(receiver, bodies, stop)

    monkeypatch.setattr(Receiver, "begin", away)
    with queue.worker(QUEUE, threads=1):
        assert asked.wait(10)
    if isinstance(harness.queues, RabbitMQQueues):  # in Redis, Dramatiq sends the message again only after minutes
        with queue.worker(QUEUE, threads=1):
            assert handle.result(10) == "again"
    else:
        assert harness.queues.client.hlen(harness.queues.key(QUEUE, ".msgs")) == 1


def test_purge_leaves_the_dead_letters(harness: BrokerHarness) -> None:
    queue = harness.open()
    queue.enqueue(fail.using(retry=ONCE).job("dead"))
    with queue.worker(QUEUE):
        eventually(lambda: len(harness.queues.dead(QUEUE)) == 1, 15)
    queue.enqueue_many(echo.job(number) for number in range(5))
    queue.purge(QUEUE)
    depth = queue.driver.depth(QUEUE)
    assert depth is not None
    assert (depth.ready, depth.in_flight or 0) == (0, 0)
    assert len(harness.queues.dead(QUEUE)) == 1


def test_a_queue_that_was_deleted_is_declared_again() -> None:
    harness = BrokerHarness("rabbitmq")
    try:
        queue = harness.open()
        queue.enqueue(echo, "lost")
        harness.queues.clean([QUEUE])
        handles = queue.enqueue_many(echo.job(number) for number in range(3))
        assert [message["message_id"] for message in harness.queues.waiting(QUEUE)] == [handle.id for handle in handles]
    finally:
        harness.end()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("dramatiq+redis://localhost/0?colour=red", "no option 'colour'"),
        ("dramatiq+redis:///var/run/x", "database"),
        ("dramatiq+amqp://localhost:port/?store=redis://localhost", "port number"),
        ("dramatiq+amqp://localhost/?heartbeat=-1&store=redis://localhost", "heartbeat"),
        ("dramatiq+amqp://localhost/?cacertfile=ca.pem&store=redis://localhost", "dramatiq\\+amqps"),
        ("dramatiq+amqp://localhost/", "name a job store"),
    ],
)
def test_a_wrong_url_is_refused_in_one_sentence(url: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as raised:
        get_queue(url)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("scheme", ["dramatiq+amqp", "dramatiq+amqps"])
def test_the_error_without_the_rabbitmq_client_says_what_to_install(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "queueport_dramatiq.rabbitmq", raising=False)
    monkeypatch.setitem(sys.modules, "queueport_rabbitmq.client", None)
    with pytest.raises(ConfigurationError, match=r"run `pip install 'queueport-dramatiq\[rabbitmq\]'`"):
        get_queue(f"{scheme}://localhost", store="redis://localhost:6379/0")


@pytest.mark.parametrize("harness", ["redis"], indirect=True)
def test_on_one_redis_one_step_inserts_records_and_publishes_messages(
    harness: BrokerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> NoReturn:
        raise AssertionError("enqueue must not take a second step")

    queue = harness.open()
    with monkeypatch.context() as patched:
        patched.setattr(queue.driver, "publish", refused)
        patched.setattr(queue.operations.store, "swap", refused)
        handles = queue.enqueue_many(echo.job(number) for number in range(500))
    assert len(harness.queues.waiting(QUEUE)) == queue.stats().queues[QUEUE].queued == 500
    with queue.worker(QUEUE):
        assert [handle.result(30) for handle in handles] == list(range(500))
    with pytest.raises(DuplicateJob):
        queue.enqueue(echo.using(job_id=handles[0].id), 1)
    assert harness.queues.waiting(QUEUE) == []


@pytest.mark.parametrize("harness", ["redis"], indirect=True)
def test_on_one_redis_a_job_that_is_not_sent_is_not_recorded(harness: BrokerHarness) -> None:
    queue = harness.open()
    harness.queues.client.set(harness.queues.key(QUEUE), "not a list")
    with pytest.raises(BackendUnavailable, match="the job was not enqueued on dramatiq on redis") as raised:
        queue.enqueue(echo.using(job_id="mine"), 1)
    assert "WRONGTYPE" in str(raised.value.__cause__)
    with pytest.raises(JobNotFound):
        queue.status("mine")


def test_check_says_once_what_prevents_an_enqueue(tmp_path: Path) -> None:
    check_redis_adapter("dramatiq", tmp_path)


def test_a_redis_that_has_become_a_replica_is_reported_and_used_again_later(caplog: pytest.LogCaptureFixture) -> None:
    check_replica("dramatiq", caplog)


@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_a_call_over_an_idle_connection_that_was_forgotten_succeeds(kind: str) -> None:
    check_calls_over_forgotten_connections(BrokerHarness(kind))


def test_a_queue_with_other_arguments_is_reported_and_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[object] = []
    consume = QueueportRabbitmqBroker.consume

    def counted(self: QueueportRabbitmqBroker, *given: Any, **named: Any) -> Any:
        tries.append(given)
        return consume(self, *given, **named)

    monkeypatch.setattr(QueueportRabbitmqBroker, "consume", counted)
    monkeypatch.setattr("dramatiq.worker.CONSUMER_RESTART_DELAY_SECS", 0.2)
    check_a_queue_with_other_arguments(BrokerHarness("rabbitmq"), rabbitmq_server().url, tries, caplog)


def test_a_hanging_redis_delays_a_long_batch_once(tmp_path: Path) -> None:
    server = redis_server(private=True)
    jobs = [echo.using(job_id=f"job-{number}").job(number) for number in range(500)]
    with get_queue(f"dramatiq+{server.url}", store=f"sqlite:///{tmp_path}/jobs.db", call_timeout=1.0) as queue:
        started = time.monotonic()
        with server.paused(), pytest.raises(BackendUnavailable) as caught:
            queue.enqueue_many(jobs)
        assert time.monotonic() - started < 2.0
    assert caught.value.rejected == tuple(job.id for job in jobs)


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_job_is_not_recorded_if_no_connection_can_be_opened(scheme: str, tmp_path: Path) -> None:
    check_never_sent(f"dramatiq+{scheme}://{{}}/", tmp_path)

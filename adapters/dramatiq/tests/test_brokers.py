"""What the brokers hold: messages as Dramatiq's tools show them, and what is none of queueport's is put aside."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn
from urllib.parse import quote

import pytest

from adapters.dramatiq.tests.onrabbitmq import RabbitMQQueues
from adapters.dramatiq.tests.onredis import RedisQueues
from queueport import Retry
from queueport.connect import get_queue
from queueport.errors import BackendUnavailable, ConfigurationError, DuplicateJob, JobNotFound
from queueport.message import Message
from queueport.runner import Runner
from queueport.testing import Harness
from queueport.testing.tasks import QUEUE, add, echo, fail
from queueport.testing.waiting import eventually
from queueport_dramatiq import rabbitmq_link
from tests.servers import rabbitmq_server, redis_server

ONCE = Retry(max_attempts=1)


class BrokerHarness(Harness):
    """A broker, and a Redis for the records."""

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


def test_many_who_take_dead_letters_out_at_once_all_succeed(
    harness: BrokerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq_link, "BUSY", 0.0005)  # they come in at every moment of each other's passes
    queues = [harness.open(call_timeout=30.0) for _ in range(6)]
    handles = queues[0].enqueue_many(echo.using(queue=QUEUE).job(number) for number in range(130))
    copies = [Message.of(queues[0].read(handle.id), 0.0, buried=True) for handle in handles]
    queues[0].driver.bury(copies)

    def take(first: int) -> None:
        for number in range(first, 120, len(queues)):
            queues[first].driver.unbury([copies[number]])

    with ThreadPoolExecutor() as pool:
        list(pool.map(take, range(len(queues))))
    left = {json.loads(dead)["message_id"] for dead in harness.queues.dead(QUEUE)}
    assert left == {handle.id for handle in handles[120:]}


@pytest.mark.parametrize("garbage", [b"\xff\x00{", b"[1]", b"{}"])
def test_what_dramatiq_cannot_read_is_put_aside_as_it_is(
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


def test_what_the_store_gave_no_answer_to_is_not_acknowledged(
    harness: BrokerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = harness.open(lost_after=60.0)
    handle = queue.enqueue(echo, "again")
    begin, asked = Runner.begin, threading.Event()

    def away(runner: Runner, bodies: Sequence[bytes], stop: Any = None) -> Any:
        if not asked.is_set():
            asked.set()
            raise BackendUnavailable("the store is away")
        return begin(runner, bodies, stop)

    monkeypatch.setattr(Runner, "begin", away)
    with queue.worker(QUEUE, threads=1):
        assert asked.wait(10)
    if isinstance(harness.queues, RabbitMQQueues):  # at once; on Redis once Dramatiq's maintenance finds it
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


def test_a_queue_that_was_deleted_behind_our_back_is_made_again() -> None:
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
def test_a_wrong_url_gets_one_sentence(url: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as raised:
        get_queue(url)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("harness", ["redis"], indirect=True)
def test_on_one_redis_a_single_step_records_and_sends(harness: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> NoReturn:
        raise AssertionError("a step more")

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
def test_on_one_redis_what_is_not_sent_is_not_recorded(harness: BrokerHarness) -> None:
    queue = harness.open()
    harness.queues.client.set(harness.queues.key(QUEUE), "no list")
    with pytest.raises(BackendUnavailable, match="dramatiq on redis did not take 1 of 1 jobs") as raised:
        queue.enqueue(echo.using(job_id="mine"), 1)
    assert "WRONGTYPE" in str(raised.value.__cause__)
    with pytest.raises(JobNotFound):
        queue.status("mine")

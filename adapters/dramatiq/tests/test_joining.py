"""A joined application: only queueport retries the jobs of its actors, and `.send()` works as before."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.encoder import PickleEncoder
from dramatiq.middleware import Middleware, MiddlewareError
from redis.sentinel import Sentinel

from adapters.dramatiq.tests.onrabbitmq import RabbitMQQueues
from adapters.dramatiq.tests.onredis import RedisQueues
from queueport import JobState, Retry, get_queue, task
from queueport.errors import ConfigurationError, JobFailed
from queueport.tasks import registry
from queueport.testing import Harness
from queueport.testing.process import WorkerProcess
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually
from tests.servers import rabbitmq_server, redis_server

KINDS = ("redis", "rabbitmq")
LEGACY_QUEUE = f"legacy_{uuid.uuid4().hex[:12]}"
QUICK = Retry(max_attempts=4, initial=0.1, factor=1.0, jitter=0.0)

stub = StubBroker()
behind_sentinels = RedisBroker(client=Sentinel([("127.0.0.1", 1)]).master_for("shop"))  # type: ignore[no-untyped-call]  # Dramatiq has no types here
no_broker = "no broker"


class JoiningHarness(Harness):
    """An application on Redis or RabbitMQ (`kind`), with the records in a Redis."""

    def __init__(self, kind: str) -> None:
        self.app = f"adapters.dramatiq.tests.legacy_{kind}"
        self.store = redis_server()
        super().__init__(f"dramatiq://{self.app}:broker?store={quote(self.store.url, safe='')}")
        given = (rabbitmq_server().url, self.namespace) if kind == "rabbitmq" else (self.store.url, self.namespace)
        self.queues: Any = RabbitMQQueues(*given) if kind == "rabbitmq" else RedisQueues(*given)

    @property
    def broker(self) -> dramatiq.Broker:
        """The application's own broker."""
        found: dramatiq.Broker = importlib.import_module(self.app).broker
        return found

    def native(self) -> WorkerProcess:
        """Start Dramatiq's own command for the application and the module `queueport_dramatiq.worker`."""
        words = [sys.executable, "-m", "dramatiq", f"{self.app}:broker", "queueport_dramatiq.worker"]
        return self.start([*words, "--processes=1", "--threads=2"])

    def dead_by_dramatiq(self) -> int:
        """The number of the application's own dead messages."""
        if isinstance(self.queues, RedisQueues):
            return int(self.queues.client.zcard(f"dramatiq:{LEGACY_QUEUE}.XQ"))
        with self.queues.channel() as channel:
            arguments = {"x-message-ttl": 7 * 86_400_000}
            return int(
                channel.queue_declare(f"{LEGACY_QUEUE}.XQ", durable=True, arguments=arguments).method.message_count
            )

    def clean(self) -> None:
        if isinstance(self.queues, RabbitMQQueues):
            self.queues.clean([LEGACY_QUEUE])
            with self.queues.channel() as channel:
                for ending in ("", ".DQ", ".XQ"):
                    channel.queue_delete(LEGACY_QUEUE + ending)
            broker: Any = self.broker
            broker.queues_pending.add(LEGACY_QUEUE)  # declare the deleted queue again
        else:
            for key in self.queues.client.scan_iter(match=f"dramatiq:*{LEGACY_QUEUE}*"):
                self.queues.client.delete(key)
        RedisQueues(self.store.url, self.namespace).clean()


@pytest.fixture(params=KINDS)
def harness(request: pytest.FixtureRequest, trace: Trace, monkeypatch: pytest.MonkeyPatch) -> Iterator[JoiningHarness]:
    monkeypatch.setenv("LEGACY_QUEUE", LEGACY_QUEUE)
    monkeypatch.setenv("LEGACY_REDIS", redis_server().url)
    monkeypatch.setenv("LEGACY_AMQP", rabbitmq_server().url)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    made = JoiningHarness(request.param)
    with registry.isolated():
        yield made
    made.end()
    print(made.logs())  # noqa: T201  # pytest shows it where the test failed


def test_an_actor_runs_by_its_name_and_its_result_is_kept(harness: JoiningHarness, trace: Trace) -> None:
    queue = harness.open()
    handle = queue.enqueue(task.named("resize", queue=LEGACY_QUEUE), 6, height=7)
    with queue.worker(LEGACY_QUEUE, threads=2):
        assert handle.result(10) == 42
    assert handle.status().attempts == 1
    assert len(trace.notes("resize")) == 1


@pytest.mark.parametrize("where", ["here", "in processes", "natively"])
def test_only_queueport_retries_the_job_of_an_actor_that_fails(
    harness: JoiningHarness, trace: Trace, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    queue = harness.open()
    handle = queue.enqueue(task.named("unreliable", queue=LEGACY_QUEUE, retry=QUICK))
    processes = 2 if where == "in processes" else 1
    worker = harness.native() if where == "natively" else queue.worker(LEGACY_QUEUE, processes=processes).start()
    with pytest.raises(JobFailed, match="always"):
        handle.result(20)
    assert (handle.status().state, handle.status().attempts) == (JobState.DEAD, 4)
    eventually(lambda: len(harness.queues.dead(LEGACY_QUEUE)) == 1, 15)
    worker.stop()
    assert len(trace.notes("unreliable")) == 4
    (dead,) = (json.loads(message) for message in harness.queues.dead(LEGACY_QUEUE))
    assert (dead["actor_name"], dead["message_id"]) == ("unreliable", handle.id)
    assert harness.dead_by_dramatiq() == 0
    assert queue.stats().totals.dead == 1
    assert "Retrying message" not in caplog.text + harness.logs(), "Dramatiq must not retry"


def test_an_actor_can_choose_the_delay_of_its_next_attempt(harness: JoiningHarness, trace: Trace) -> None:
    queue = harness.open()
    handle = queue.enqueue(task.named("later", queue=LEGACY_QUEUE))
    with queue.worker(LEGACY_QUEUE, threads=2):
        assert handle.result(10) == "done"
    assert handle.status().attempts == 2


def test_an_actor_gets_keyword_arguments_of_any_name(harness: JoiningHarness, trace: Trace) -> None:
    queue = harness.open()
    given = {"self": 1, "actor": 2, "args": 3, "fn": 4}
    handle = queue.enqueue(task.named("named", queue=LEGACY_QUEUE), **given)
    with queue.worker(LEGACY_QUEUE, threads=1):
        assert handle.result(10) == given


class RefusesOnce(Middleware):
    """A middleware of the application that refuses the first message of each job."""

    def __init__(self) -> None:
        self.refused: list[str] = []

    def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        """Refuse the message of a job for which it is called for the first time."""
        if message.message_id not in self.refused:
            self.refused.append(message.message_id)
            raise MiddlewareError("not now")


def test_a_message_that_a_middleware_refuses_does_not_block_the_queue(harness: JoiningHarness, trace: Trace) -> None:
    refuses = RefusesOnce()
    queue = harness.open()
    harness.broker.add_middleware(refuses)
    try:
        with queue.worker(LEGACY_QUEUE, threads=1):
            handles = [queue.enqueue(task.named("resize", queue=LEGACY_QUEUE), n) for n in (1, 2)]
            assert [handle.result(20) for handle in handles] == [1, 2]
    finally:
        harness.broker.middleware.remove(refuses)
    assert sorted(refuses.refused) == sorted(handle.id for handle in handles)
    assert [handle.status().attempts for handle in handles] == [1, 1]


def test_messages_that_actors_send_do_not_pass_through_queueport(harness: JoiningHarness, trace: Trace) -> None:
    queue = harness.open()
    harness.native()
    actors = harness.broker.actors
    actors["resize"].send(5)
    actors["unreliable"].send()
    through = queue.enqueue(task.named("resize", queue=LEGACY_QUEUE), 6)
    assert through.result(10) == 6
    eventually(lambda: harness.dead_by_dramatiq() == 1, 20)
    assert len(trace.notes("unreliable")) == 3
    assert [note["width"] for note in trace.notes("resize", width=5)] == [5]
    assert [status.id for status in queue.jobs()] == [through.id]


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("nowhere.at_all:broker", "there is no module"),
        (f"{__name__}:no_broker", "not a Dramatiq broker"),
        (f"{__name__}:missing", "has no 'missing': name its broker"),
        (f"{__name__}:stub", "names a StubBroker"),
        (f"{__name__}:behind_sentinels", "connect it by host and port, or by socket"),
        ("localhost", "does not name the broker"),
    ],
)
def test_a_url_without_a_broker_that_can_be_joined_is_refused(place: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as raised:
        get_queue(f"dramatiq://{place}", store="redis://127.0.0.1:1/0")
    assert "\n" not in str(raised.value)


def test_an_encoder_that_is_not_json_is_refused(harness: JoiningHarness) -> None:
    before = dramatiq.get_encoder()
    dramatiq.set_encoder(PickleEncoder())
    try:
        with pytest.raises(ConfigurationError, match="JSON"):
            harness.open()
    finally:
        dramatiq.set_encoder(before)


def test_a_joined_application_must_name_a_store() -> None:
    assert "QUEUEPORT_STORE" not in os.environ
    with pytest.raises(ConfigurationError, match="store"):
        get_queue(f"dramatiq://{__name__}:stub")


def test_a_missing_certificate_is_not_reported_as_a_missing_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url, told in (
        (
            f"{redis_server().url.replace('redis', 'rediss', 1)}?ssl_ca_certs={tmp_path}/ca.pem",
            "certificate or key that",
        ),
        (f"unix://{tmp_path}/redis.sock", "has no socket at that path"),
    ):
        monkeypatch.setattr(sys.modules[__name__], "stub", RedisBroker(url=url))  # type: ignore[no-untyped-call]  # Dramatiq has no types here
        with get_queue(f"dramatiq://{__name__}:stub", store=f"sqlite:///{tmp_path}/jobs.db") as queue:
            (problem,) = queue.check().problems
        assert told in problem

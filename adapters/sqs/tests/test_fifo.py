"""Tests FIFO queues: jobs of one group run one at a time and in order; all other jobs run meanwhile."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from queueport import Capability, JobQueue, JobState, get_queue, task
from queueport.errors import ConfigurationError, Unsupported
from queueport.spi.message import Message, SendOutcome
from queueport.spi.url import BackendURL
from queueport.testing import tasks
from queueport.testing.trace import TRACE, Trace
from queueport.testing.waiting import eventually
from queueport_sqs.transport import SqsTransport
from tests.servers import aws_server

NAMESPACE = "fifo_"


@pytest.fixture
def url() -> str:
    return f"sqs://us-east-1?endpoint={aws_server('sqs').url}&create=true&fifo=true&wait=1"


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trace:
    monkeypatch.setenv(TRACE, str(tmp_path))
    return Trace(tmp_path)


@pytest.fixture
def queue(url: str, tmp_path: Path, trace: Trace) -> Iterator[JobQueue]:
    namespace = NAMESPACE + uuid.uuid4().hex[:8]
    with get_queue(url, store=f"sqlite:///{tmp_path}/jobs.db", namespace=namespace, lease=1.0) as made:
        yield made
        for name in made.native.list_queues(QueueNamePrefix=namespace).get("QueueUrls", []):
            made.native.delete_queue(QueueUrl=name)


def test_a_running_job_blocks_its_own_group_only(queue: JobQueue, trace: Trace) -> None:
    grouped = tasks.wait_for.using(group="a")
    first, second = queue.enqueue(grouped, "go"), queue.enqueue(grouped, "go")
    other, alone = queue.enqueue(tasks.echo.using(group="b"), 1), queue.enqueue(tasks.echo, 2)
    with queue.worker(tasks=[tasks.echo, tasks.wait_for], threads=4):
        assert (other.result(10), alone.result(10)) == (1, 2)
        eventually(lambda: first.status().state is JobState.RUNNING)
        for number in range(2):  # these jobs are enqueued after `second`, and `first` does not block them
            assert queue.enqueue(tasks.echo, number).result(10) == number
        assert second.status().state is JobState.QUEUED
        trace.open("go")
        assert (first.result(10), second.result(10)) == ("go", "go")


def test_a_job_blocks_its_group_for_longer_than_a_message_stays_hidden(queue: JobQueue, trace: Trace) -> None:
    long, next_one = (queue.enqueue(tasks.spin.using(group="a"), seconds) for seconds in (5.0, 0.0))
    with queue.worker(tasks=[tasks.spin], threads=4):
        assert next_one.result(20) == 0.0
    ended, begun = long.status().finished_at, next_one.status().started_at
    assert ended is not None
    assert begun is not None
    assert begun >= ended
    assert (long.status().attempts, next_one.status().attempts) == (1, 1)


def test_a_lease_that_is_longer_than_sqs_hides_a_message_is_refused(url: str, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/jobs.db"
    with pytest.raises(
        ConfigurationError, match=r"lease=43200 is too long .* 12 hours; set it to 43199 seconds or less"
    ):
        get_queue(url, store=store, lease="12h")
    with get_queue(url, store=store, lease=43_199, namespace=NAMESPACE + uuid.uuid4().hex[:8]) as queue:
        assert queue.check().problems == []
        handle = queue.enqueue(tasks.echo, 1)
        with queue.worker(tasks=[tasks.echo]):
            assert handle.result(10) == 1
        for name in queue.native.list_queues(QueueNamePrefix=queue.settings.namespace).get("QueueUrls", []):
            queue.native.delete_queue(QueueUrl=name)
    with get_queue(url.replace("fifo=true", "fifo=false"), store=store, lease="12h") as standard:
        assert standard.check().problems == []


def test_a_message_that_is_sent_twice_arrives_once(url: str, queue: JobQueue) -> None:
    transport = SqsTransport.open(BackendURL.parse(url), queue.settings, queue.operations.store)
    sent = Message(id="a", task="t", queue="default", life=1, sent_at=1.0, body=b'{"v":1}')
    outcomes = [transport.send("default", [sent])[0].outcome for _ in range(2)]
    assert outcomes == [SendOutcome.SENT, SendOutcome.SENT]
    assert len(transport.receive(["default"], 10, 0.0)) == 1
    assert transport.receive(["default"], 10, 0.0) == []
    transport.close()


def test_an_unsupported_group_names_the_option_that_allows_it() -> None:
    url = "sqs://us-east-1?store=sqlite:///jobs.db"
    with get_queue(url) as queue, pytest.raises(Unsupported, match="leave it out, add fifo=true to the URL, or choose"):
        queue.enqueue(task.named("a").using(group="g").job())
    with pytest.raises(Unsupported, match="sqs lacks GROUPS: add fifo=true to the URL, choose a"):
        get_queue(url, require=Capability.GROUPS)
    get_queue(f"{url}&fifo=true", require=Capability.GROUPS).close()

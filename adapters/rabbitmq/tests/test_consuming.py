"""Tests which consumer gets which message: prefetch, returned messages, acknowledgements, lost connections."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from adapters.rabbitmq.tests.broker import SETTLED, Broker
from adapters.rabbitmq.tests.conftest import Opener, ids, message, messages, received, received_again
from queueport import JobHandle, JobQueue, Retry, get_queue
from queueport.testing import tasks
from queueport.testing.trace import TRACE, Trace
from queueport.testing.waiting import eventually
from queueport_rabbitmq import RabbitMQTransport
from queueport_rabbitmq.consumer import GIVE_BACK_AFTER, LOOK, Consumer
from tests.servers import rabbitmq_server

SOON = GIVE_BACK_AFTER + 2 * LOOK + 1.0


def test_at_most_the_limit_is_prefetched(broker: Broker, transport: RabbitMQTransport) -> None:
    transport.send("q", messages(20))
    taken = received(transport, 3, limit=3)
    assert broker.depth(broker.work("q")) == 17
    transport.ack(taken[:2])
    eventually(lambda: broker.depth(broker.work("q")) == 15)
    assert ids(taken + received(transport, 4, limit=4)) == [str(number) for number in range(7)]


def test_an_idle_receive_waits_and_returns_as_soon_as_a_message_arrives(
    broker: Broker, transport: RabbitMQTransport, opener: Opener
) -> None:
    started = time.monotonic()
    assert transport.receive(["q"], 1, 0.3) == []
    assert 0.3 <= time.monotonic() - started < 1.0
    sender = opener(broker.url)
    sender.send("q", [message("first")])
    received(transport, 1)
    threading.Timer(0.5, lambda: sender.send("q", [message("second")])).start()
    assert ids(transport.receive(["q"], 1, 10.0)) == ["second"]
    assert time.monotonic() - started < 8.0


def test_messages_prefetched_by_an_inactive_thread_go_to_another_consumer_in_order(
    broker: Broker, transport: RabbitMQTransport, opener: Opener
) -> None:
    assert transport.receive(["q"], 10, 0.1) == []
    transport.send("q", messages(10))
    taken = received(transport, 1)  # the transport has prefetched the other nine
    eventually(lambda: broker.depth(broker.work("q")) == 0)
    other = opener(broker.url)
    assert other.receive(["q"], 10, 0.2) == []
    assert ids(received(other, 9)) == [str(number) for number in range(1, 10)]
    transport.ack(taken)
    transport.send("q", [message("new")])
    assert ids(received(other, 1)) == ["new"], "an inactive consumer gets no messages"


def leases(queue: JobQueue, handles: Sequence[JobHandle[Any]]) -> list[float]:
    """The times at which the leases of these jobs end."""
    records = queue.operations.store.get([handle.id for handle in handles])
    return [record.wake_at or 0.0 for record in records if record is not None]


def test_an_idle_worker_gets_all_messages_that_a_busy_one_cannot_start(
    broker: Broker, namespace: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("jobs")
    monkeypatch.setenv(TRACE, str(folder))
    trace = Trace(folder)
    store = f"sqlite:///{folder}/jobs.db"
    with (
        get_queue(broker.url, store=store, namespace=namespace, lease=1.5) as busy,
        get_queue(broker.url, store=store, namespace=namespace, lease=1.5) as idle,
        busy.worker("q", threads=2, grace=0.1),
    ):
        long = busy.enqueue_many(tasks.wait_for.using(queue="q").job("go") for _ in range(2))
        eventually(lambda: len(trace.runs()) == 2)
        begun = leases(busy, long)
        eventually(lambda: all(now > then for now, then in zip(leases(busy, long), begun, strict=True)))
        # at the first heartbeat both messages are acknowledged, and two more are prefetched
        short = idle.enqueue_many(tasks.echo.using(queue="q").job(number) for number in range(20))
        with idle.worker("q", threads=2):
            assert [handle.result(SOON) for handle in short] == list(range(20))
            trace.open("go")
            assert [handle.result(10) for handle in long] == ["go", "go"]


def test_two_workers_of_one_queue_object_do_not_share_their_prefetch(
    broker: Broker, transport: RabbitMQTransport
) -> None:
    transport.send("q", messages(4))
    transport.send("other", messages(1, "other"))
    mine = received(transport, 2, limit=2)
    found: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda q=q, n=n: found.append(ids(received(transport, n, q, limit=2))))
        for q, n in ((["q"], 2), (["other"], 1))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(found) == [["0"], ["2", "3"]]
    transport.ack(mine)


def test_an_acknowledgement_for_a_closed_channel_is_not_sent_on_another(opener: Opener) -> None:
    server = rabbitmq_server(private=True)
    transport = opener(f"{server.url}?queue_type=classic")
    broker = Broker(server.url, transport._topology.namespace)
    transport.send("q", messages(3))
    old = received(transport, 3, limit=3)
    assert [delivery.receipt.tag for delivery in old] == [1, 2, 3]
    time.sleep(SETTLED)
    server.restart()
    new = eventually(lambda: received_again(transport, 3), 30)
    assert [delivery.receipt.tag for delivery in new] == [1, 2, 3]
    transport.ack(old)
    transport.ack([new[0]])
    transport.ack([new[0]])
    transport.close()
    assert broker.ids(broker.work("q")) == ids(new[1:])
    broker.clean("q")


def test_a_second_acknowledgement_is_ignored(broker: Broker, transport: RabbitMQTransport) -> None:
    transport.send("q", messages(2))
    (first,) = received(transport, 1, limit=1)
    transport.ack([first, first])
    transport.ack([first])
    (second,) = received(transport, 1, limit=1)
    assert (second.receipt.consumer, second.receipt.tag) == (first.receipt.consumer, 2), "the channel is still open"


def test_a_consumer_whose_queue_was_deleted_consumes_the_new_queue(
    broker: Broker, transport: RabbitMQTransport, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "queueport_rabbitmq.consumer.SILENT_AFTER", 1.0
    )  # RabbitMQ may not cancel the consumer, so restart it after one second without a delivery
    transport.send("q", [message("before")])
    transport.ack(received(transport, 1))
    broker.clean("q")
    opener(broker.url).send("q", [message("after")])
    assert ids(received(transport, 1)) == ["after"]


def test_higher_priorities_come_first_from_classic_queues(broker: Broker, opener: Opener) -> None:
    transport = opener(f"{broker.url}?queue_type=classic")
    transport.send("q", [message(str(priority), priority=priority) for priority in (0, -10, 10, 5, -1)])
    order = []
    for _ in range(5):
        taken = received(transport, 1, limit=1)
        transport.ack(taken)
        order += ids(taken)
    assert order == ["10", "5", "0", "-1", "-10"]


def test_closing_returns_unacknowledged_messages_only(broker: Broker, transport: RabbitMQTransport) -> None:
    transport.send("q", messages(4))
    taken = received(transport, 3, limit=3)
    transport.ack(taken[:2])
    transport.close()
    transport.close()
    eventually(lambda: broker.ids(broker.work("q")) == ["2", "3"])


def test_a_job_that_dies_and_is_retried_leaves_no_copy(
    broker: Broker, namespace: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = f"sqlite:///{tmp_path_factory.mktemp('jobs')}/jobs.db"
    with get_queue(broker.url, store=store, namespace=namespace) as queue:
        handle = queue.enqueue(tasks.fail.using(queue="q", retry=Retry(max_attempts=1)).job("no"))
        with queue.worker("q"):
            eventually(lambda: handle.status().finished)
            eventually(lambda: broker.ids(broker.dead("q")) == [handle.id])
        handle.retry()
        assert broker.ids(broker.dead("q")) == []


def test_prefetched_messages_return_to_their_queue_although_rabbitmq_does_not_answer_in_time(
    broker: Broker, transport: RabbitMQTransport, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert transport.receive(["q"], 10, 0.1) == []
    transport.send("q", messages(3))
    eventually(lambda: broker.depth(broker.work("q")) == 0)

    async def never(_: Consumer) -> None:
        await asyncio.sleep(600)

    monkeypatch.setattr(Consumer, "_cancel", never)
    eventually(lambda: broker.depth(broker.work("q")) == 3, GIVE_BACK_AFTER + SOON)

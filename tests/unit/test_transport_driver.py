"""When a worker acknowledges: by what its transport says of itself. For those who change the transport driver."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from queueport import JobQueue
from queueport.settings import read
from queueport.stores.memory import MemoryStore
from queueport.testing import tasks
from queueport.testing.trace import TRACE, Trace
from queueport.testing.waiting import eventually
from queueport.transport import Delivery
from queueport.transport_driver import TransportDriver
from tests.mutants.wire import Broker, WireTransport

LEASE = 0.6


class Told(WireTransport):
    """A transport that remembers what it was told."""

    def __init__(self, **declared: Any) -> None:
        super().__init__(Broker())
        vars(self).update(declared)
        self.acknowledged: list[Delivery] = []
        self.prolonged: list[Delivery] = []
        self.answers = threading.Event()
        self.answers.set()

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        self.acknowledged += deliveries
        super().ack(deliveries)

    def prolong(self, deliveries: Sequence[Delivery]) -> None:
        self.answers.wait(10)
        self.prolonged += deliveries


@pytest.fixture
def trace(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Trace:
    monkeypatch.setenv(TRACE, str(tmp_path))
    return Trace(tmp_path)


def opened(transport: WireTransport) -> JobQueue:
    url, settings = read(f"wire://told?lease={LEASE}", {})
    return JobQueue(url, settings, TransportDriver(transport), MemoryStore())


def acknowledged_when(transport: Told, trace: Trace, condition: Callable[[], bool]) -> list[int]:
    """How many messages were acknowledged when a job had started, when the condition came true, and at the end."""
    with opened(transport) as queue, queue.worker(tasks.QUEUE, threads=1):
        handle = queue.enqueue(tasks.wait_for, "go")
        eventually(lambda: trace.times(handle.id) == 1)
        counts = [len(transport.acknowledged)]
        eventually(condition)
        counts.append(len(transport.acknowledged))
        trace.open("go")
        handle.result(10)
        eventually(lambda: transport.acknowledged)
        return [*counts, len(transport.acknowledged)]


def test_what_was_pulled_is_acknowledged_right_after_begin(trace: Trace) -> None:
    transport = Told()
    assert acknowledged_when(transport, trace, lambda: True)[1:] == [1, 1]


def test_what_was_pushed_is_acknowledged_once_at_the_first_heartbeat(trace: Trace) -> None:
    transport = Told(pushes=True)
    assert acknowledged_when(transport, trace, lambda: len(transport.acknowledged) == 1) == [0, 1, 1]
    assert transport.prolonged == []


def test_what_is_held_is_prolonged_at_each_heartbeat_and_acknowledged_at_the_end(trace: Trace) -> None:
    transport = Told(pushes=True, holds=True)
    assert acknowledged_when(transport, trace, lambda: len(transport.prolonged) > 2) == [0, 0, 1]
    assert {delivery.body for delivery in transport.prolonged} == {transport.acknowledged[0].body}


def test_a_broker_that_does_not_prolong_in_time_holds_up_no_heartbeat(trace: Trace) -> None:
    transport = Told(pushes=True, holds=True)
    transport.answers.clear()
    with opened(transport) as queue, queue.worker(tasks.QUEUE, threads=1):
        handle = queue.enqueue(tasks.spin, LEASE * 3)
        assert handle.result(10) == LEASE * 3
        transport.answers.set()
        assert (handle.status().attempts, handle.status().crashes) == (1, 0)


def test_the_transport_says_how_long_an_idle_worker_waits(trace: Trace) -> None:
    asked: list[float] = []

    class Patient(Told):
        def receive(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
            asked.append(wait)
            return super().receive(queues, limit, 0.01)

    with opened(Patient(wait=7.0)) as queue, queue.worker(tasks.QUEUE):
        eventually(lambda: asked)
    assert set(asked) == {7.0}

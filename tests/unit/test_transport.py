"""When a worker acknowledges and prolongs the messages of each kind of transport. For authors of the driver."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from queueport import JobQueue
from queueport.spi.settings import read
from queueport.spi.transport import Delivery
from queueport.stores.memory.store import MemoryStore
from queueport.testing import tasks
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually
from tests.mutants.wire import Broker, WireTransport

LEASE = 0.6


class RecordingTransport(WireTransport):
    """A transport that records acknowledged and prolonged messages. `declared`: its attributes, such as `pushes`."""

    def __init__(self, **declared: Any) -> None:
        super().__init__(Broker())
        vars(self).update(declared)
        self.acknowledged: list[Delivery] = []
        self.prolonged: list[Delivery] = []
        self.may_prolong = threading.Event()
        self.may_prolong.set()

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        self.acknowledged += deliveries
        super().ack(deliveries)

    def prolong(self, deliveries: Sequence[Delivery]) -> None:
        self.may_prolong.wait(10)
        self.prolonged += deliveries


def queue_over(transport: WireTransport) -> JobQueue:
    url, settings = read(f"wire://recording?lease={LEASE}", {})
    return JobQueue(url, settings, transport, MemoryStore())


def acknowledged_when(transport: RecordingTransport, trace: Trace, condition: Callable[[], bool]) -> list[int]:
    """Run a job, and count the acknowledged messages three times: after the job's start, when the condition has become
    true, and after the job's end.
    """
    with queue_over(transport) as queue, queue.worker(tasks.QUEUE, threads=1):
        handle = queue.enqueue(tasks.wait_for, "go")
        eventually(lambda: trace.times(handle.id) == 1)
        counts = [len(transport.acknowledged)]
        eventually(condition)
        counts.append(len(transport.acknowledged))
        trace.open("go")
        handle.result(10)
        eventually(lambda: transport.acknowledged)
        return [*counts, len(transport.acknowledged)]


def test_a_pulled_message_is_acknowledged_right_after_begin(trace: Trace) -> None:
    transport = RecordingTransport()
    assert acknowledged_when(transport, trace, lambda: True) == [1, 1, 1]


def test_a_pushed_message_is_acknowledged_once_at_the_first_heartbeat(trace: Trace) -> None:
    transport = RecordingTransport(pushes=True)
    assert acknowledged_when(transport, trace, lambda: len(transport.acknowledged) == 1) == [0, 1, 1]
    assert transport.prolonged == []


def test_a_held_message_is_prolonged_at_each_heartbeat_and_acknowledged_at_the_end(trace: Trace) -> None:
    transport = RecordingTransport(pushes=True, holds=True)
    assert acknowledged_when(transport, trace, lambda: len(transport.prolonged) > 2) == [0, 0, 1]
    assert {delivery.body for delivery in transport.prolonged} == {transport.acknowledged[0].body}


def test_a_broker_that_is_slow_to_prolong_delays_no_heartbeat(trace: Trace) -> None:
    transport = RecordingTransport(pushes=True, holds=True)
    transport.may_prolong.clear()
    with queue_over(transport) as queue, queue.worker(tasks.QUEUE, threads=1):
        handle = queue.enqueue(tasks.spin, LEASE * 3)
        assert handle.result(10) == LEASE * 3
        transport.may_prolong.set()
        assert (handle.status().attempts, handle.status().crashes) == (1, 0)


def test_an_idle_worker_waits_as_long_as_the_transport_sets(trace: Trace) -> None:
    asked: list[float] = []

    class SlowTransport(RecordingTransport):
        def receive(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
            asked.append(wait)
            return super().receive(queues, limit, 0.01)

    with queue_over(SlowTransport(idle_wait=7.0)) as queue, queue.worker(tasks.QUEUE):
        eventually(lambda: asked)
    assert set(asked) == {7.0}

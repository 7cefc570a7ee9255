"""The consumer of `queueport_dramatiq.redis_broker` fetches messages as soon as others have ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import dramatiq
import pytest
from dramatiq.errors import ConnectionClosed

from queueport.errors import BackendUnavailable
from queueport.testing.waiting import eventually
from queueport_dramatiq.redis_broker import _Consumer

PREFETCH = 2


def message(name: str) -> dramatiq.Message[Any]:
    return dramatiq.Message("q", "actor", (), {}, {"redis_message_id": name}, message_id=name)


class Server:
    """The commands that a consumer sends to Redis."""

    def __init__(self) -> None:
        self.waiting = [message(name) for name in "abc"]
        self.fetched: list[int] = []
        self.acknowledged: list[tuple[str, ...]] = []
        self.acknowledging, self.may_acknowledge = threading.Event(), threading.Event()
        self.may_acknowledge.set()
        self.waits: list[float] = []

    def do_fetch(self, _queue: str, count: int) -> list[bytes]:
        self.fetched.append(count)
        found, self.waiting = self.waiting[:count], self.waiting[count:]
        return [each.encode() for each in found]

    def do_ack(self, _queue: str, *names: str) -> None:
        self.acknowledging.set()
        assert self.may_acknowledge.wait(10)
        self.acknowledged.append(names)

    def wait(self, _queue: str, seconds: float) -> bool:
        self.waits.append(seconds)
        return bool(self.waiting)


@pytest.mark.timeout(30)
def test_the_consumer_held_by_an_acknowledgement_and_not_for_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(_seconds: float) -> None:
        raise AssertionError("the consumer sleeps")

    monkeypatch.setattr("dramatiq.brokers.redis.time", SimpleNamespace(sleep=sleep))
    server, hour = Server(), 3_600_000
    consumer = _Consumer(server, "q", PREFETCH, hour)
    first, _ = next(consumer), next(consumer)
    acknowledging = threading.Thread(target=consumer.ack, args=(first,))
    wait_for = consumer._ended.wait_for

    def wait(*given: Any) -> bool:
        if acknowledging.ident is None:
            acknowledging.start()
        return bool(wait_for(*given))

    monkeypatch.setattr(consumer._ended, "wait_for", wait)
    third = next(consumer)
    acknowledging.join()
    assert third is not None
    assert third.message_id == "c"
    assert server.fetched == [PREFETCH, 1]


def test_the_consumer_returns_after_its_timeout_so_that_it_can_be_stopped() -> None:
    consumer = _Consumer(Server(), "q", PREFETCH, 10)
    assert [next(consumer) is None for _ in range(3)] == [False, False, True]


def test_messages_that_are_acknowledged_at_the_same_time_share_a_call() -> None:
    server = Server()
    server.may_acknowledge.clear()
    consumer = _Consumer(server, "q", 3, 1_000)
    first, *others = [next(consumer) for _ in range(3)]
    threads = [threading.Thread(target=consumer.ack, args=[each]) for each in (first, *others)]
    threads[0].start()
    assert server.acknowledging.wait(10)
    for thread in threads[1:]:
        thread.start()
    eventually(lambda: len(consumer._acknowledged) == 3)  # with the one of the present call
    server.may_acknowledge.set()
    for thread in threads:
        thread.join()
    assert [len(names) for names in server.acknowledged] == [1, 2]
    assert consumer._free() == 3


def fetched(consumer: _Consumer) -> dramatiq.MessageProxy:
    found = next(consumer)
    assert found is not None
    return found


class InterruptedMessage:
    """A message whose thread is interrupted while it reads the options: another thread then acknowledges a message."""

    def __init__(self, found: dramatiq.MessageProxy, meanwhile: Callable[[], None]) -> None:
        self._found, self._meanwhile = found, meanwhile
        self.message_id = found.message_id

    @property
    def options(self) -> dict[str, Any]:
        self._meanwhile()
        return dict(self._found.options)


def test_no_acknowledgement_is_lost_if_another_is_sent_at_the_same_time() -> None:
    server = Server()
    consumer = _Consumer(server, "q", PREFETCH, 1_000)
    first, other = fetched(consumer), fetched(consumer)
    interrupted: Any = InterruptedMessage(first, lambda: consumer.ack(other))
    consumer.ack(interrupted)
    assert sorted(name for names in server.acknowledged for name in names) == ["a", "b"]


def test_messages_whose_acknowledgement_failed_are_acknowledged_in_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server()
    consumer = _Consumer(server, "q", PREFETCH, 1_000)
    first, other = fetched(consumer), fetched(consumer)
    with monkeypatch.context() as patched:
        patched.setattr(server, "do_ack", Mock(side_effect=BackendUnavailable("Redis does not answer")))
        with pytest.raises(ConnectionClosed):
            consumer.ack(first)
    consumer.ack(other)
    assert server.acknowledged == [("a", "b")]


def test_the_consumer_of_an_empty_queue_held_by_a_message() -> None:
    server = Server()
    server.waiting = []
    consumer = _Consumer(server, "q", PREFETCH, 100)
    assert next(consumer) is None  # only this fetch finds that the queue is empty
    assert next(consumer) is None
    assert (server.fetched, server.waits) == ([PREFETCH], [0.1])
    server.waiting = [message("d")]
    found = next(consumer)
    assert found is not None
    assert found.message_id == "d"

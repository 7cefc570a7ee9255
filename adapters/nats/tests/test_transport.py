"""How messages become those of JetStream: outcomes, several queues, names, dead letters, lost connections."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from nats.js.api import StreamConfig

from adapters.nats.tests.conftest import Opener, ids, message, messages, received
from adapters.nats.tests.jetstream import JetStream
from queueport.errors import BackendUnavailable
from queueport.spi.message import Depth, SendOutcome, SendResult
from queueport.testing.waiting import eventually
from queueport_nats import NatsTransport
from queueport_nats.session import WINDOW
from queueport_nats.topology import Topology
from tests.servers import nats_server
from tests.servers.interruptions import interrupt_sends

SENT = SendResult(SendOutcome.SENT)


def test_a_batch_of_several_windows_arrives_completely(jetstream: JetStream, transport: NatsTransport) -> None:
    assert transport.send("q", messages(2 * WINDOW + 1)) == [SENT] * (2 * WINDOW + 1)
    assert transport.depth("q") == Depth(2 * WINDOW + 1, 0)
    assert sorted(ids(received(transport, 20, limit=8)), key=int) == [str(number) for number in range(20)]
    assert transport.depth("q") == Depth(2 * WINDOW - 19, 20)


def test_the_same_message_sent_twice_arrives_twice(jetstream: JetStream, transport: NatsTransport) -> None:
    assert transport.send("q", [message("a"), message("a")]) == [SENT, SENT]
    assert ids(received(transport, 2)) == ["a", "a"]


def test_a_message_that_jetstream_refuses_fails_and_the_others_are_sent(
    jetstream: JetStream, transport: NatsTransport
) -> None:
    jetstream.create(
        StreamConfig(name=jetstream.work("q"), subjects=[f"{jetstream.namespace}.jobs.q"], max_msg_size=100)
    )
    fine, refused, also_fine = transport.send("q", [message("a"), message("b", size=101), message("c")])
    assert (fine, also_fine) == (SENT, SENT)
    assert refused.outcome is SendOutcome.REFUSED
    assert "message size exceeds maximum" in str(refused.error)
    (too_large,) = transport.send("other", [message("d", size=2**20 + 1)])
    assert too_large.outcome is SendOutcome.REFUSED


def test_an_idle_receive_waits_and_returns_as_soon_as_a_message_arrives(
    jetstream: JetStream, transport: NatsTransport, opener: Opener
) -> None:
    queues = ["q", "other", "third"]
    started = time.monotonic()
    assert transport.receive(queues, 1, 0.3) == []
    assert 0.3 <= time.monotonic() - started < 2.0
    sender = opener(jetstream.url)
    threading.Timer(0.5, lambda: sender.send("other", [message("a", "other")])).start()
    assert ids(transport.receive(queues, 1, 10.0)) == ["a"]
    assert time.monotonic() - started < 8.0


def test_a_message_that_arrives_after_its_receive_has_ended_goes_back_at_once(
    jetstream: JetStream, transport: NatsTransport, opener: Opener
) -> None:
    assert transport.receive(["q", "other"], 1, 0.1) == []
    sender = opener(jetstream.url)
    timer = threading.Timer(0.3, lambda: (sender.send("q", [message("a")]), sender.send("other", [message("b")])))
    timer.start()
    first = transport.receive(["q", "other"], 1, 5.0)
    timer.join()
    second = received(transport, 1, ["q", "other"], limit=1)
    assert sorted(ids([*first, *second])) == ["a", "b"]


def test_every_queue_gets_its_turn(jetstream: JetStream, transport: NatsTransport) -> None:
    for queue in ("q", "other"):
        transport.send(queue, messages(10, queue))
    taken = [delivery for _ in range(4) for delivery in transport.receive(["q", "other"], 2, 0.5)]
    assert sorted(delivery.queue for delivery in taken) == ["other"] * 4 + ["q"] * 4


def test_many_threads_at_once_lose_and_duplicate_no_message(jetstream: JetStream, transport: NatsTransport) -> None:
    def use(thread: int) -> list[str]:
        for number in range(10):
            assert transport.send("q", [message(f"{thread}-{number}-{one}") for one in range(5)]) == [SENT] * 5
        taken = received(transport, 50, limit=7)
        transport.ack(taken)
        return ids(taken)

    with ThreadPoolExecutor(8) as pool:
        found = [job_id for taken in pool.map(use, range(8)) for job_id in taken]
    assert len(set(found)) == len(found) == 400
    eventually(lambda: transport.depth("q") == Depth(0, 0))


def test_a_stream_that_was_deleted_is_created_again(
    jetstream: JetStream, opener: Opener, transport: NatsTransport
) -> None:
    worker = opener(jetstream.url, call_timeout=1.0)
    assert worker.receive(["q"], 1, 0.1) == []
    jetstream.delete(jetstream.work("q"))
    assert transport.send("q", [message("a")]) == [SENT]
    assert ids(received(worker, 1)) == ["a"]


def test_the_names_of_queues_are_valid_and_unique() -> None:
    topology = Topology("app", 1)
    queues = ["a", "a.b", "a..b", "a.", "dead", "jobs", "a-b", "a_b", "-", "A" * 64]
    subjects = [topology.jobs_subject(queue) for queue in queues]
    names = [topology.jobs(queue).name for queue in queues]
    assert len({*names, topology.dead().name}) == len(queues) + 1
    assert len(set(subjects)) == len(queues)
    assert all(part for subject in subjects for part in subject.split("."))
    assert [topology.known(topology.jobs(queue).config) for queue in queues] == [topology.jobs(q) for q in queues]
    assert topology.known(topology.dead().config) == topology.dead()
    assert topology.known(StreamConfig(name="other-jobs-a")) is None


def test_a_queue_with_dots_in_its_name_works_with_a_prefix(jetstream: JetStream, opener: Opener) -> None:
    transport = opener(f"{jetstream.url}?prefix={jetstream.namespace}-")
    transport.send("a..b.", [message("a")])
    assert ids(received(transport, 1, ["a..b."])) == ["a"]
    assert transport.depth("a.b") == Depth(0, 0)


def test_copies_of_dead_jobs_are_removed_one_by_one(jetstream: JetStream, transport: NatsTransport) -> None:
    transport.unbury("q", [message("never-there")])
    transport.bury("q", [message("a"), message("a", life=2), message("b")])
    transport.bury("q", [message("b")])
    transport.bury("other", [message("a", "other")])
    transport.unbury("q", [message("a"), message("b")])
    assert jetstream.subjects(jetstream.dead) == {"dead.q.a.2": 1, "dead.other.a.1": 1}


def test_a_message_that_is_put_aside_keeps_its_headers(jetstream: JetStream, transport: NatsTransport) -> None:
    transport.setup(["q"])
    jetstream.publish("jobs.q", b"\xff", {"From": "somebody", "Nats-Msg-Id": "1"})
    (delivery,) = received(transport, 1)
    transport.put_aside(delivery)
    found = jetstream.last(jetstream.dead, "aside.q")
    assert (found.data, (found.headers or {}).get("From")) == (b"\xff", "somebody")
    eventually(lambda: transport.depth("q") == Depth(0, 0))


def test_purge_leaves_the_dead_letters(jetstream: JetStream, transport: NatsTransport) -> None:
    transport.purge("never-there")
    transport.send("q", messages(3))
    transport.bury("q", [message("a")])
    transport.purge("q")
    assert transport.depth("q") == Depth(0, 0)
    assert jetstream.subjects(jetstream.dead) == {"dead.q.a.1": 1}


def test_messages_written_to_a_hanging_server_are_unknown(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "queueport_nats.session.WINDOW", 3
    )  # so few messages are written at once even under a slow tracer
    server = nats_server(private=True)
    transport = opener(server.url, call_timeout=1.0)
    assert transport.send("q", [message("before")]) == [SENT]
    with server.paused():
        started = time.monotonic()
        outcomes = [sent.outcome for sent in transport.send("q", messages(4))]
        assert time.monotonic() - started < 2.0
        assert outcomes == [SendOutcome.UNKNOWN] * 3 + [SendOutcome.FAILED]
    assert transport.send("q", [message("after")]) == [SENT]
    JetStream(server.url, transport._topology.root).clean()


def test_after_a_kill_and_a_restart_the_same_transport_sends_and_receives(opener: Opener) -> None:
    server = nats_server(private=True)
    transport = opener(server.url)
    assert transport.send("q", messages(10)) == [SENT] * 10
    taken = received(transport, 2)
    with server.down():
        (sent,) = transport.send("q", [message("lost")])
        assert sent.outcome is not SendOutcome.SENT
        assert "refuses connections" in str(sent.error)
        with pytest.raises(BackendUnavailable, match="refuses connections"):
            transport.receive(["q"], 1, 0.1)
    transport.ack(taken)
    assert ids(received(transport, 8)) == [str(number) for number in range(2, 10)]
    eventually(lambda: transport.depth("q") == Depth(0, 8))
    JetStream(server.url, transport._topology.root).clean()


def test_a_connection_on_which_nothing_arrives_any_more_is_replaced(opener: Opener) -> None:
    server = nats_server(private=True)
    transport = opener(server.url, call_timeout=1.0)
    transport.send("q", [message("a")])
    session = transport._session
    assert session is not None
    with server.paused():
        eventually(lambda: not session.client.is_connected)
    assert ids(received(transport, 1)) == ["a"]
    JetStream(server.url, transport._topology.root).clean()


def test_a_thread_that_is_interrupted_while_it_sends_leaves_no_lock(
    jetstream: JetStream, transport: NatsTransport
) -> None:
    transport.send("q", [message("before")])
    interrupt_sends(lambda: transport.send("q", messages(3)))
    assert transport.send("q", [message("after")]) == [SENT]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # this test forks one
def test_a_child_process_opens_its_own_connection(
    jetstream: JetStream, transport: NatsTransport, caplog: pytest.LogCaptureFixture
) -> None:
    transport.send("q", [message("before")])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            fine = transport.send("q", [message("child")]) == [SENT]
            transport.close()
            code = 0 if fine else 2
        finally:
            os._exit(code)
    assert transport.send("q", [message("parent")]) == [SENT]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sorted(ids(received(transport, 3))) == ["before", "child", "parent"]
    assert "lost" not in caplog.text


def test_a_close_during_sends_and_receives_ends_them_all(jetstream: JetStream, opener: Opener) -> None:
    def use(transport: NatsTransport, sent: threading.Semaphore) -> None:
        while transport.send("q", messages(20))[0] == SENT:
            sent.release()
            transport.ack(transport.receive(["q", "other"], 5, 0.2))

    for number in range(10):
        transport, sent = opener(jetstream.url, call_timeout=20.0), threading.Semaphore(0)
        with ThreadPoolExecutor(4) as pool:
            users = [pool.submit(use, transport, sent) for _ in range(4)]
            for _ in range(number + 1):
                assert sent.acquire(timeout=10.0)
            started = time.monotonic()
            transport.close()
            transport.close()
            for user in users:
                error = user.exception(10)
                assert error is None or "is closed" in str(error)
        assert time.monotonic() - started < 10.0

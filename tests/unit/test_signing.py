"""Signed messages: what a signature covers, keys that are replaced, and what a worker does with a forged message.

The contract line H7 runs signed jobs on each backend. For authors of `spi.signing`.
"""

from __future__ import annotations

import hmac
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from queueport import Event, JobQueue, JobState, get_queue, hooks, on_event
from queueport.errors import ConfigurationError, PayloadTooLarge
from queueport.spi.message import Message, NotAMessage
from queueport.spi.signing import Signer, SigningKeys
from queueport.spi.url import BackendURL
from queueport.stores.memory.store import MemoryStore
from queueport.testing import tasks
from queueport.testing.waiting import eventually
from queueport.workers.native import NativeWorker
from tests.mutants.wire import Broker, WireTransport, broker
from tests.unit.records import DEAD, ERROR, job

KEY, OLD, OTHER = "k" * 32, "o" * 32, "x" * 40
RECORD = replace(job(JobState.QUEUED, priority=3), task="app.send\ud800", payload=b'{"args":[],"kwargs":{}}')


def signer(keys: str = KEY, namespace: str = "app") -> Signer:
    return SigningKeys.parse(keys).signer(namespace)


@pytest.fixture
def place() -> str:
    return f"wire://{uuid.uuid4().hex}"


@pytest.fixture
def wire(place: str) -> Broker:
    return broker(place, "queueport")


@pytest.fixture
def opened(place: str) -> Iterator[Any]:
    """Opens queues over the same broker and store."""
    queues: list[JobQueue] = []

    def open_queue(keys: str | None = KEY) -> JobQueue:
        store, url = (
            MemoryStore.open(BackendURL(place.replace("wire", "memory", 1)), namespace="queueport", call_timeout=1.0),
            BackendURL(place),
        )
        with get_queue("memory://") as other:
            settings = other.settings.model_copy(update={"signing_key": keys and SigningKeys.parse(keys)})
        queues.append(JobQueue(url, settings, WireTransport.open(url, settings, store), store))
        return queues[-1]

    yield open_queue
    for queue in queues:
        queue.close()


# -- what is signed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("buried", [False, True])
def test_a_signed_message_is_read_also_after_a_framework_has_encoded_it_again(buried: bool) -> None:
    record = replace(RECORD, errors=(ERROR,))
    message = Message.of(record, 1234567.123456, buried=buried, signer=signer())
    again = json.dumps(dict(reversed(json.loads(message.body).items())), indent=1).encode()
    for body in (message.body, again):
        assert (found := Message.parse(body, signer())).buried is buried
        assert (found.id, found.task, found.priority) == (record.id, record.task, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", "other"),
        ("task", "app.other"),
        ("queue", "other"),
        ("life", 2),
        ("sent_at", 1e9),
        ("priority", 10),
        ("buried", True),
        ("signature", ""),
        ("signature", None),
        ("signature", 7),
        ("signature", ["0" * 64]),
        ("signature", "0" * 64),
        ("signature", "ü\ud800"),
    ],
)
def test_a_message_that_was_changed_after_it_was_signed_is_refused(name: str, value: object) -> None:
    body = json.loads(Message.of(RECORD, 5.0, signer=signer()).body)
    with pytest.raises(NotAMessage, match="not signed" if value is None else "was changed after it was signed"):
        Message.parse(json.dumps({**body, name: value}).encode(), signer())


@pytest.mark.parametrize("name", ["payload", "headers", "attempts"])
def test_a_signature_does_not_cover_what_only_people_read(name: str) -> None:
    body = json.loads(Message.of(RECORD, 5.0, signer=signer()).body)
    assert Message.parse(json.dumps({**body, name: {"args": ["changed"]}}).encode(), signer()).id == RECORD.id


@pytest.mark.parametrize(
    ("producer", "worker", "why"),
    [
        (signer(OLD), signer(f"{KEY},{OLD}"), None),
        (signer(f"{KEY} , {OLD}"), signer(KEY), None),
        (signer(f"{KEY},{OLD}"), signer(OLD), "signed with a key that this worker does not have"),
        (signer(KEY, "shop"), signer(KEY), "signed with a key that this worker does not have"),
        (signer(OTHER), signer(f"{KEY},unsigned"), "signed with a key that this worker does not have"),
        (None, signer(f"{KEY},unsigned"), None),
        (None, signer(KEY), "not signed; set signing_key for its producer too"),
        (signer(KEY), None, None),
    ],
)
def test_the_first_key_signs_and_each_key_is_accepted(
    producer: Signer | None, worker: Signer | None, why: str | None
) -> None:
    body = Message.of(RECORD, 5.0, signer=producer).body
    if why is None:
        assert Message.parse(body, worker).id == RECORD.id
    else:
        with pytest.raises(NotAMessage, match=why):
            Message.parse(body, worker)


def test_the_size_of_a_message_includes_its_signature() -> None:
    for sent_at in (0.0, 1234567890.1234567):
        assert len(Message.of(RECORD, sent_at, signer=signer()).body) <= Message.size(RECORD, signer())
    assert Message.size(RECORD, signer()) == Message.size(RECORD) + len(',"signature":""') + 64


def test_a_job_whose_signed_message_is_too_large_is_refused(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = opened()
    handle = opened(None).enqueue(tasks.echo, "x" * 1_000)
    size = Message.size(queue.operations.read(handle.id))
    monkeypatch.setattr(WireTransport, "limits", replace(WireTransport.limits, message=size))
    opened(None).enqueue(tasks.echo, "x" * 1_000)
    with pytest.raises(PayloadTooLarge, match="accepts at most"):
        queue.enqueue(tasks.echo, "x" * 1_000)


def test_without_a_key_nothing_is_signed_or_checked(opened: Any, wire: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(hmac, "digest")
    queue = opened(None)
    with queue.worker(threads=1):
        assert queue.enqueue(tasks.echo, 1).result(10) == 1
    assert not [body for body in wire.sent.values() if b"signature" in body]


# -- what a worker does --------------------------------------------------------------------------------


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """The events `put_aside` of the test."""
    monkeypatch.setattr(hooks, "event_hooks", [])
    found: list[Event] = []

    @on_event
    def keep(event: Event) -> None:
        if event.name == "put_aside":
            found.append(event)

    return found


def test_a_message_that_is_put_aside_makes_an_event(opened: Any, wire: Broker, events: list[Event]) -> None:
    queue = opened()
    gone = replace(RECORD, id="gone")
    wire.put("default", b"{}")
    wire.put("default", Message.of(gone, 0.0).body)
    wire.put("default", Message.of(gone, 0.0, signer=queue.operations.signer).body)
    with queue.worker(threads=1) as worker:
        eventually(lambda: len(wire.aside) == 3, 10)
    assert [event.reason for event in events] == [
        "the message is not a queueport message",
        "the message is not signed; set signing_key for its producer too, unless somebody else has sent it",
        "job gone has no record",
    ]
    assert {(event.backend, event.job_id, event.state) for event in events} == {("wire", None, None)}
    assert all(event.worker for event in events)
    assert worker is not None


def test_a_copy_of_a_dead_job_is_redriven_if_it_is_signed(opened: Any, wire: Broker, events: list[Event]) -> None:
    queue = opened()
    dead = queue.dead_letters.add(tasks.echo.job(1), "kept")
    eventually(lambda: dead.id in wire.dead, 10)
    copy = wire.dead[dead.id].body
    forged = {name: value for name, value in json.loads(copy).items() if name != "signature"}
    wire.put("default", json.dumps(forged).encode())
    with queue.worker(threads=1):
        eventually(lambda: events, 10)
        assert dead.status().state is DEAD
        wire.put("default", copy)
        eventually(lambda: dead.status().state is JobState.SUCCEEDED, 10)


def test_a_forged_message_does_not_make_other_messages_count_as_lost(opened: Any) -> None:
    queue = opened()
    worker = NativeWorker(queue, ["default"])
    forged = {"v": 1, "id": "a", "task": "t", "queue": "default", "life": 1, "sent_at": 9e9}
    worker.note(json.dumps(forged).encode())
    assert worker.received == {}
    worker.note(Message.of(replace(RECORD, queue="default"), 5.0, signer=queue.operations.signer).body)
    assert worker.received == {("default", 3): 5.0}


# -- the setting ---------------------------------------------------------------------------------------


@pytest.fixture
def no_redis(monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a queue that is never connected."""
    monkeypatch.delenv("QUEUEPORT_SIGNING_KEY", raising=False)
    return "nats://localhost:1?store=redis://localhost:1"


def test_the_key_is_read_from_the_environment_the_url_or_a_keyword(
    no_redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("queueport_nats")
    monkeypatch.setenv("QUEUEPORT_SIGNING_KEY", f" {OLD}\n")
    for given, keys in ((None, OLD), (f"{KEY},{OLD}", f"{KEY},{OLD}")):
        with get_queue(no_redis, signing_key=given) as queue:
            assert queue.operations.signer == signer(keys, "queueport")
            assert queue.spec()["settings"]["signing_key"] == keys
    with get_queue(f"{no_redis}&signing_key={KEY}") as queue:
        assert queue.operations.signer == signer(KEY, "queueport")
        assert KEY not in repr(queue) + queue.url + repr(queue.settings)


def test_a_key_from_bytes_that_are_not_utf_8_can_be_used() -> None:
    body = Message.of(RECORD, 5.0, signer=signer("\udcff" * 32)).body
    assert Message.parse(body, signer("\udcff" * 32)).id == RECORD.id


def test_a_backend_without_messages_refuses_a_key_and_ignores_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for url, given in ((f"memory://?signing_key={KEY}", None), ("memory://", KEY)):
        with pytest.raises(ConfigurationError, match="memory sends no messages, so it can sign none"):
            get_queue(url, signing_key=given)
    monkeypatch.setenv("QUEUEPORT_SIGNING_KEY", KEY)
    with get_queue("memory://") as queue:
        assert queue.operations.signer is None


def test_a_wrong_key_in_the_environment_is_not_shown(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "queueport", "check", "--url", "sqlite:///jobs.db"]
    environment = {**os.environ, "QUEUEPORT_SIGNING_KEY": "short-secret"}
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment, timeout=30
    )
    assert ended.returncode == 2
    assert "QUEUEPORT_SIGNING_KEY='***' is wrong: write keys of at least 32 characters" in ended.stderr
    assert "short-secret" not in ended.stdout + ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_check_warns_while_unsigned_messages_are_accepted(opened: Any) -> None:
    (warning,) = opened(f"{KEY},unsigned").check().warnings
    assert "remove the word `unsigned` from signing_key" in warning
    assert opened(f"{KEY},{OLD}").check().warnings == []

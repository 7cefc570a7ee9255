"""The example adapter in cases that the contract suite does not cover: messages that a worker holds, order, errors."""

import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from queueport import get_queue
from queueport.errors import ConfigurationError
from queueport.spi.message import Message, SendOutcome
from queueport.spi.settings import read
from queueport.spi.transport import Delivery, Transport
from queueport.stores.memory.store import MemoryStore

HOLDING_PROCESS = """
import importlib, sys
from queueport.spi.settings import read
from queueport.stores.memory.store import MemoryStore
sys.path.insert(0, sys.argv[1])
transport = importlib.import_module("05_write_an_adapter").SpoolTransport.open(*read(sys.argv[2], {}), MemoryStore())
held = transport.receive(["default"], 1, 10)
print("holds", len(held), flush=True)
sys.stdin.read()
"""


def open_transport(folder: Path) -> Transport:
    spool = importlib.import_module("05_write_an_adapter").SpoolTransport
    transport: Transport = spool.open(*read(url(folder), {}), MemoryStore())
    return transport


def url(folder: Path) -> str:
    return f"spool:///{folder}/spool"


def message(job_id: str, priority: int = 0) -> Message:
    return Message(job_id, "task", "default", 1, 0.0, job_id.encode(), priority)


def received(transport: Transport, limit: int = 10, wait: float = 0.0) -> Sequence[Delivery]:
    return transport.receive(["default"], limit, wait)


def bodies(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


def test_a_queue_that_is_never_empty_does_not_block_another(tmp_path: Path) -> None:
    transport = open_transport(tmp_path)
    transport.send("busy", [message(f"b{number}") for number in range(200)])
    transport.send("rare", [message("r")])
    taken = [transport.receive(["busy", "rare"], 1, 0.0)[0] for _ in range(100)]
    assert [delivery.queue for delivery in taken].count("rare") == 1
    transport.ack(taken)


def test_a_message_that_a_worker_holds_is_not_delivered_again(tmp_path: Path) -> None:
    one, other = open_transport(tmp_path), open_transport(tmp_path)
    one.send("default", [message("a"), message("b")])
    first = received(one, limit=1)
    second = received(other)
    assert (bodies(first), bodies(second)) == ([b"a"], [b"b"])
    one.ack(first)
    other.ack(second)
    assert bodies(received(one)) == []


def test_a_message_held_by_a_killed_process_is_delivered_again(tmp_path: Path) -> None:
    transport = open_transport(tmp_path)
    transport.send("default", [message("a")])
    examples = str(Path(__file__).parents[2] / "examples")
    command = [sys.executable, "-c", HOLDING_PROCESS, examples, url(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"holds 1\n"
        assert bodies(received(transport)) == []
        process.kill()
    again = received(transport, wait=10)
    assert bodies(again) == [b"a"]
    transport.ack(again)


def test_messages_are_delivered_by_priority_and_then_in_the_order_of_sending(tmp_path: Path) -> None:
    transport = open_transport(tmp_path)
    transport.send("default", [message("low", -10), message("b"), message("a"), message("high", 10)])
    deliveries = received(transport)
    assert bodies(deliveries) == [b"high", b"b", b"a", b"low"]
    transport.ack(deliveries)


def test_a_failed_send_is_reported_as_an_outcome_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file in place of the folder")
    (sent,) = open_transport(tmp_path).send("default", [message("a")])
    assert sent.outcome is SendOutcome.FAILED
    assert isinstance(sent.error, OSError)
    (tmp_path / "spool").unlink()
    assert bodies(received(open_transport(tmp_path))) == []


@pytest.mark.parametrize("wrong", ["spool://host/path", "spool://", "spool:///x?pol=1", "spool:///x?poll=0"])
def test_an_invalid_url_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigurationError):
        get_queue(wrong)

"""What the contract cannot see of the example adapter: who holds a message, and what becomes of it when he dies."""

import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from queueport import get_queue
from queueport.driver import SendOutcome
from queueport.errors import ConfigurationError
from queueport.message import Message
from queueport.settings import read
from queueport.transport import Delivery, Transport

HOLDER = """
import importlib, sys
from queueport.settings import read
sys.path.insert(0, sys.argv[1])
transport = importlib.import_module("05_write_an_adapter").SpoolTransport.open(*read(sys.argv[2], {}))
held = transport.receive(["default"], 1, 10)
print("holds", len(held), flush=True)
sys.stdin.read()
"""


def opened(folder: Path) -> Transport:
    transport: Transport = importlib.import_module("05_write_an_adapter").SpoolTransport.open(*read(url(folder), {}))
    return transport


def url(folder: Path) -> str:
    return f"spool:///{folder}/spool"


def message(job_id: str, priority: int = 0) -> Message:
    return Message(job_id, "task", "default", 1, 0.0, job_id.encode(), priority)


def received(transport: Transport, limit: int = 10, wait: float = 0.0) -> Sequence[Delivery]:
    return transport.receive(["default"], limit, wait)


def bodies(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


def test_a_message_that_somebody_holds_is_not_delivered_again(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    one.send("default", [message("a"), message("b")])
    first = received(one, limit=1)
    second = received(other)
    assert (bodies(first), bodies(second)) == ([b"a"], [b"b"])
    one.ack(first)
    other.ack(second)
    assert bodies(received(one)) == []


def test_what_a_killed_process_holds_comes_back(tmp_path: Path) -> None:
    transport = opened(tmp_path)
    transport.send("default", [message("a")])
    examples = str(Path(__file__).parents[2] / "examples")
    command = [sys.executable, "-c", HOLDER, examples, url(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"holds 1\n"
        assert bodies(received(transport)) == []
        process.kill()
    back = received(transport, wait=10)
    assert bodies(back) == [b"a"]
    transport.ack(back)


def test_higher_priority_comes_first_and_then_who_was_sent_first(tmp_path: Path) -> None:
    transport = opened(tmp_path)
    transport.send("default", [message("low", -10), message("b"), message("a"), message("high", 10)])
    deliveries = received(transport)
    assert bodies(deliveries) == [b"high", b"b", b"a", b"low"]
    transport.ack(deliveries)


def test_a_send_that_fails_is_an_outcome_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file, where the folder should be")
    (sent,) = opened(tmp_path).send("default", [message("a")])
    assert sent.outcome is SendOutcome.FAILED
    assert isinstance(sent.error, OSError)
    (tmp_path / "spool").unlink()
    assert bodies(received(opened(tmp_path))) == []


@pytest.mark.parametrize("wrong", ["spool://host/path", "spool://", "spool:///x?pol=1", "spool:///x?poll=0"])
def test_a_wrong_url_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigurationError):
        get_queue(wrong)

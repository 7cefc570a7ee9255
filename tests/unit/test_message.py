"""The content of messages, what a dead-letter copy omits if it is too large, and bytes that are not messages. For
authors of `spi.message`.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from queueport.engine.lifecycle import Lifecycle
from queueport.spi.message import SHORT, Message, NotAMessage
from queueport.spi.record import Record
from queueport.spi.signing import SigningKeys
from queueport.status import JobError, JobState
from tests.unit.records import RULES

LIMIT = 10_000
SIGNER = SigningKeys.parse("a" * 64).signer("app")


def dead(payload: bytes) -> Record:
    at = datetime.fromtimestamp(0, UTC)
    error = JobError("app.Refused", "m" * 5_000, "first line\n" + "t" * 5_000 + "\nlast line", at, 1)
    return Record("id", "app.send", "default", payload, JobState.DEAD, headers={"a": "b"}, errors=(error,))


def test_a_dead_letter_copy_within_the_limit_is_complete() -> None:
    copy = Message.of(dead(b'{"args":[1]}'), 0.0, buried=True, limit=20_000)
    body = json.loads(copy.body)
    assert (body["payload"], body["headers"]) == ({"args": [1]}, {"a": "b"})
    assert len(body["error"]["traceback"]) > 5_000


def test_a_dead_letter_copy_over_the_limit_keeps_the_names_and_the_error_of_the_job() -> None:
    copy = Message.of(dead(b'{"args":["' + b"x" * LIMIT + b'"]}'), 0.0, buried=True, limit=LIMIT)
    assert len(copy.body) <= LIMIT
    body = json.loads(copy.body)
    assert (body["payload"], body["headers"], body["error"]["type"]) == (None, {}, "app.Refused")
    assert body["error"]["message"] == "m" * SHORT
    assert body["error"]["traceback"].endswith("t\nlast line")
    assert Message.parse(copy.body).buried
    assert Message.parse(copy.body).id == "id"


def test_a_message_that_is_not_a_dead_letter_copy_is_never_shortened() -> None:
    body = Message.of(dead(b"x" * LIMIT), 0.0, limit=1).body
    assert len(body) > LIMIT
    assert body == Message.of(dead(b"x" * LIMIT), 0.0).body


long_texts = st.text().map(lambda text: text * 100)


@given(long_texts, long_texts, long_texts, st.dictionaries(st.text(), long_texts), st.binary())
@example("", "", "", {str(number): "" for number in range(100)}, b"")
@example("\0" * 1_000, "", "", {"\ud800": "\ud800" * 1_000}, b"")
def test_the_size_of_a_message_does_not_exceed_its_estimate(
    job_id: str, name: str, queue: str, headers: dict[str, str], payload: bytes
) -> None:
    record = Record(job_id, name, queue, payload, JobState.QUEUED, headers=headers)
    assert Message.size(record, SIGNER) <= Message.largest_size(record)


@pytest.mark.parametrize("delay", [None, 0.0, 60.0])
@pytest.mark.parametrize("expires", [None, 60.0])
def test_the_first_change_of_a_job_sets_nothing_that_its_message_contains(
    delay: float | None, expires: float | None
) -> None:
    record = Record("id", "app.send", "default", b"{}", JobState.SCHEDULED, priority=3, group="g", headers={"a": "b"})
    for first in (Lifecycle(RULES).new(delay=delay, expires=expires), Lifecycle(RULES).new_waiting(expires=expires)):
        assert Message.of(first.applied(record, "rev", 5.0), 5.0) == Message.of(record, 5.0)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"v":1,"payload":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, "nested too deeply"),
        (b'{"v":' + b"1" * 5_000 + b"}", "not JSON"),  # Python converts no text with more than 4300 digits to an int
        (b'{"v":1,"id":"\xff"}', "not JSON"),
        (b'{"v":' + b"1" * 4_000 + b"}", "newer than this worker's 1"),
        *[
            (b'{"v":1,"id":"i","task":"t","queue":"q","life":1,"sent_at":%b}' % time, "of the wrong shape")
            for time in (b"1" * 400, b"NaN", b"-Infinity", b"1e999", b'"now"')
        ],
    ],
    ids=lambda value: str(value)[-30:],
)
def test_bytes_that_cannot_be_read_are_not_a_message(body: bytes, why: str) -> None:
    with pytest.raises(NotAMessage, match=why):
        Message.parse(body)


def test_no_depth_of_nesting_raises_another_error() -> None:
    """Near the limit, Python can parse the value of a field but not show it in an error."""
    for depth in range(1, 1_100):
        with pytest.raises(NotAMessage):
            Message.parse(b'{"v":1,"id":' + b"[" * depth + b"]" * depth + b"}")

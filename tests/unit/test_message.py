"""What travels: the whole job, and of a dead one that is too large what a human needs. For those who change it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from queueport.message import SHORT, Message
from queueport.record import Record
from queueport.status import JobError, JobState

LIMIT = 10_000


def dead(payload: bytes) -> Record:
    at = datetime.fromtimestamp(0, UTC)
    error = JobError("app.Refused", "m" * 5_000, "first line\n" + "t" * 5_000 + "\nlast line", at, 1)
    return Record("id", "app.send", "default", payload, JobState.DEAD, headers={"a": "b"}, errors=(error,))


def test_a_buried_copy_that_fits_is_whole() -> None:
    copy = Message.of(dead(b'{"args":[1]}'), 0.0, buried=True, limit=20_000)
    body = json.loads(copy.body)
    assert (body["payload"], body["headers"]) == ({"args": [1]}, {"a": "b"})
    assert len(body["error"]["traceback"]) > 5_000


def test_one_that_is_too_large_says_what_died_and_why() -> None:
    copy = Message.of(dead(b'{"args":["' + b"x" * LIMIT + b'"]}'), 0.0, buried=True, limit=LIMIT)
    assert len(copy.body) <= LIMIT
    body = json.loads(copy.body)
    assert (body["payload"], body["headers"], body["error"]["type"]) == (None, {}, "app.Refused")
    assert body["error"]["message"] == "m" * SHORT
    assert body["error"]["traceback"].endswith("t\nlast line")
    assert Message.parse(copy.body).buried
    assert Message.parse(copy.body).id == "id"


def test_a_message_that_is_to_run_is_never_shortened() -> None:
    assert len(Message.of(dead(b"x" * LIMIT), 0.0, limit=1).body) > LIMIT

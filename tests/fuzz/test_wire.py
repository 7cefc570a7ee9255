"""Bodies of messages, envelopes of frameworks and encoded arguments: whatever they contain, only documented errors."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queueport.errors import InvalidJob
from queueport.job.arguments import Signature, decode_json, decode_plain
from queueport.spi.message import Message, NotAMessage
from queueport.spi.record import CorruptRecord, Record, flat
from queueport.spi.signing import SigningKeys
from queueport.status import JobState
from tests.fuzz.values import bodies, fuzzed, json_values, messages, one_line

SIGNER = SigningKeys.parse("k" * 32).signer("app")
RECORD = Record("a", "t", "default", b'{"args":[],"kwargs":{}}', JobState.QUEUED)


@given(bodies)
@fuzzed
def test_a_body_is_a_message_or_not(body: bytes) -> None:
    try:
        message = Message.parse(body)
    except NotAMessage as error:
        one_line(error)
    else:
        assert {type(message.id), type(message.task), type(message.queue)} == {str}
        assert math.isfinite(message.sent_at)
    with pytest.raises(NotAMessage):
        Message.parse(body, SIGNER)


@given(st.dictionaries(st.sampled_from([*flat(RECORD.values()), "new"]), json_values | st.binary(max_size=20)))
@fuzzed
def test_a_record_is_read_or_is_corrupt(changed: dict[str, Any]) -> None:
    try:
        record = Record.from_flat({**flat(RECORD.values()), **changed})
    except CorruptRecord as error:
        one_line(error)
        return
    with suppress(CorruptRecord):
        record.status(None)


def function(count: int, *rest: float, name: str = "", **more: list[bytes]) -> dict[str, int]:
    raise AssertionError


@given(bodies | json_values.map(lambda value: json.dumps({"args": [value], "kwargs": {"x": value}}).encode()))
@fuzzed
def test_a_payload_or_result_is_decoded_or_invalid(data: bytes) -> None:
    signature = Signature("fuzz.function", function)
    for decode in (decode_plain, lambda raw: decode_json(raw, "it"), signature.decode, signature.decode_result):
        with suppress(InvalidJob):
            decode(data)


@given(json_values, messages)
@fuzzed
def test_an_envelope_of_celery_contains_a_body_or_not(headers: Any, payload: Any) -> None:
    celery = pytest.importorskip("queueport_celery.messages")
    for found in (headers, {"task": celery.ENTRY, "id": "x"}):
        for content in (payload, [[payload], {}, {}], [payload, {}, {}], [[payload], payload, payload]):
            body = celery.body_of(SimpleNamespace(headers=found, payload=content))
            assert body is None or isinstance(body, bytes)


@given(bodies)
@fuzzed
def test_an_envelope_of_dramatiq_contains_a_body_or_not(body: bytes) -> None:
    dramatiq = pytest.importorskip("dramatiq")
    messages = pytest.importorskip("queueport_dramatiq.messages")
    try:
        message = dramatiq.Message.decode(body)
    except dramatiq.errors.DecodeError:
        return
    if messages.OPTION in message.options:
        with pytest.raises(NotAMessage):
            Message.parse(messages.body_of(message))

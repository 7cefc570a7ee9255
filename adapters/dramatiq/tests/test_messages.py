"""The messages that the driver of Dramatiq on Redis encodes itself are those that Dramatiq would decode and encode."""

from __future__ import annotations

import json
from typing import Any

import dramatiq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from queueport import task
from queueport.spi.message import Message
from queueport.spi.record import Record
from queueport.status import JobState
from queueport_dramatiq.messages import PAYLOAD, encode, translate

texts = st.text() | st.just(PAYLOAD.decode()) | st.sampled_from(["payload", '"', "\\", "\ud800"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts.filter(lambda text: "\ud800" not in text),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["payload", "args", "x"]), inner),
    max_leaves=6,
)


def message(args: list[Any], kwargs: dict[str, Any], headers: dict[str, str]) -> Message:
    payload = task.named("app.send").signature.encode(args, kwargs)
    return Message.of(Record("id", "app.s\u00e9nd", "q", payload, JobState.QUEUED, headers=headers), 5.25)


@given(
    st.lists(values, max_size=3),
    st.dictionaries(st.sampled_from(["payload", "k"]), values),
    st.dictionaries(texts, texts),
)
@example([{"x": 1, "payload": {"args": []}}], {}, {})
@example([], {}, {"x": PAYLOAD.decode(), "payload": PAYLOAD.decode()})
def test_an_encoded_message_is_the_one_that_dramatiq_would_encode(
    args: list[Any], kwargs: dict[str, Any], headers: dict[str, str]
) -> None:
    given_message = message(args, kwargs, headers)
    encoded = encode(given_message, "space.q", redis_message_id="id.1.1")
    assert encoded is not None
    translated = translate(given_message, "space.q", redis_message_id="id.1.1")
    assert dramatiq.Message.decode(encoded) == translated
    assert list(json.loads(encoded)) == list(json.loads(translated.encode()))


def test_a_message_is_left_to_the_encoder_of_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq.get_encoder", dramatiq.PickleEncoder)
    assert encode(message([1], {}, {}), "space.q") is None


def test_a_message_without_arguments_is_translated() -> None:
    shortened = Message("id", "app.send", "q", 1, 5.25, b'{"v":1,"id":"id","payload":null}')
    assert encode(shortened, "space.q") is None

"""Tests the entries of SQS batches: sizes are counted as AWS counts them, and batches stay within both limits."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from queueport.spi.message import Message
from queueport_sqs import entries

MESSAGE = Message(id="a-job", task="app.send", queue="default", life=1, sent_at=1.5, body=b'{"v":1}')


def test_the_size_of_a_message_is_its_utf8_bytes_and_its_attributes() -> None:
    entry = entries.job(replace(MESSAGE, body='"é€"'.encode()), fifo=False)
    attributes = "id" + "String" + "a-job" + "life" + "Number" + "1" + "task" + "String" + "app.send"
    assert entry.size == 2 + 2 + 3 + len(attributes)


def test_the_largest_attributes_fit_into_the_reserved_bytes() -> None:
    longest = replace(MESSAGE, id="x" * 64, task="é" * 1000, life=10**9, body=b"")
    assert entries.job(longest, fifo=False).size < entries.ATTRIBUTES
    error = {"type": "é" * 1000, "message": "\0" * 1000}
    dead = entries.buried(replace(longest, body=json.dumps({"error": error}).encode()), fifo=False)
    assert dead.size - len(dead.fields["MessageBody"].encode()) < entries.ATTRIBUTES


def test_attributes_contain_no_character_that_sqs_refuses() -> None:
    error = {"type": "E", "message": "a\0b\x1bc\ufffe\ud800é🎉"}
    fields = entries.buried(replace(MESSAGE, body=json.dumps({"error": error}).encode()), fifo=False).fields
    assert fields["MessageAttributes"]["error"]["StringValue"] == "E: a\ufffdb\ufffdc\ufffd\ufffdé🎉"


def test_characters_that_sqs_refuses_are_escaped_in_the_body() -> None:
    body = json.dumps("\ufffe\uffff\0", ensure_ascii=False).encode()
    text = entries.job(replace(MESSAGE, body=body), fifo=False).fields["MessageBody"]
    assert "\ufffe" not in text
    assert "\uffff" not in text
    assert json.loads(text) == "\ufffe\uffff\0"


@given(st.lists(st.integers(1, entries.LARGEST), max_size=40))
def test_a_batch_has_at_most_ten_messages_and_one_mebibyte(sizes: list[int]) -> None:
    made = entries.batches(sizes)
    assert [place for batch in made for place in batch] == list(range(len(sizes)))
    assert all(0 < len(batch) <= 10 for batch in made)
    assert all(sum(sizes[place] for place in batch) <= 2**20 for batch in made)


def _fifo(**changed: Any) -> dict[str, str]:
    fields = entries.job(replace(MESSAGE, **changed), fifo=True).fields
    return {name: fields[f"Message{name}Id"] for name in ("Group", "Deduplication")}


def test_each_send_has_its_own_deduplication_id_and_a_repeated_request_has_the_same() -> None:
    """SQS drops a message whose id it has seen in the last five minutes, so a retry needs another id."""
    made = [_fifo(), _fifo(life=2), _fifo(send=2), _fifo(sent_at=1.500001), _fifo(id="b-job")]
    ids = [fields["Deduplication"] for fields in made]
    assert len(set(ids)) == 5
    assert _fifo()["Deduplication"] == ids[0]
    assert len(_fifo(id="x" * 64, life=10**9, send=10**6, sent_at=2e10)["Deduplication"]) <= 128


def test_a_group_that_sqs_does_not_allow_is_hashed_and_a_job_without_one_gets_its_own() -> None:
    assert _fifo()["Group"] == "a-job"
    assert _fifo(group="customer:7")["Group"] == "customer:7"
    odd = [_fifo(group=group)["Group"] for group in ("Grüße", "a b", "x" * 129, "x" * 130, _fifo(group="a b")["Group"])]
    assert len(set(odd)) == 5
    assert all(len(group) <= 128 and group.isascii() and " " not in group for group in odd)


def test_a_dead_letter_has_its_own_group_and_a_new_deduplication_id() -> None:
    first, second = (entries.buried(replace(MESSAGE, group="g"), fifo=True).fields for _ in range(2))
    assert first["MessageGroupId"] == "a-job"
    assert first["MessageDeduplicationId"] != second["MessageDeduplicationId"]


def test_a_message_put_aside_keeps_its_body_and_attributes_and_is_marked_if_there_is_room() -> None:
    theirs = {"shop": {"DataType": "String", "StringValue": "x"}}
    entry = entries.aside("what?", theirs, fifo=False)
    assert entry.fields["MessageBody"] == "what?"
    assert {"shop", "aside"} == set(entry.fields["MessageAttributes"])
    full = {f"n{number}": theirs["shop"] for number in range(10)}
    assert entries.aside("what?", full, fifo=False).fields["MessageAttributes"] == full
    assert entries.aside("x" * 2**20, {}, fifo=False).size == 2**20

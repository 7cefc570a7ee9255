"""Messages as SQS takes them: entries of a batch, their size in its bytes, and batches within its limits."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from queueport.message import Message

__all__ = ["ATTRIBUTES", "BATCH", "ENVELOPE", "LARGEST", "Entry", "aside", "batches", "buried", "job"]

LARGEST = 2**20
"""Bytes of a message, and of all messages of a batch, body and attributes in UTF-8. "Amazon SQS message quotas"."""
BATCH = 10
"""Messages of a batch, and of one receive. "Amazon SQS message quotas", Batched message IDs."""
ATTRIBUTES = 2**11
"""Bytes kept free for the attributes, and for what a message may grow by when it is sent again."""
ENVELOPE = 2**12
"""Bytes kept free for what stands in a message beside the arguments: ids, names, a few headers."""
SHOWN = 256
"""Characters of a task's name and of an error in an attribute: the body has them whole."""
LONGEST_ID = 128
"""Characters of a FIFO message's group and deduplication id. "SendMessage", MessageGroupId."""
HASHED = "sha256."
"""Before the hash of a group that SQS does not take as it is."""
REFUSED = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that SQS takes in no body and no attribute. "SendMessage", MessageBody."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One message for a batch: `fields` as botocore takes them, and `size` as SQS counts it."""

    fields: Mapping[str, Any]
    size: int

    @classmethod
    def of(cls, body: str, attributes: Mapping[str, Any], **fields: str) -> Entry:
        """`attributes` as botocore takes them."""
        size = len(body.encode()) + sum(_size(name, value) for name, value in attributes.items())
        return cls({"MessageBody": body, "MessageAttributes": dict(attributes), **fields}, size)


def job(message: Message, *, fifo: bool) -> Entry:
    """A job on its way to a worker."""
    if not fifo:
        return Entry.of(text(message.body), _known(message))
    # Not the send number alone: it begins anew with each attempt, and SQS remembers an id for five minutes.
    once = f"{message.id}.{message.life}.{message.send}.{message.sent_at * 1e6:.0f}"
    group = message.id if message.group is None else _group(message.group)
    return Entry.of(text(message.body), _known(message), MessageGroupId=group, MessageDeduplicationId=once)


def buried(message: Message, *, fifo: bool) -> Entry:
    """The copy of a dead job, its error beside it."""
    body = text(message.body)
    error = json.loads(body).get("error") or {}
    shown = f"{error.get('type', 'unknown')}: {error.get('message', '')}"
    attributes = {**_known(message), "error": _attribute(shown)}
    return Entry.of(body, attributes, **_alone(message.id, fifo=fifo))


def aside(body: str, attributes: Mapping[str, Any], *, fifo: bool) -> Entry:
    """A message that is none of queueport's, as it came; marked, where there is room for a mark."""
    alone = _alone(secrets.token_hex(8), fifo=fifo)
    marked = Entry.of(body, {**attributes, "aside": _attribute("no job of this queue")}, **alone)
    fits = len(attributes) < 10 and marked.size <= LARGEST  # "Message attributes", at most ten
    return marked if fits else Entry.of(body, attributes, **alone)


def batches(sizes: Sequence[int]) -> list[list[int]]:
    """Places of entries of these sizes, in their order, such that each list of places is a batch that SQS takes."""
    made: list[list[int]] = []
    room = 0
    for place, size in enumerate(sizes):
        if not made or len(made[-1]) == BATCH or size > room:
            made.append([])
            room = LARGEST
        made[-1].append(place)
        room -= size
    return made


def text(body: bytes) -> str:
    """JSON as the text of a message. Of what SQS refuses, it may have U+FFFE and U+FFFF, and can escape them."""
    return body.decode().replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")


def _known(message: Message) -> dict[str, Any]:
    return {
        "id": _attribute(message.id),
        "life": {"DataType": "Number", "StringValue": str(message.life)},
        "task": _attribute(message.task),
    }


def _alone(name: str, *, fifo: bool) -> dict[str, str]:
    """In a FIFO queue of dead letters each is a group of its own, so that none hides another; and none is a repeat."""
    return {"MessageGroupId": name, "MessageDeduplicationId": secrets.token_hex(16)} if fifo else {}


def _group(group: str) -> str:
    """The group as SQS takes it: as it is, or its hash where it is too long or has other than ASCII's visible ones."""
    if len(group) <= LONGEST_ID and re.fullmatch(r"[!-~]+", group) and not group.startswith(HASHED):
        return group
    return HASHED + hashlib.sha256(group.encode()).hexdigest()


def _attribute(value: str) -> dict[str, str]:
    return {"DataType": "String", "StringValue": REFUSED.sub("\ufffd", value[:SHOWN])}


def _size(name: str, value: Mapping[str, Any]) -> int:
    content = value["BinaryValue"] if "BinaryValue" in value else value["StringValue"].encode()
    return len(name.encode()) + len(value["DataType"].encode()) + len(content)

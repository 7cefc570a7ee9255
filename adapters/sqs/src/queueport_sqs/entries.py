"""Messages as entries of SQS batches: their fields, their sizes as SQS counts them, and batches within its limits."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from queueport.spi.message import Message

__all__ = ["ATTRIBUTES", "BATCH", "ENVELOPE", "LARGEST", "Entry", "aside", "batches", "buried", "job"]

LARGEST = 2**20
"""Maximum bytes of a message, and also of a batch: bodies and attributes in UTF-8. See "Amazon SQS message quotas"."""
BATCH = 10
"""Maximum messages in a batch and in a receive. See "Batched message IDs" in "Amazon SQS message quotas"."""
ATTRIBUTES = 2**11
"""Bytes reserved for a message's attributes, and for growth: a message that is sent again may be longer than before."""
ENVELOPE = 2**12
"""Bytes reserved for the parts of a message other than the arguments: ids, names, a few headers."""
SHOWN = 256
"""Maximum characters of a text attribute, such as a task's name or an error; longer texts are cut. The body contains
the whole text, but less of the error if the message is a shortened dead-letter copy."""
LONGEST_ID = 128
"""Maximum characters of a FIFO message's group id, and of its deduplication id. See MessageGroupId in "SendMessage"."""
HASHED = "sha256."
"""The prefix of the hash that replaces a group's name if SQS does not allow the name or the name has this prefix."""
REFUSED = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Matches a character that SQS does not allow in a body or an attribute. See MessageBody in "SendMessage"."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of a batch: `fields` for botocore, and `size` in bytes as SQS counts it."""

    fields: Mapping[str, Any]
    size: int

    @classmethod
    def of(cls, body: str, attributes: Mapping[str, Any], **fields: str) -> Entry:
        """An entry with this body and these attributes, which are in botocore's form."""
        size = len(body.encode()) + sum(_size(name, value) for name, value in attributes.items())
        return cls({"MessageBody": body, "MessageAttributes": dict(attributes), **fields}, size)


def job(message: Message, *, fifo: bool) -> Entry:
    """The entry of a message that tells a worker that a job may be ready."""
    if not fifo:
        return Entry.of(text(message.body), _known(message))
    # SQS drops a message if another message with the same deduplication id was sent in the last five minutes. The time
    # of sending is a part of the id, because `send` begins at one again whenever the job is queued anew.
    once = f"{message.id}.{message.life}.{message.send}.{message.sent_at * 1e6:.0f}"
    group = message.id if message.group is None else _group(message.group)
    return Entry.of(text(message.body), _known(message), MessageGroupId=group, MessageDeduplicationId=once)


def buried(message: Message, *, fifo: bool) -> Entry:
    """The entry of a dead-letter copy, with the job's error, cut to SHOWN characters, as an attribute."""
    body = text(message.body)
    error = json.loads(body).get("error") or {}
    shown = f"{error.get('type', 'unknown')}: {error.get('message', '')}"
    attributes = {**_known(message), "error": _attribute(shown)}
    return Entry.of(body, attributes, **_alone(message.id, fifo=fifo))


def aside(body: str, attributes: Mapping[str, Any], *, fifo: bool) -> Entry:
    """The entry of a message that is put aside: unchanged, but with the attribute `aside` if SQS's limits allow it."""
    alone = _alone(secrets.token_hex(8), fifo=fifo)
    marked = Entry.of(body, {**attributes, "aside": _attribute("no job of this queue")}, **alone)
    fits = len(attributes) < 10 and marked.size <= LARGEST  # SQS allows ten attributes in a message
    return marked if fits else Entry.of(body, attributes, **alone)


def batches(sizes: Sequence[int]) -> list[list[int]]:
    """Split entries of these sizes into batches that SQS accepts. A batch is a list of positions in `sizes`.

    Keeps the order. No size may be more than LARGEST.
    """
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
    """The JSON of a message as text. SQS refuses U+FFFE and U+FFFF, so these are written as JSON escapes."""
    return body.decode().replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")


def _known(message: Message) -> dict[str, Any]:
    return {
        "id": _attribute(message.id),
        "life": {"DataType": "Number", "StringValue": str(message.life)},
        "task": _attribute(message.task),
    }


def _alone(name: str, *, fifo: bool) -> dict[str, str]:
    """The FIFO fields of a message in the dead letters: a new deduplication id, and the group `name`.

    Because each job and each message that is put aside has its own group, the message blocks no message of another job.
    Messages of standard queues have no such fields.
    """
    return {"MessageGroupId": name, "MessageDeduplicationId": secrets.token_hex(16)} if fifo else {}


def _group(group: str) -> str:
    """The group's name in SQS: the group itself, or its hash if SQS does not allow the group's length or characters.

    A group that begins with HASHED is replaced, too, so that it cannot equal the hash of another group.
    """
    if len(group) <= LONGEST_ID and re.fullmatch(r"[!-~]+", group) and not group.startswith(HASHED):
        return group
    return HASHED + hashlib.sha256(group.encode()).hexdigest()


def _attribute(value: str) -> dict[str, str]:
    return {"DataType": "String", "StringValue": REFUSED.sub("\ufffd", value[:SHOWN])}


def _size(name: str, value: Mapping[str, Any]) -> int:
    content = value["BinaryValue"] if "BinaryValue" in value else value["StringValue"].encode()
    return len(name.encode()) + len(value["DataType"].encode()) + len(content)

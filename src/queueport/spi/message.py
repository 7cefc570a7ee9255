"""Messages, which a backend carries to workers, and the outcomes of a publish. For adapters and the core.

A message contains the job's task, arguments and headers as JSON, so that the backend's own tools show something useful.
Workers run what the record says, not what the message says. `docs/protocol.md#the-message` documents the fields and
their use.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from operator import attrgetter
from typing import Any, NamedTuple, Self

from queueport.spi.record import Record
from queueport.spi.signing import SIGNATURE_SIZE, Signer

__all__ = ["MESSAGE_VERSION", "Depth", "Message", "NotAMessage", "SendOutcome", "SendResult", "by_queue"]

MESSAGE_VERSION = 1
SHORT = 1_000
"""A shortened dead-letter copy keeps at most this many characters from the start of its error's message, and at most as
many from the end of the traceback."""
LONGEST_TIME = 1234567890.1234567
"""A time whose JSON text is at least as long as that of any other time after 1970. `Message.size` uses it, because
`sent_at` is not known before the publish."""

HEAD = 512
"""More bytes than a message has for names, numbers and its signature: all except its texts and its payload."""
LONGEST_LETTER = 6
"""The maximum number of bytes of a letter in a message: a control character or a lone surrogate is escaped."""


class NotAMessage(ValueError):
    """The bytes are not a message that this release can read.

    The log line is "put aside a message that is", followed by the text of this error.
    """


@dataclass(frozen=True, slots=True)
class Message:
    """One message. An adapter must send `body` unchanged, and may use the other fields for headers of the backend.

    `priority` and `group` are those of the job. `send` is `Record.sends` + 1, so it counts from 1. `sent_at` is in
    seconds since the epoch, by the sender's estimate of the store's clock; for a dead-letter copy to bury, it is the
    time of the death. The body does not contain `group` and `send`, so a message from `parse` has their defaults.
    """

    id: str
    task: str
    queue: str
    life: int
    sent_at: float
    body: bytes
    priority: int = 0
    group: str | None = None
    send: int = 1
    buried: bool = False

    @classmethod
    def of(
        cls,
        record: Record,
        sent_at: float,
        *,
        buried: bool = False,
        limit: int | None = None,
        signer: Signer | None = None,
    ) -> Self:
        """Make the message of a record; with `buried`, its dead-letter copy. `signer` signs it.

        A copy whose body has more than `limit` bytes is shortened: its payload is null, its headers and the error's
        bases are empty, and the error's message and traceback are cut to SHORT characters each.
        """
        data = _head(record, sent_at)
        if buried:
            error = record.errors[-1].as_dict() if record.errors else None
            data.update(buried=True, error=error, failures=record.failures, crashes=record.crashes)
        if signer is not None:
            data["signature"] = signer.sign(
                (record.id, record.task, record.queue, record.life, float(sent_at), record.priority, buried)
            )
        body = _body(data, record.payload)
        if buried and limit is not None and len(body) > limit:
            if (error := data["error"]) is not None:
                short = {"message": error["message"][:SHORT], "traceback": error["traceback"][-SHORT:], "bases": []}
                data["error"] = {**error, **short}
            body = _body({**data, "headers": {}}, b"null")
        return cls(
            id=record.id,
            task=record.task,
            queue=record.queue,
            life=record.life,
            sent_at=sent_at,
            body=body,
            priority=record.priority,
            group=record.group,
            send=record.sends + 1,
            buried=buried,
        )

    @staticmethod
    def size(record: Record, signer: Signer | None = None) -> int:
        """The maximum size in bytes of the body of this record's message. Not for dead-letter copies.

        Does not copy the payload, and signs nothing.
        """
        head = _head(record, LONGEST_TIME)
        if signer is not None:
            head["signature"] = "0" * SIGNATURE_SIZE
        return len(_body(head, b"")) + len(record.payload)

    @staticmethod
    def largest_size(record: Record) -> int:
        """A number of bytes that `size` does not exceed. To compute it takes a fraction of the time of `size`."""
        letters = len(record.id) + len(record.task) + len(record.queue)
        for name, text in record.headers.items():
            letters += len(name) + len(text) + 1
        return HEAD + LONGEST_LETTER * letters + len(record.payload)

    @classmethod
    def parse(cls, body: bytes, signer: Signer | None = None) -> Self:
        """Read a delivered message. Raises NotAMessage if the bytes are not a message of this or an older version, or
        if `signer` does not accept its signature. Without a `signer`, a signature is ignored.
        """
        try:
            data = json.loads(body)
        except ValueError:
            raise NotAMessage("not JSON") from None
        except RecursionError:
            raise NotAMessage("nested too deeply") from None
        if not isinstance(data, dict) or not isinstance(data.get("v"), int):
            raise NotAMessage("not a queueport message")
        if data["v"] > MESSAGE_VERSION:
            raise NotAMessage(f"of version {data['v']}, newer than this worker's {MESSAGE_VERSION}; upgrade the worker")
        try:
            message = cls(
                id=_typed(data["id"], str),
                task=_typed(data["task"], str),
                queue=_typed(data["queue"], str),
                life=_typed(data["life"], int),
                sent_at=_time(data["sent_at"]),
                body=body,
                priority=_typed(data.get("priority", 0), int),
                buried=_typed(data.get("buried", False), bool),
            )
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise NotAMessage(f"of the wrong shape ({error!r})") from None
        if signer is not None:
            problem = signer.problem(_USED(message), data.get("signature"))
            if problem is not None:
                raise NotAMessage(problem)
        return message


_USED = attrgetter("id", "task", "queue", "life", "sent_at", "priority", "buried")
"""The values of the fields that a worker uses. A signature covers these."""


def _head(record: Record, sent_at: float) -> dict[str, Any]:
    """All fields of a message's body except the payload and the fields of dead-letter copies."""
    return {
        "v": MESSAGE_VERSION,
        "id": record.id,
        "task": record.task,
        "queue": record.queue,
        "life": record.life,
        "sent_at": sent_at,
        "priority": record.priority,
        "attempts": record.attempts,
        "headers": dict(record.headers),
    }


def by_queue(messages: Sequence[Message]) -> dict[str, list[int]]:
    """Map each queue to the positions of its messages, in ascending order. For adapters whose calls take one queue."""
    found: dict[str, list[int]] = {}
    for i, message in enumerate(messages):
        found.setdefault(message.queue, []).append(i)
    return found


_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _body(data: dict[str, Any], payload: bytes) -> bytes:
    head = _json(data).encode(errors="backslashreplace")  # UTF-8 cannot encode lone surrogates: escape them
    return head[:-1] + b',"payload":' + payload + b"}"


def _typed(value: Any, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r:.40} is not of type {kind}")
    return value


def _time(value: Any) -> float:
    time = float(_typed(value, (int, float)))  # raises OverflowError for an int that is larger than any float
    if not math.isfinite(time):  # the json module accepts NaN and Infinity
        raise ValueError(f"{time} is not a time")
    return time


class SendOutcome(Enum):
    """The outcome of sending one message or one dead-letter copy."""

    SENT = auto()
    """The backend has confirmed the message."""
    FAILED = auto()
    """The message certainly did not arrive, but sending it again may succeed: the backend is down or full, or an
    operator must first change a queue or a permission."""
    REFUSED = auto()
    """The message certainly did not arrive, and the backend will refuse it every time: it is too large, or the backend
    does not allow its content. A job that was already accepted then becomes dead. A job that is dead stays dead,
    without a copy in the backend."""
    UNKNOWN = auto()
    """The message may or may not have arrived."""


class SendResult(NamedTuple):
    """The outcome of sending one message or one dead-letter copy, and the error.

    `error` is None if the outcome is SENT, or if no exception explains another outcome. Otherwise, `error` is a
    BackendUnavailable that says what to do, usually with the client library's exception as its cause, or the client
    library's exception itself.
    """

    outcome: SendOutcome
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Depth:
    """The numbers of messages of one queue: `ready` wait for a worker; `in_flight` are delivered, but not acknowledged.

    `in_flight` is None if the backend does not report this number.
    """

    ready: int
    in_flight: int | None = None

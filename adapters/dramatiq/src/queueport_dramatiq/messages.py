"""Translates queueport's messages to Dramatiq's, and back. For the drivers and the middleware.

A message looks like a call of an actor, so that Dramatiq's own tools show the name of the task, the arguments and the
id of the job. queueport's workers read only the option `queueport`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import dramatiq

from queueport.spi.message import Message

__all__ = ["OPTION", "body_of", "encode", "encodes_json", "translate"]

OPTION = "queueport"


def translate(message: Message, queue: str, **options: str | int) -> dramatiq.Message[Any]:
    """Translate a message of queueport to one of Dramatiq. `queue` is Dramatiq's name of the queue.

    `options` are further options of the message.
    """
    envelope: dict[str, Any] = {**json.loads(message.body), "send": message.send}
    payload = envelope.pop("payload", None) or {"args": [], "kwargs": {}}  # the payload is null in a shortened copy
    return dramatiq.Message(
        queue_name=queue,
        actor_name=message.task,
        args=tuple(payload["args"]),
        kwargs=payload["kwargs"],
        options={OPTION: envelope, **options},
        message_id=message.id,
        message_timestamp=int(message.sent_at * 1000),
    )


def encode(message: Message, queue: str, **options: str | int) -> bytes | None:
    """Encode `translate(message, queue, **options)` without decoding the arguments. Letters are not escaped.

    Returns None if this is not possible, because the message has no arguments, or because `dramatiq.set_encoder` was
    called.
    """
    # No text contains an unescaped quotation mark, and no value before the payload is an object with a key "payload".
    envelope, found, arguments = message.body.partition(PAYLOAD)
    if not found or type(dramatiq.get_encoder()) is not dramatiq.JSONEncoder:
        return None
    names = {"queue_name": queue, "actor_name": message.task}
    ids: dict[str, str | int] = {"message_id": message.id, "message_timestamp": int(message.sent_at * 1000)}
    return b'%b,"args":[%b,"options":{"%b":%b,"send":%d},%b},%b' % (
        _json(names)[:-1],
        arguments[:-2],
        OPTION.encode(),
        envelope,
        message.send,
        _json(options)[1:-1],
        _json(ids)[1:],
    )


def _json(value: Mapping[str, str | int]) -> bytes:
    return _encode(value).encode()


_encode = json.JSONEncoder(separators=(",", ":")).encode
PAYLOAD = b',"payload":{"args":['
"""Separates the other fields of a message's body from its arguments; see `Message.of`."""


def body_of(message: dramatiq.Message[Any] | dramatiq.MessageProxy) -> bytes:
    """The body of the queueport message in a Dramatiq message, for `Message.parse`. The body contains no payload."""
    return json.dumps(message.options[OPTION]).encode()


def encodes_json() -> bool:
    """Whether this process's encoder for messages, which `dramatiq.set_encoder` can replace, can decode JSON."""
    probe: dramatiq.Message[Any] = dramatiq.Message("q", "a", args=(), kwargs={}, options={}, message_id="m")
    encoder = dramatiq.get_encoder()
    try:
        return bool(encoder.decode(dramatiq.JSONEncoder().encode(probe.asdict()))["message_id"] == "m")
    except Exception:  # noqa: BLE001  # an encoder may raise anything for bytes that it did not write
        return False

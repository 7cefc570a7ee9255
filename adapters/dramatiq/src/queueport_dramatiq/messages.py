"""queueport's messages as Dramatiq's, and back. For the links and for what runs jobs.

To Dramatiq's own tools a job looks as if its actor had been called: actor, arguments and message id are the task's
name, its arguments and the job's id. What queueport reads of it stands in the option `queueport`.
"""

from __future__ import annotations

import json
from typing import Any

import dramatiq

from queueport.message import Message

__all__ = ["OPTION", "body_of", "encodes_json", "translated"]

OPTION = "queueport"


def translated(message: Message, queue: str) -> dramatiq.Message[Any]:
    """That message as Dramatiq carries it; `queue` is Dramatiq's name of it."""
    envelope: dict[str, Any] = {**json.loads(message.body), "send": message.send}
    payload = envelope.pop("payload", None) or {"args": [], "kwargs": {}}  # a shortened dead letter has none
    return dramatiq.Message(
        queue_name=queue,
        actor_name=message.task,
        args=tuple(payload["args"]),
        kwargs=payload["kwargs"],
        options={OPTION: envelope},
        message_id=message.id,
        message_timestamp=int(message.sent_at * 1000),
    )


def body_of(message: dramatiq.Message[Any] | dramatiq.MessageProxy) -> bytes:
    """What `Message.parse` reads: only the record decides about the rest."""
    return json.dumps(message.options[OPTION]).encode()


def encodes_json() -> bool:
    """Whether Dramatiq's encoder in this process reads JSON, as that of the workers must."""
    probe: dramatiq.Message[Any] = dramatiq.Message(
        queue_name="q", actor_name="a", args=(), kwargs={}, options={}, message_id="m"
    )
    encoder = dramatiq.get_encoder()
    try:
        return bool(encoder.decode(dramatiq.JSONEncoder().encode(probe.asdict()))["message_id"] == "m")
    except Exception:  # noqa: BLE001  # an encoder may raise anything for what it did not write
        return False

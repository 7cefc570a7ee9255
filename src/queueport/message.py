"""What travels through a broker: the whole job as documented JSON, for human eyes and native tools.

Only the record decides, so a message is read for its id, its life and the time it was sent, and for nothing else:
`docs/concepts.md` documents the fields. For authors of adapters and of the core.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Self

from queueport.record import Record

__all__ = ["MESSAGE_VERSION", "Message", "NotAMessage"]

MESSAGE_VERSION = 1
SHORT = 1_000
"""Characters that a shortened copy keeps: of an error's message the first ones, of its traceback the last ones."""


class NotAMessage(ValueError):
    """These bytes are no message of queueport's, or of a newer version; the text says why."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `body` is what goes on the wire; the rest is what an adapter may want for its own headers.

    `priority` and `group` are the job's; `send` counts its publishings, so that (id, life, send) is new each time.
    `sent_at` is in seconds since the epoch, by the sender's reading of the store's clock.
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
    def of(cls, record: Record, sent_at: float, *, buried: bool = False, limit: int | None = None) -> Self:
        """The message for that record. A buried copy of more than `limit` bytes leaves out what is large."""
        data: dict[str, Any] = {
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
        if buried:
            error = record.errors[-1].as_dict() if record.errors else None
            data.update(buried=True, error=error, failures=record.failures, crashes=record.crashes)
        body = _body(data, record.payload)
        if buried and limit is not None and len(body) > limit:
            body = _body({**data, "error": _shortened(data["error"]), "headers": {}}, b"null")
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

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read what came off the wire. Raises NotAMessage for anything that is not ours, whatever it is."""
        try:
            data = json.loads(body)
        except ValueError:
            raise NotAMessage("not JSON") from None
        if not isinstance(data, dict) or not isinstance(data.get("v"), int):
            raise NotAMessage("not a message of queueport's")
        if data["v"] > MESSAGE_VERSION:
            raise NotAMessage(f"of version {data['v']}, newer than this worker's {MESSAGE_VERSION}; upgrade the worker")
        try:
            return cls(
                id=_typed(data["id"], str),
                task=_typed(data["task"], str),
                queue=_typed(data["queue"], str),
                life=_typed(data["life"], int),
                sent_at=float(_typed(data["sent_at"], (int, float))),
                body=body,
                priority=_typed(data.get("priority", 0), int),
                buried=_typed(data.get("buried", False), bool),
            )
        except (KeyError, TypeError) as error:
            raise NotAMessage(f"of the wrong shape ({error})") from None


def _body(data: dict[str, Any], payload: bytes) -> bytes:
    head = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
    return head[:-1] + b',"payload":' + payload + b"}"


def _shortened(error: dict[str, Any] | None) -> dict[str, Any] | None:
    if error is None:
        return None
    return {**error, "message": error["message"][:SHORT], "traceback": error["traceback"][-SHORT:]}


def _typed(value: Any, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r:.40} is no {kind}")
    return value

"""A job as a message of Celery's protocol, version 2, and back. For publisher, consumer and the tests.

https://docs.celeryq.dev/en/stable/internals/protocol.html: Celery's task is always `ENTRY`, whose one argument is
queueport's message; by `shadow` the tools show the job's own task. So no worker drops a task that it does not know.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from kombu import Message as Delivery
from kombu.exceptions import KombuError

from queueport.message import Message
from queueport_celery.names import PRIORITY_ZERO, Names

__all__ = ["ENTRY", "NODE", "Parcel", "aside", "body_of", "parcel"]

ENTRY = "queueport.job"
"""The one task that Celery knows of queueport's."""
NODE = "queueport_node"
"""The header in which a worker tells its pool's processes and threads its name."""
SHOWN = 1_000
"""Characters of the arguments that Celery's tools show, about as many as Celery itself shows."""
EMBED = b'{"callbacks":null,"errbacks":null,"chain":null,"chord":null}'


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is published: to which of the broker's queues, and how."""

    queue: str
    body: bytes
    headers: dict[str, Any]
    properties: dict[str, Any]


def parcel(message: Message, names: Names) -> Parcel:
    """The parcel that carries a message."""
    args, kwargs = _shown(message.body)
    headers = {
        "lang": "py",
        "task": ENTRY,
        "shadow": message.task,
        "id": message.id,
        "root_id": message.id,
        "parent_id": None,
        "group": None,
        "retries": 0,
        "eta": None,
        "expires": None,
        "timelimit": [None, None],
        "argsrepr": args,
        "kwargsrepr": kwargs,
        "origin": "queueport",
        "ignore_result": True,
    }
    properties: dict[str, Any] = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "correlation_id": message.id,
    }
    if names.prioritises:
        properties["priority"] = message.priority + PRIORITY_ZERO
    return Parcel(names.work(message.queue), b"[[%b],{},%b]" % (message.body, EMBED), headers, properties)


def aside(queue: str, names: Names, delivery: Delivery) -> Parcel:
    """What a delivery is kept as that is none of ours."""
    body: Any = delivery.body
    raw = body.encode() if isinstance(body, str) else bytes(body or b"")
    kept = {"content_type": delivery.content_type or "application/data", "content_encoding": delivery.content_encoding}
    return Parcel(names.aside(queue), raw, dict(delivery.headers or {}), {k: v for k, v in kept.items() if v})


def body_of(delivery: Delivery) -> bytes | None:
    """Queueport's message in what Celery received; None where it holds none, and Celery must not touch it."""
    headers: Any = delivery.headers
    if not isinstance(headers, dict) or headers.get("task") != ENTRY or not isinstance(headers.get("id"), str):
        return None
    try:
        payload = delivery.payload
    except (KombuError, ValueError, LookupError):  # undecodable, of a type that is not accepted, or of no known codec
        return None
    if not isinstance(payload, list) or len(payload) != 3:
        return None
    args, kwargs, embed = payload
    if not isinstance(args, list) or len(args) != 1 or kwargs != {} or not isinstance(embed, dict):
        return None
    if any(embed.values()):  # what is to be called afterwards is none of our sending
        return None
    return json.dumps(args[0]).encode()


def _shown(body: bytes) -> tuple[str, str]:
    """Arguments as Celery's tools show them."""
    if len(body) > 100 * SHOWN:
        return "(...)", "{...}"
    payload = json.loads(body)["payload"] or {}
    return repr(tuple(payload.get("args", ())))[:SHOWN], repr(payload.get("kwargs", {}))[:SHOWN]

"""Translates queueport's messages to messages of Celery, and back. For the driver, the workers and the tests.

A Celery message follows version 2 of Celery's protocol: https://docs.celeryq.dev/en/stable/internals/protocol.html. It
always names the task `ENTRY`, because a worker drops messages of tasks that it does not know. The task's one argument
is queueport's message. The header `shadow` makes Celery's tools show the name of the job's task.
"""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from kombu import Exchange
from kombu import Message as Delivery
from kombu.exceptions import KombuError

from queueport.job import HIGHEST_PRIORITY
from queueport.spi.message import Message
from queueport_celery.names import Names

__all__ = ["ENTRY", "JSON", "NODE", "OutgoingMessage", "aside", "body_of", "redis_command", "translate"]

ENTRY = "queueport.job"
"""The name of queueport's only Celery task. This Celery task runs the jobs of all tasks of queueport."""
NODE = "queueport_node"
"""The header in which a consumer passes the worker's node name to the processes and threads of its pool."""
JSON = {"content_type": "application/json", "content_encoding": "utf-8"}
SHOWN = 1_000
"""Maximum characters that Celery's tools show of a job's positional arguments, and of its keyword arguments. Celery's
own limit for each of the two texts is 1,024."""
EMBED = b'{"callbacks":null,"errbacks":null,"chain":null,"chord":null}'


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message for the broker. `queue` is the broker's name of its queue."""

    queue: str
    body: bytes
    headers: dict[str, Any]
    properties: dict[str, Any]


def translate(message: Message, names: Names) -> OutgoingMessage:
    """Translate a message of queueport to one of Celery."""
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
    properties: dict[str, Any] = {**JSON, "correlation_id": message.id}
    if names.prioritises:
        properties["priority"] = message.priority + HIGHEST_PRIORITY
    body = b"[[%b],{},%b]" % (message.body, EMBED)
    return OutgoingMessage(names.native(message.queue), body, headers, properties)


def redis_command(message: OutgoingMessage) -> list[bytes]:
    """The Redis command with which kombu would send this message."""
    kind, encoding = message.properties["content_type"], message.properties["content_encoding"]
    sent = {
        "body": b64encode(message.body).decode(),
        "content-encoding": encoding,
        "content-type": kind,
        "headers": message.headers,
        "properties": {
            "correlation_id": message.properties["correlation_id"],
            "delivery_mode": Exchange.PERSISTENT_DELIVERY_MODE,
            "delivery_info": {"exchange": "", "routing_key": message.queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid4()),
        },
    }
    return [b"LPUSH", message.queue.encode(), json.dumps(sent).encode()]


def aside(queue: str, names: Names, delivery: Delivery) -> OutgoingMessage:
    """Copy a delivered message for the `:aside` queue of `queue`: its body, headers, content type and encoding."""
    body: Any = delivery.body
    raw = body.encode() if isinstance(body, str) else bytes(body or b"")
    kept = {"content_type": delivery.content_type or "application/data", "content_encoding": delivery.content_encoding}
    headers, properties = dict(delivery.headers or {}), {k: v for k, v in kept.items() if v}
    return OutgoingMessage(names.aside(queue), raw, headers, properties)


def body_of(delivery: Delivery) -> bytes | None:
    """The message of queueport in a delivery, as JSON whose content is not checked.

    None if the delivery contains no readable message of queueport: then Celery must not get the delivery.
    """
    headers: Any = delivery.headers
    if not isinstance(headers, dict) or headers.get("task") != ENTRY or not isinstance(headers.get("id"), str):
        return None
    try:
        match delivery.payload:
            # queueport's messages have no keyword arguments and no callbacks
            case [[envelope], dict(kwargs), dict(embed)] if not kwargs and not any(embed.values()):
                return json.dumps(envelope).encode()
    # the body cannot be decoded or is nested too deeply, or its type or codec is not accepted
    except (KombuError, ValueError, LookupError, RecursionError):
        pass
    return None


def _shown(body: bytes) -> tuple[str, str]:
    """The positional and keyword arguments of a job, as text for Celery's tools: at most SHOWN characters each.

    If `body` has more than 100 * SHOWN bytes, it is not decoded, and the texts are only placeholders.
    """
    if len(body) > 100 * SHOWN:
        return "(...)", "{...}"
    payload = json.loads(body)["payload"] or {}
    return repr(tuple(payload.get("args", ())))[:SHOWN], repr(payload.get("kwargs", {}))[:SHOWN]

"""Damaged messages, for tests that feed a worker with them. For the contract suite and authors of adapters."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

__all__ = ["VALUES", "damaged"]

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 7, 2, 2**63, -(2**70), 10**400, 0.5, -1e308, float("nan"), float("inf")),
    *("", "0", "null", "x" * 5_000, "\x00", "\ud800", "\U0001f600\u202e", "../../etc/passwd", "'; DROP TABLE jobs; --"),
    *([], [[]], [None] * 50, ["a", 1, {}], {}, {"": {}}, {"__class__": "os.system"}, {"args": [], "kwargs": {}}),
    *("os.system", "__import__('os').system('true')", "builtins.eval", "queueport.testing.tasks.echo"),
    *("!!python/object/apply:os.system ['true']", "gASVFAAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAR0cnVllIWUUpQu"),
)
"""Values that a field of a message, a record or a form may have after damage or by malice."""


def damaged(chance: random.Random, message: dict[str, Any]) -> bytes:
    """A damaged copy of a message, or bytes that are no message at all. Never empty.

    `message` must name a job that does not exist: the copy may still be a valid message of that job.
    """
    change = chance.choice(_CHANGES)
    return change(chance, message) or b"0"


def _fields(chance: random.Random, message: dict[str, Any]) -> bytes:
    """Some fields have another value, are missing, or are additional."""
    changed = dict(message)
    for _ in range(chance.randint(1, 3)):
        name = chance.choice([*message, "buried", "error", "headers", "signature", "new"])
        if chance.random() < 0.2:
            changed.pop(name, None)
        elif name != "id":  # the id must not become that of another job
            changed[name] = chance.choice(VALUES)
    return json.dumps(changed).encode()


def _bytes(chance: random.Random, message: dict[str, Any]) -> bytes:
    """Some bytes have changed, except those of the id."""
    body = bytearray(json.dumps(message).encode())
    for _ in range(chance.randint(1, 20)):
        body[chance.randrange(len(body))] = chance.randrange(256)
    return bytes(body)


def _part(chance: random.Random, message: dict[str, Any]) -> bytes:
    """A part of the message, or the message several times."""
    body = json.dumps(message).encode()
    start, end = sorted(chance.choices(range(len(body) + 1), k=2))
    return chance.choice([body[start:end], body[:end], body * 2, body + body[start:], body + b"\x00"])


def _value(chance: random.Random, message: dict[str, Any]) -> bytes:
    """JSON that is not an object, or an object within something else."""
    return json.dumps(chance.choice([*VALUES, [message], {"message": message}, json.dumps(message)])).encode()


def _noise(chance: random.Random, _: dict[str, Any]) -> bytes:
    """Random bytes, or deep nesting."""
    depth = chance.choice([0, 0, 0, 100, 50_000])
    return b"[" * depth + chance.randbytes(chance.randint(1, 500)) + b"]" * depth


_CHANGES: tuple[Callable[[random.Random, dict[str, Any]], bytes], ...] = (
    _fields,
    _fields,
    _bytes,
    _part,
    _value,
    _noise,
)

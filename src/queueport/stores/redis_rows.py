"""Records as the Redis store writes and reads them. For readers of the store.

A field that has its default is not there; None is the default of every field that can be None.
"""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from typing import Any

from queueport.record import Change, Flat, Record, flat
from queueport.store import Beat, Insert

__all__ = ["beat_arguments", "change_arguments", "encoded", "fields", "insert_arguments"]

_DEFAULTS: dict[str, Any] = {
    field.name: {} if field.default_factory is dict else field.default for field in dataclasses.fields(Record)
}
_DEFAULTS["v"] = None  # always written
_values = attrgetter(*_DEFAULTS)


def insert_arguments(insert: Insert) -> list[bytes]:
    """A new record's id and change, and what goes along."""
    record, change = insert.record, insert.change
    given = zip(_DEFAULTS.items(), _values(record), strict=True)
    values = {name: value for (name, default), value in given if value != default}
    values.update(change.set)
    values["rev"] = insert.rev
    del values["id"]
    along = [argument for command in insert.along for argument in (b"%d" % len(command), *command)]
    return [record.id.encode(), *_arguments(values, change, new=True), b"%d" % len(insert.along), *along]


def change_arguments(change: Change, rev: str) -> list[bytes]:
    """A change of a record that is there."""
    if change.delete:
        return [b"delete", b"%d" % change.processed, b"%d" % change.failed]
    return _arguments({**change.set, "rev": rev}, change, new=False)


def beat_arguments(beat: Beat) -> list[bytes]:
    """What a heartbeat sets."""
    return change_arguments(Change(beat.values, {"wake_at": beat.lease}), beat.rev)


def _arguments(values: dict[str, Any], change: Change, *, new: bool) -> list[bytes]:
    """The shape, the two counters, the values; see `change` in the scripts."""
    names, arguments, cleared = [], [], []
    if "errors" in values:
        errors = values["errors"]
        values["error"] = errors[-1].type if errors else None
    for name, value in values.items():
        if name in change.stamp:
            continue
        if value is None or (name in _DEFAULTS and value == _DEFAULTS[name]):
            cleared.append(name)
        else:
            names.append(name)
            arguments.append(encoded(value if name == "error" else flat({name: value})[name]))
    parts = (names, change.stamp, () if new else cleared)
    shape = "|".join([" ".join(part) for part in parts]).encode()
    stamps = [encoded(seconds) for seconds in change.stamp.values()]
    return [shape, b"%d" % change.processed, b"%d" % change.failed, *arguments, *stamps]


def encoded(value: Flat) -> bytes:
    """A flat value as bytes; `Record.from_flat` reads it back. A float loses nothing."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, float):
        return repr(value).encode()
    return b"" if value is None else str(value).encode()


def fields(packed: bytes) -> dict[str, bytes]:
    """The fields of a record as a script answers it: a MessagePack map of strings.

    https://github.com/msgpack/msgpack/blob/master/spec.md
    """
    number, at = (packed[0] & 0x0F, 1) if packed[0] < 0x90 else (int.from_bytes(packed[1:3], "big"), 3)
    pieces: list[bytes] = []
    for _ in range(2 * number):
        kind = packed[at]
        if kind < 0xC0:
            size, at = kind & 0x1F, at + 1
        else:
            width = 1 << (kind - 0xD9)  # 1, 2 or 4 bytes hold the length
            size, at = int.from_bytes(packed[at + 1 : at + 1 + width], "big"), at + 1 + width
        pieces.append(packed[at : at + size])
        at += size
    return {name.decode("latin-1"): value for name, value in zip(pieces[::2], pieces[1::2], strict=True)}

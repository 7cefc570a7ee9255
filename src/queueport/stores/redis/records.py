"""Encodes the arguments of the Redis store's scripts, and decodes their answers. For the Redis store.

A field with its default value is not stored, except `v`. None is therefore never stored: it is the default of each
field that can be None.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple, Self

from queueport.spi import storage
from queueport.spi.history import HOUR, KEEP_MINUTES, MINUTE, HistoryCounts, HistoryQuery, gathered
from queueport.spi.record import Change, Flat, OfChange, Record, flat_value
from queueport.spi.storage import (
    Tally,
    given_names_and_values,
    is_default,
    newest_error,
    readable_workers,
    reading,
    worker_stats,
)
from queueport.spi.store import Begin, Document, Insert, Query, Replacement, StartLimit, StoreStats
from queueport.stats import WorkerStats

__all__ = [
    "batches",
    "begin_arguments",
    "change_arguments",
    "document",
    "encoded",
    "fields",
    "history",
    "history_arguments",
    "insert_arguments",
    "inserts_arguments",
    "pairs",
    "query_arguments",
    "record",
    "stats",
    "text_of",
    "workers",
]

BATCH = 200
"""The maximum number of items in one batch. A script runs once for each batch, so that a run blocks other clients only
for a few milliseconds."""
BINARY = ("payload", "result")
"""The fields that a record has as bytes, in the order in which an answer contains them after the JSON."""
RELEASE = {False: b"||release", True: b"||||release"}
"""The end of the layout of a change that releases jobs, by whether the change deletes the record."""
BATCH_SIZE = 2**20
"""A batch ends after the item with which it exceeds this number of bytes. By default, a server buffers at most 1 GiB of
a client's commands (`client-query-buffer-limit`).
"""
SPAN = 120
"""The maximum number of minutes, or of hours, of the history that one run of a script reads."""


class _FirstChange(NamedTuple):
    """The arguments of the first change of new jobs, without the rev."""

    touched: frozenset[str]
    """The fields that the change sets."""
    names: tuple[str, ...]
    stamped: tuple[str, ...]
    counts: list[bytes]
    values: list[bytes]
    """The values of `names`."""
    stamps: list[bytes]

    @classmethod
    def of(cls, change: Change) -> Self:
        values = dict(change.set)
        if "errors" in values:
            values["error"] = newest_error(values["errors"])
        given = {n: v for n, v in values.items() if n not in change.stamp and v is not None and not is_default(n, v)}
        return cls(
            frozenset((*change.set, *change.stamp, "id", "rev")),
            tuple(given),
            tuple(change.stamp),
            [b"%d" % change.processed, b"%d" % change.failed],
            [_encoded_field(name, value) for name, value in given.items()],
            [encoded(seconds) for seconds in change.stamp.values()],
        )


_first_change = OfChange(_FirstChange.of)


def inserts_arguments(inserts: Sequence[Insert]) -> list[list[bytes]]:
    """The arguments of each insert. Most inserts of a call share their change, which is encoded only once."""
    changes = {id(insert.change): insert.change for insert in inserts}
    first = {key: _first_change(change) for key, change in changes.items()}
    return [insert_arguments(insert, first[id(insert.change)]) for insert in inserts]


def insert_arguments(insert: Insert, first: _FirstChange | None = None) -> list[bytes]:
    """The arguments of one insert: the id, the change, the commands that the script must run in the same step, and the
    changes of `Insert.replace`. `first` is the encoded change, if the caller has it.
    """
    if first is None:
        first = _first_change(insert.change)
    names, values = given_names_and_values(insert.record)
    layout, own = _insert_layout(names, first.touched, first.names, first.stamped)
    found = [_encoded_field(name, values[position]) for position, name in own]
    change = [layout, *first.counts, *found, *first.values, insert.rev.encode(), *first.stamps]
    commands = [argument for command in insert.commands for argument in (b"%d" % len(command), *command)]
    if insert.replace is not None:
        change[0] += b"|replace"
        commands += _replacement_arguments(insert.replace, insert.rev)
    return [insert.record.id.encode(), *change, b"%d" % len(insert.commands), *commands]


def begin_arguments(begin: Begin) -> list[bytes]:
    """The arguments of one begin, in the order in which begin.lua reads them."""
    change = [begin.id.encode(), begin.task.encode(), *change_arguments(begin.change, begin.rev)]
    if not begin.limits:
        return [*change, b"0"]
    limits = [argument for limit in begin.limits for argument in _limit_arguments(limit)]
    held = change_arguments(begin.hold, begin.rev)
    return [*change, b"%d" % len(begin.limits), *limits, begin.queue.encode(), *held]


def _limit_arguments(limit: StartLimit) -> list[bytes]:
    numbers = (limit.concurrency, limit.rate, limit.burst, int(limit.keyed))
    return [limit.name.encode(), *(encoded(number) for number in numbers)]


def _replacement_arguments(replacement: Replacement, rev: str) -> list[bytes]:
    """The arguments that prelude.lua reads with `replacement_argument`."""
    found = [*change_arguments(replacement.waiting, rev), *change_arguments(replacement.running, rev)]
    return [*found, b"0"] if replacement.sent is None else [*found, b"1", *change_arguments(replacement.sent, rev)]


def change_arguments(change: Change, rev: str, job_id: str = "") -> list[bytes]:
    """The arguments of a change of an existing record, in the order in which prelude.lua reads them.

    `job_id` is the id of the job; needed only if the change releases other jobs.
    """
    if change.delete:
        found = [b"delete", b"%d" % change.processed, b"%d" % change.failed]
    else:
        found = _change_arguments({**change.set, "rev": rev}, change)
    return found if not change.releases else [found[0] + RELEASE[change.delete], *found[1:], *_releases(change, job_id)]


def _releases(change: Change, job_id: str) -> list[bytes]:
    """The arguments of the releases of a change, of which each ends with the change of the waiting job."""
    found = [b"%d" % len(change.releases)]
    for one in change.releases:
        after = (one.after or "").encode()
        found += [one.id.encode(), b"%d" % one.all, after, *change_arguments(Change(one.set), job_id)]
    return found


def _change_arguments(values: dict[str, Any], change: Change) -> list[bytes]:
    names, arguments, cleared = [], [], []
    stamp = change.stamp
    if "errors" in values:
        values["error"] = newest_error(values["errors"])
    for name, value in values.items():
        if name in stamp:
            continue
        if value is None or is_default(name, value):
            cleared.append(name)
        else:
            names.append(name)
            arguments.append(_encoded_field(name, value))
    layout = _layout(tuple(names), tuple(stamp), tuple(cleared))
    stamps = [encoded(seconds) for seconds in stamp.values()]
    return [layout, b"%d" % change.processed, b"%d" % change.failed, *arguments, *stamps]


@lru_cache
def _insert_layout(
    given: tuple[str, ...], touched: frozenset[str], names: tuple[str, ...], stamped: tuple[str, ...]
) -> tuple[bytes, list[tuple[int, str]]]:
    """The layout of an insert, and the fields that the record itself gives: the position of each in `given`, and its
    name.
    """
    own = [(position, name) for position, name in enumerate(given) if name not in touched]
    return _layout((*(name for _, name in own), *names, "rev"), stamped, ()), own


def _encoded_field(name: str, value: Any) -> bytes:
    return value.encode() if type(value) is str else encoded(flat_value(name, value))


@lru_cache
def _layout(*names: tuple[str, ...]) -> bytes:
    return "|".join(" ".join(some) for some in names).encode()


def query_arguments(query: Query) -> list[bytes]:
    """The conditions of a query, in the order in which prelude.lua reads them. The argument of one not given is
    empty.
    """
    times = [None if time is None else float(time) for time in (query.finished_before, query.since, query.until)]
    state = query.state and query.state.value
    return [
        encoded(value)
        for value in (state, query.queue, query.task, query.error, query.key, query.tag, query.text, *times)
    ]


def encoded(value: Flat) -> bytes:
    """Convert a flat value to bytes, from which `Record.from_flat` reads the same value.

    None becomes empty bytes, which in a query stand for a condition that is not given. A field with None is not stored.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, float):
        return repr(value).encode()
    if isinstance(value, str):  # for a member of an Enum, such as a status of RQ, `str` returns its name
        return value.encode()
    return b"" if value is None else str(value).encode()


def batches(items: Sequence[list[bytes]]) -> Iterator[list[bytes]]:
    """Join the arguments of items into batches. Each batch begins with the number of its items."""
    start = size = 0
    for number, item in enumerate(items):
        if number > start and (number - start == BATCH or size > BATCH_SIZE):
            yield _joined(items[start:number])
            start, size = number, 0
        size += sum(map(len, item))
    if items:
        yield _joined(items[start:])


def _joined(items: Sequence[list[bytes]]) -> list[bytes]:
    return [b"%d" % len(items), *chain.from_iterable(items)]


def fields(packed: bytes) -> dict[str, Any]:
    """Decode a record that `packed` in prelude.lua has encoded. Returns the fields, with `id`, by name.

    A value may contain any bytes, and the script copies them unchanged. So the JSON is read as Latin-1, in which each
    byte is one character. A value that is not ASCII, and each value that a record has as bytes, is returned as bytes.
    """
    head, _, values = packed.partition(b"\0")
    found: dict[str, Any] = json.loads(head.decode("latin-1"), strict=False)
    at = 0
    for name in BINARY:
        if name in found:
            size = found[name]
            found[name] = values[at : at + size]
            at += size
    for name, value in found.items():
        if name not in BINARY and not value.isascii():
            found[name] = value.encode("latin-1")
    return found


def record(packed: bytes) -> Record:
    """Decode a record in the answer of a script. Raises CorruptRecord, which names the job, if this is not possible."""
    values = fields(packed)
    with reading(text_of(values["id"])):
        return Record.from_flat(values)


def text_of(value: str | bytes) -> str:
    """The text of a value that `fields` returned. Bytes that are not valid UTF-8 are replaced."""
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def pairs(answer: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Split an answer of the form [name, value, name, value, ...] into pairs."""
    return zip(answer[::2], answer[1::2], strict=True)


def _named(answer: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    return ((name.decode(), value) for name, value in pairs(answer))


def document(kind: str, name: bytes, text: bytes) -> Document:
    """Decode a document in the answer of documents.lua. Raises CorruptRecord."""
    rev, _, value = text.partition(b" ")
    return storage.document(kind, text_of(name), text_of(rev), value)


def stats(answer: Sequence[Any]) -> StoreStats:
    """Decode the answer of stats.lua."""
    now, processed, failed, queues, counts, heads = answer
    tally = Tally(queue.decode() for queue in queues)
    for index, n in _named(counts):
        kind, _, rest = index.partition(":")
        if kind == "queued":
            queue, _, priority = rest.rpartition(":")
            tally.add(queue, int(priority), kind, int(n))
        elif kind == "listed":
            state, queue, _ = rest.split(":", 2)
            if state != "queued" and queue in tally.states:
                tally.add(queue, 0, state, int(n))
    oldest: dict[str, float] = {}
    for index, at in _named(heads):
        queue = index.split(":")[1]
        oldest[queue] = min(float(at), oldest.get(queue, math.inf))
    known = {queue: at for queue, at in oldest.items() if at != math.inf}
    return StoreStats(float(now), tally.counts(known), int(processed), int(failed))


def history_arguments(query: HistoryQuery, now: float) -> list[list[bytes]]:
    """The arguments of history.lua for consecutive spans of time. Each span is so short that its script does not block
    the server for long: it has at most SPAN minutes or hours, as soon as older minutes are folded.
    """
    wanted = [encoded(query.queue), encoded(query.task), b"1" if query.by_task else b"0"]
    rest = [b"%d" % query.since, b"%d" % query.step, *wanted]
    spans, start = [], query.since
    while start < query.until:
        folded = start + SPAN * HOUR <= now - KEEP_MINUTES - HOUR
        end = min(query.until, start + SPAN * (HOUR if folded else MINUTE))
        spans.append([b"%d" % start, b"%d" % end, *rest])
        start = end
    return spans


def history(answers: Sequence[Sequence[Any]]) -> list[HistoryCounts]:
    """Decode the answers of history.lua."""
    return gathered(
        ((int(at), (queue.decode(), task.decode())), zip(names[::2], map(int, names[1::2]), strict=True))
        for answer in answers
        for at, queue, task, numbers in zip(*(iter(answer),) * 4, strict=True)
        for names in (numbers.decode().split(" "),)
    )


def workers(answer: Sequence[bytes]) -> list[WorkerStats]:
    """Decode the answer of workers.lua; returns the workers sorted by name."""

    def read(pair: tuple[Any, Any]) -> WorkerStats:
        name, value = pair
        seen, _, details = value.partition(b" ")
        queues, tasks = json.loads(details)
        return worker_stats(name.decode(), queues, tasks, float(seen))

    return readable_workers(pairs(answer), read)

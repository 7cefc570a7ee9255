"""Mutants of backends that carry messages: broken verbs of transports and of their stores."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from queueport.spi.message import Depth, Message, SendOutcome, SendResult
from queueport.spi.record import Change
from queueport.spi.store import Begin, Query, Swap, WriteOutcome, WriteResult
from queueport.spi.transport import Delivery
from queueport.status import JobState
from tests.mutants.mutant import CARRYING, SPOOL, WIRE, Verb, breaks


@breaks("transport.ack", "X3_a_message_delivered", on=CARRYING)
def acknowledging_does_nothing(ack: Verb, deliveries: Sequence[Delivery]) -> None:
    pass


@breaks("transport.send", "E1_headers", on=WIRE)
def a_message_is_never_sent(send: Verb, queue: str, messages: Sequence[Message]) -> Any:
    return [SendResult(SendOutcome.SENT)] * len(messages)


@breaks("transport.send", "E1_headers", on=WIRE)
def a_sent_message_is_reported_as_failed(send: Verb, queue: str, messages: Sequence[Message]) -> Any:
    return [SendResult(SendOutcome.FAILED) for _ in send(queue, messages)]


@breaks("transport.send", "W1", on=WIRE)
def every_message_goes_to_one_queue(send: Verb, queue: str, messages: Sequence[Message]) -> Any:
    return send("default", messages)


@breaks("transport.depth", "M1_depth", on=WIRE)
def every_queue_looks_empty(depth: Verb, queue: str) -> Any:
    return Depth(0)


@breaks("transport.bury", "D7_a_dead", on=WIRE)
def nothing_is_buried(bury: Verb, messages: Sequence[Message]) -> None:
    pass


@breaks("transport.unbury", "D7_a_dead", on=WIRE)
def nothing_is_unburied(unbury: Verb, messages: Sequence[Message]) -> None:
    pass


@breaks("transport.put_aside", "D6", on=WIRE)
def put_aside_does_nothing(put_aside: Verb, delivery: Delivery) -> None:
    pass


@breaks("transport.send", "H7_forged", on=WIRE)
def a_message_loses_its_signature(send: Verb, queue: str, messages: Sequence[Message]) -> Any:
    bodies = [{k: v for k, v in json.loads(message.body).items() if k != "signature"} for message in messages]
    return send(queue, [replace(m, body=json.dumps(b).encode()) for m, b in zip(messages, bodies, strict=True)])


@breaks("store.begin", "X3_a_message_delivered", on=CARRYING)
def begin_always_succeeds(begin: Verb, begins: Sequence[Begin]) -> Any:
    return [_forced(begin, one) for one in begins]


@breaks("store.begin", "S4_an_expired", on=WIRE)
def an_expired_job_can_be_begun(begin: Verb, begins: Sequence[Begin]) -> Any:
    def forced(one: Begin) -> WriteResult:
        (record,) = begin.__self__.get([one.id])
        return _forced(begin, one) if record is not None and record.expires_at is not None else next(iter(begin([one])))

    return [forced(one) for one in begins]


@breaks("store.begin", "H5_a_message", on=CARRYING)
def begin_ignores_the_task(begin: Verb, begins: Sequence[Begin]) -> Any:
    records = begin.__self__.get([one.id for one in begins])
    tasks = [one.task if record is None else record.task for one, record in zip(begins, records, strict=True)]
    return begin([replace(one, task=task) for one, task in zip(begins, tasks, strict=True)])


def _forced(begin: Verb, one: Begin) -> WriteResult:
    store = begin.__self__
    written: WriteResult = next(iter(begin([one])))
    if written.applied or written.record is None:
        return written
    change = replace(one.change, set={**one.change.set, "attempts": written.record.attempts + 1})
    forced: WriteResult = next(iter(store.swap([Swap(one.id, written.record.rev, change, one.rev)])))
    return forced


@breaks("store.swap", "X3_a_message_of", on=CARRYING)
def a_mark_ignores_the_rev(swap: Verb, swaps: Sequence[Swap]) -> Any:
    """The mark also waits up to 0.5 s for the job to end, and then removes the job's `wake_at` in any state."""
    store = swap.__self__

    def written(one: Swap) -> Any:
        if not _marks(one.change):
            return next(iter(swap([one])))
        deadline = time.monotonic() + 0.5
        while (record := store.get([one.id])[0]) is not None and not record.state.final and time.monotonic() < deadline:
            time.sleep(0.01)
        return (
            WriteResult(WriteOutcome.REFUSED, None) if record is None else swap([replace(one, expected=record.rev)])[0]
        )

    return [written(one) for one in swaps]


def _marks(change: Change) -> bool:
    return change.set.get("sent") is True and "state" not in change.set


@breaks("transport.receive", "X11", on=SPOOL)
def the_fetched_messages_of_a_killed_worker_are_gone(
    receive: Verb, queues: Sequence[str], limit: int, wait: float
) -> Any:
    deliveries: Sequence[Delivery] = receive(queues, limit, wait)
    for delivery in deliveries:
        Path(delivery.receipt.name).unlink()
    return deliveries


@breaks("store.documents", "W12_a_paused", on=WIRE)
def pauses_are_not_seen(documents: Verb, kind: str) -> Any:
    return []


@breaks("store.find", "W12_a_paused", on=WIRE)
def resting_jobs_are_not_woken(find: Verb, query: Query) -> Any:
    return [] if query.state is JobState.QUEUED else find(query)

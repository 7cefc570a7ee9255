"""Mutants of backends with messages: transports, and stores under them, that do not keep their word."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from queueport.driver import Depth, SendOutcome, Sent
from queueport.message import Message
from queueport.record import Change
from queueport.store import Begin, Outcome, Swap, Written
from queueport.transport import Delivery
from tests.mutants.mutant import CARRYING, WIRE, Verb, breaks


@breaks("transport.ack", "X3_a_message_that", on=CARRYING)
def acknowledging_does_nothing(ack: Verb, deliveries: Sequence[Delivery]) -> None:
    pass


@breaks("transport.send", "E1_headers", on=WIRE)
def a_message_is_never_sent(send: Verb, queue: str, messages: Sequence[Message]) -> Any:
    return [Sent(SendOutcome.SENT)] * len(messages)


@breaks("transport.send", "E1_headers", on=WIRE)
def what_was_sent_is_said_to_have_failed(send: Verb, queue: str, messages: Sequence[Message]) -> Any:
    return [Sent(SendOutcome.FAILED) for _ in send(queue, messages)]


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
def nothing_is_taken_out_again(unbury: Verb, messages: Sequence[Message]) -> None:
    pass


@breaks("transport.put_aside", "D6", on=WIRE)
def garbage_stays_where_it_was(put_aside: Verb, delivery: Delivery) -> None:
    pass


@breaks("store.begin", "X3_a_message_that", on=CARRYING)
def begin_always_wins(begin: Verb, begins: Sequence[Begin]) -> Any:
    return [_forced(begin, one) for one in begins]


@breaks("store.begin", "S4_what_expired", on=WIRE)
def an_expired_job_may_begin(begin: Verb, begins: Sequence[Begin]) -> Any:
    def forced(one: Begin) -> Written:
        (record,) = begin.__self__.get([one.id])
        return _forced(begin, one) if record is not None and record.expires_at is not None else next(iter(begin([one])))

    return [forced(one) for one in begins]


def _forced(begin: Verb, one: Begin) -> Written:
    store = begin.__self__
    written: Written = next(iter(begin([one])))
    if written.applied or written.record is None:
        return written
    change = replace(one.change, set={**one.change.set, "attempts": written.record.attempts + 1})
    forced: Written = next(iter(store.swap([Swap(one.id, written.record.rev, change, one.rev)])))
    return forced


@breaks("store.swap", "X3_a_message_of", on=CARRYING)
def a_mark_is_applied_blindly(swap: Verb, swaps: Sequence[Swap]) -> Any:
    """Late, too, as marks may be: whatever has become of the job, it is sent, and nothing wakes it."""
    store = swap.__self__

    def written(one: Swap) -> Any:
        if not _marks(one.change):
            return next(iter(swap([one])))
        deadline = time.monotonic() + 0.5
        while (record := store.get([one.id])[0]) is not None and not record.state.final and time.monotonic() < deadline:
            time.sleep(0.01)
        return Written(Outcome.REFUSED, None) if record is None else swap([replace(one, expected=record.rev)])[0]

    return [written(one) for one in swaps]


def _marks(change: Change) -> bool:
    return change.set.get("sent") is True and "state" not in change.set

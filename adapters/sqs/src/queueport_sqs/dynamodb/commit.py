"""Conditional writes to DynamoDB, many in one transaction together with their counts. For readers of the store.

A write that only updates a job, and changes no count and no key, is a single update, at half the price. Any other write
is part of a transaction. If DynamoDB cancels a transaction, the transaction is repeated without the writes whose
conditions failed.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from queueport.errors import BackendUnavailable
from queueport.spi.history import Counted, nothing
from queueport.spi.record import Record
from queueport_sqs.client import THROTTLED, refused_for_certain, unavailable
from queueport_sqs.dynamodb.connection import Deadline, Table
from queueport_sqs.dynamodb.history import History
from queueport_sqs.dynamodb.records import Item, Names, attributes, expiry, labels, value
from queueport_sqs.dynamodb.stats import Counts, Delta

__all__ = ["Action", "Commit", "Failed", "Write"]

ACTIONS = 100
"""Maximum actions of a transaction:
https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html"""
BYTES = 3 * 2**20
"""Maximum size of a transaction's items, in bytes. DynamoDB allows 4 MB; the rest is for keys and counts."""
NEVER = "attribute_exists(pk) AND attribute_not_exists(pk)"
"""A condition that never holds."""
CONFLICT = "TransactionConflict"
BUSY = frozenset({"ThrottlingError", "ProvisionedThroughputExceeded", *THROTTLED})

Action = dict[str, Any]
"""One part of a transaction: {"Put" | "Update" | "Delete": its parameters}."""


@dataclass(frozen=True, slots=True)
class Write:
    """The actions that write one job. The first action adds, updates or deletes the job's item.

    The other actions write or delete the item of the job's key, or store a copy of the item of a job that is put aside.
    """

    id: str
    actions: Sequence[Action]
    counts: Delta = field(default_factory=Delta)
    counted: Counted = field(default_factory=nothing)
    solo: bool = False
    """Whether the write needs a transaction of its own, because other writes may have an action on the same item."""
    bytes: int = 0
    """The approximate size of the job's new item; 0 if the job is removed or put aside."""

    @property
    def alone(self) -> bool:
        """Whether a single update is enough, without a transaction."""
        counts = any(self.counts.values()) or self.counted
        return len(self.actions) == 1 and not counts and "Update" in self.actions[0]


@dataclass(frozen=True, slots=True)
class Failed:
    """A write whose conditions failed.

    `found` maps the number of each failed action to the present item with the key of the action, or to None.
    """

    found: dict[int, Item | None]


class Commit:
    """Writes to one namespace. `commit(writes)` runs writes; other methods make the actions of a write."""

    def __init__(self, table: Table, names: Names, counts: Counts, history: History) -> None:
        self.table = table
        self.names = names
        self._counts = counts
        self._history = history

    def put(self, record: Record, seq: str) -> Action:
        """Make the action that adds a job, unless a job with its id exists."""
        item = {"pk": value(self.names.job(record.id)), "seq": value(seq), **attributes(self.names, record)}
        return self.action("Put", Item=item, ConditionExpression="attribute_not_exists(pk)")

    def update(self, old: Record, new: Record) -> Action:
        """Make the action that changes a job, if its record is still `old`."""
        before, after = attributes(self.names, old), attributes(self.names, new)
        # An update must set an attribute, but a heartbeat that is sent twice changes none. So always set the rev.
        changed = {name: kept for name, kept in after.items() if name == "rev" or before.get(name) != kept}
        removed = [name for name in before if name not in after]
        expression = "SET " + ", ".join(f"#{name} = :{name}" for name in changed)
        if removed:
            expression += " REMOVE " + ", ".join(f"#{name}" for name in removed)
        return self.action(
            "Update",
            self.names.job(old.id),
            UpdateExpression=expression,
            ConditionExpression="rev = :known",
            ExpressionAttributeNames={f"#{name}": name for name in (*changed, *removed)},
            ExpressionAttributeValues={
                ":known": value(old.rev),
                **{f":{name}": kept for name, kept in changed.items()},
            },
        )

    def delete(self, key: str, field: str, expected: dict[str, Any] | None) -> Action:
        """Make the action that deletes an item if `field` has the value `expected`.

        If `expected` is None, the item is deleted if it does not have the field.
        """
        if expected is None:
            return self.action("Delete", key, ConditionExpression=f"attribute_not_exists({field})")
        values = {":expected": expected}
        return self.action("Delete", key, ConditionExpression=f"{field} = :expected", ExpressionAttributeValues=values)

    def hold(self, key: str, job_id: str, stale: str, ended: float | None) -> Action:
        """Make the action that gives a key to a job. It fails if the key's item names any other job that is alive.

        An exception is `stale`, a job that the key's item may still name although its record no longer holds the key.
        If no such job is known, `stale` is `job_id`. If the item names a job that has ended, the action fails if that
        job keeps the key for longer than `ended`; with None, it does not fail.
        """
        values = {":mine": value(job_id), ":stale": value(stale)}
        kept = "attribute_exists(#until)" if ended is None else "#until <= :ended"
        alive = "attribute_not_exists(#until) AND holder IN (:mine, :stale)"
        return self.action(
            "Put",
            Item={"pk": value(key), "holder": value(job_id)},
            ConditionExpression=f"attribute_not_exists(pk) OR {kept} OR ({alive})",
            ExpressionAttributeNames={"#until": "until"},
            ExpressionAttributeValues=values if ended is None else {**values, ":ended": value(ended)},
        )

    def keep(self, key: str, job_id: str, until: float) -> Action:
        """Make the action that lets a job which ends keep its key. It fails if the key's item does not name the job."""
        return self.action(
            "Put",
            Item={
                "pk": value(key),
                "holder": value(job_id),
                "until": value(until),
                "ttl": value(math.ceil(until)),
            },
            ConditionExpression="holder = :mine",
            ExpressionAttributeValues={":mine": value(job_id)},
        )

    def relabel(self, old: Record, new: Record | None) -> list[Action]:
        """Make the actions after which the entries of a job's labels are those of `new`, and have the TTL of its item.

        The job must have its entries already.
        """
        kept = () if new is None else labels(new)
        actions = [self.action("Delete", self.names.label(old.id, label)) for label in labels(old) if label not in kept]
        end = None if new is None else expiry(new)
        if end == expiry(old):
            return actions
        change: dict[str, Any] = {"UpdateExpression": "REMOVE #ttl"}
        if end is not None:
            change = {"UpdateExpression": "SET #ttl = :ttl", "ExpressionAttributeValues": {":ttl": value(end)}}
        change["ExpressionAttributeNames"] = {"#ttl": "ttl"}
        return actions + [self.action("Update", self.names.label(old.id, label), **change) for label in kept]

    def action(self, kind: str, key: str | None = None, **parameters: Any) -> Action:
        """Make an action on the item with this key. If its condition fails, DynamoDB returns the present item.

        Without `key`, `parameters` must contain the whole item.
        """
        where = {} if key is None else {"Key": {"pk": value(key)}}
        failing = {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
        return {kind: {"TableName": self.table.name, **where, **failing, **parameters}}

    def __call__(
        self, writes: Sequence[Write], unsent: set[str] | None = None, now: float = 0.0
    ) -> dict[str, Item | Failed | None]:
        """Run all writes. Returns the result of each write, by job id. `now` is the time of the writes.

        The result is Failed, or the new item after a single update, or None after a transaction. After a call has
        failed, no more writes are begun. BackendUnavailable is then raised, and the ids of the jobs that certainly were
        not written are added to `unsent`.
        """
        packs = [[write] for write in writes if write.alone]
        packs += [[write] for write in writes if write.solo]
        packs += _packed([write for write in writes if not write.alone and not write.solo])
        done: dict[str, Item | Failed | None] = {}
        broken: list[BackendUnavailable] = []
        unsent = set() if unsent is None else unsent

        def run(pack: Sequence[Write]) -> None:
            certain = bool(broken)
            try:
                if not broken:
                    done.update(self._write(pack, now))
            except BackendUnavailable as error:
                broken.append(error)
                certain = refused_for_certain(error.__cause__)
            if certain:
                unsent.update(write.id for write in pack)

        self.table.each(run, packs)
        if broken:
            raise broken[0]
        return done

    def try_to_put(self) -> None:
        """Run the transaction of an insert with conditions that never hold, so that nothing is written.

        Raises BackendUnavailable if an insert is not possible.
        """
        key = self.names.job("")
        actions = (
            self.action("Put", Item={"pk": value(key)}, ConditionExpression=NEVER),
            self.action(
                "Update",
                f"{key}-",
                UpdateExpression="SET rev = :rev",
                ConditionExpression=NEVER,
                ExpressionAttributeValues={":rev": value("")},
            ),
        )
        with suppress(ClientError):  # DynamoDB answers that a condition does not hold, as expected
            self.table.call("transact_write_items", TransactItems=actions)

    def _write(self, pack: Sequence[Write], now: float) -> dict[str, Item | Failed | None]:
        if pack[0].alone:
            return {pack[0].id: self._update(pack[0].actions[0])}
        done: dict[str, Item | Failed | None] = {}
        deadline = self.table.deadline()
        # A queue's counts are spread over several items. Each attempt writes to the next one of these items.
        shards = self.names.shards
        first = random.randrange(shards)
        for place in itertools.count(first):
            if not pack:
                break
            total, counted = Delta(), nothing()
            for write in pack:
                total.update(write.counts)
                for pair, counts in write.counted.items():
                    for name, n in counts.items():
                        counted[pair][name] += n
            counting = [*self._counts.updates(total, place), *self._history.updates(counted, place, now)]
            owned = [(write, number) for write in pack for number in range(len(write.actions))]
            actions = [write.actions[number] for write, number in owned]
            try:
                self.table.call("transact_write_items", TransactItems=[*actions, *counting])
            except ClientError as error:
                answer: Any = error.response
                reasons = answer.get("CancellationReasons", [])
                failed = _failed(owned, reasons)
                if not failed:
                    self._wait(error, reasons, len(owned), deadline, all_tried=(place - first + 1) % shards == 0)
                done |= failed
                pack = [write for write in pack if write.id not in failed]
            else:
                return done | {write.id: None for write in pack}
        return done

    def _update(self, action: Action) -> Item | Failed:
        """Run a single update. Return the item after it, or Failed if its condition failed."""
        try:
            item: Item = self.table.call("update_item", **action["Update"], ReturnValues="ALL_NEW")["Attributes"]
        except ClientError as error:
            answer: Any = error.response
            return Failed({0: answer.get("Item")})
        return item

    def _wait(
        self, error: ClientError, reasons: Sequence[dict[str, Any]], own: int, deadline: Deadline, *, all_tried: bool
    ) -> None:
        """Wait before a cancelled transaction is repeated.

        Does not wait if only items with counts had a conflict, and the next attempt uses other items with counts.
        Raises BackendUnavailable if repeating the transaction cannot help, or if the deadline would pass.

        `reasons` has one reason for each action. The first `own` actions change jobs, the later ones change counts.
        `all_tried` is True if the transaction has now been tried with each of the items over which counts are spread.
        """
        codes = [reason.get("Code", "None") for reason in reasons]
        if BUSY.intersection(codes) or CONFLICT in (codes if all_tried else codes[:own]):
            deadline.pause(error)
        elif CONFLICT in codes:
            deadline.again(error)  # no pause: only count items had a conflict, and the next attempt uses other items
        else:
            why = next((f"{r['Code']}: {r.get('Message')}" for r in reasons if r.get("Code", "None") != "None"), None)
            if why is None:
                raise unavailable(self.table.what, error) from error
            raise BackendUnavailable(
                f"{self.table.what} refuses a transaction ({why}): look up this code in the documentation of AWS"
            ) from error


def _failed(owned: Sequence[tuple[Write, int]], reasons: Sequence[dict[str, Any]]) -> dict[str, Failed]:
    """The writes of a transaction whose conditions failed, by job id."""
    failed: dict[str, Failed] = {}
    # DynamoDB gives one reason for each action of the transaction. The last actions, which change counts, are ignored.
    for (write, number), reason in zip(owned, reasons, strict=False):
        if reason.get("Code") == "ConditionalCheckFailed":
            failed.setdefault(write.id, Failed({})).found[number] = reason.get("Item")
    return failed


def _packed(writes: Sequence[Write]) -> Iterator[list[Write]]:
    """Group the writes, in their order, into transactions that are as large as ACTIONS and BYTES allow."""
    pack: list[Write] = []
    actions, total, counts = 0, 0, set[object]()
    for write in writes:
        own: set[object] = {*(queue for queue, _ in write.counts), *write.counted}
        more = counts | own
        full = actions + len(write.actions) + len(more) > ACTIONS or total + write.bytes > BYTES
        if pack and full:
            yield pack
            pack, actions, total, more = [], 0, 0, own
        pack.append(write)
        actions, total, counts = actions + len(write.actions), total + write.bytes, more
    if pack:
        yield pack

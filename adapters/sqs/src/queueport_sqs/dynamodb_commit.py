"""Writes of the DynamoDB store: each on its condition, many in one transaction, with their counts. For its readers.

A transaction is for what moves a count or a key; what moves neither is an update by itself, at half the price. Of
a transaction that is cancelled, the writes whose conditions failed are dropped, and the rest goes on without them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from queueport.errors import BackendUnavailable
from queueport.record import Record
from queueport.status import JobState
from queueport.store import Beat
from queueport_sqs.client import THROTTLED, unavailable
from queueport_sqs.dynamodb_counts import Counts, Delta, summed
from queueport_sqs.dynamodb_items import Item, Names, attributes, shortened, updated, value, values
from queueport_sqs.dynamodb_table import Deadline, Table, answer_of

__all__ = ["Commit", "Failed", "Write", "refused"]

ACTIONS = 100
"""https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html"""
BYTES = 3 * 2**20
"""Of the 4 MB that a transaction may have together."""
RUNNING = value(JobState.RUNNING.value)
CONFLICT = "TransactionConflict"
BUSY = frozenset({"ThrottlingError", "ProvisionedThroughputExceeded", *THROTTLED})

Action = dict[str, Any]
"""One part of a transaction: {"Put" | "Update" | "Delete": its parameters}."""


@dataclass(frozen=True, slots=True)
class Write:
    """What happens to one job: the first action is to its own item, the others to items of its key or beside it."""

    id: str
    actions: Sequence[Action]
    counts: Delta = field(default_factory=dict)
    bytes: int = 0

    @property
    def alone(self) -> bool:
        """It needs no transaction."""
        return len(self.actions) == 1 and not self.counts and "Update" in self.actions[0]


@dataclass(frozen=True, slots=True)
class Failed:
    """A write whose condition did not hold: the items as they are, by the number of the action; None: there is none."""

    found: dict[int, Item | None]


class Commit:
    """Writes to one namespace."""

    def __init__(self, table: Table, names: Names, counts: Counts) -> None:
        self._table = table
        self._names = names
        self._counts = counts

    def put(self, record: Record, seq: str) -> Action:
        """A new job."""
        item = {"pk": {"S": self._names.job(record.id)}, "seq": {"S": seq}, **attributes(self._names, record)}
        return self.action("Put", Item=item, ConditionExpression="attribute_not_exists(pk)")

    def update(self, old: Record, new: Record) -> Action:
        """A job that is still as it was read."""
        changed = updated(attributes(self._names, old), attributes(self._names, new), known={"S": old.rev})
        changed["ExpressionAttributeNames"]["#rev"] = "rev"
        return self.action("Update", self._names.job(old.id), ConditionExpression="#rev = :known", **changed)

    def delete(self, record: Record) -> Action:
        """A job that is still as it was read goes."""
        values = {":known": {"S": record.rev}}
        return self.action(
            "Delete", self._names.job(record.id), ConditionExpression="rev = :known", ExpressionAttributeValues=values
        )

    def hold(self, key: str, job_id: str, stale: str) -> Action:
        """A job takes a key that is free, or its own, or that of a job which, as was read, has no right to it."""
        return self.action(
            "Put",
            Item={"pk": {"S": key}, "holder": {"S": job_id}},
            ConditionExpression="attribute_not_exists(pk) OR holder IN (:mine, :stale)",
            ExpressionAttributeValues={":mine": {"S": job_id}, ":stale": {"S": stale}},
        )

    def release(self, key: str, job_id: str) -> Action:
        """A job lets go of its key."""
        values = {":mine": {"S": job_id}}
        return self.action("Delete", key, ConditionExpression="holder = :mine", ExpressionAttributeValues=values)

    def beat(self, beat: Beat, now: float) -> Item | Failed:
        """Prolong a lease. Nothing is read before: a running job with that token is all that it takes."""
        progress = beat.values.get("progress")
        told = beat.values if progress is None else {**beat.values, "progress": shortened(progress)}
        fields = {**told, "rev": beat.rev, "wake_at": now + beat.lease}
        due = {"due": value(self._names.due(self._names.shard(beat.id))), "at": value(now + beat.lease)}
        changed = updated(
            {name: {} for name in fields}, {**values(fields), **due}, running=RUNNING, mine=value(beat.token)
        )
        changed["ExpressionAttributeNames"] |= {"#state": "state", "#token": "token"}
        condition = "#state = :running AND #token = :mine"
        action = self.action("Update", self._names.job(beat.id), ConditionExpression=condition, **changed)
        return self._updated(action)

    def action(self, kind: str, key: str | None = None, **parameters: Any) -> Action:
        """One part of a transaction, to the item of that key; where its condition fails, the item is told."""
        where = {} if key is None else {"Key": {"pk": {"S": key}}}
        failing = {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
        return {kind: {"TableName": self._table.name, **where, **failing, **parameters}}

    def __call__(self, writes: Sequence[Write]) -> dict[str, Item | Failed | None]:
        """Do them all. By the job's id: Failed, or the item after an update by itself, or None."""
        calls = [lambda write=write: self._alone(write) for write in writes if write.alone]
        calls += [lambda pack=pack: self._together(pack) for pack in _packed(writes)]
        done: dict[str, Item | Failed | None] = {}
        for answers in self._table.each(calls):
            done |= answers
        return done

    def _alone(self, write: Write) -> dict[str, Item | Failed | None]:
        return {write.id: self._updated(write.actions[0])}

    def _updated(self, action: Action) -> Item | Failed:
        """An update by itself; the item after it."""
        try:
            answer = self._table.call("update_item", **action["Update"], ReturnValues="ALL_NEW")
        except ClientError as error:
            return Failed({0: answer_of(error).get("Item")})
        item: Item = answer["Attributes"]
        return item

    def _together(self, pack: Sequence[Write]) -> dict[str, Item | Failed | None]:
        done: dict[str, Item | Failed | None] = {}
        deadline, place = self._table.deadline(), self._counts.anywhere()
        while pack:
            counting = self._counts.updates(summed(write.counts for write in pack), place)
            place += 1
            owned = [(write, number) for write in pack for number in range(len(write.actions))]
            actions = [write.actions[number] for write, number in owned]
            try:
                self._table.call("transact_write_items", TransactItems=[*actions, *counting])
            except ClientError as error:
                reasons = answer_of(error).get("CancellationReasons", [])
                failed = _failed(owned, reasons)
                if not failed:
                    self._wait(error, [str(reason.get("Code")) for reason in reasons], len(owned), deadline)
                done |= failed
                pack = [write for write in pack if write.id not in failed]
            else:
                return done | {write.id: None for write in pack}
        return done

    def _wait(self, error: ClientError, codes: Sequence[str], own: int, deadline: Deadline) -> None:
        """Before a transaction is tried again, whose own actions come first and then those of the counts."""
        if BUSY.intersection(codes) or CONFLICT in codes[:own]:
            deadline.pause(error)
        elif CONFLICT in codes:
            deadline.again(error)  # only a part of the counts was in use: the next try takes another one
        else:
            raise _explained(self._table.what, error) from error


def refused(answer: Item | Failed | None, claimed: Record) -> bool:
    """Whether a claim was not applied; where its answer was lost and it was sent again, it meets itself."""
    if not isinstance(answer, Failed):
        return False
    item = answer.found[0] or {}
    lapses = item.get("wake_at", {}).get("N")
    return item.get("rev") != value(claimed.rev) or lapses is None or float(lapses) != claimed.wake_at


def _failed(owned: Sequence[tuple[Write, int]], reasons: Sequence[dict[str, Any]]) -> dict[str, Failed]:
    """The writes whose conditions did not hold."""
    failed: dict[str, Failed] = {}
    for (write, number), reason in zip(owned, reasons, strict=False):  # after those, the reasons of the counts
        if reason.get("Code") == "ConditionalCheckFailed":
            failed.setdefault(write.id, Failed({})).found[number] = reason.get("Item")
    return failed


def _explained(what: str, error: ClientError) -> BackendUnavailable:
    reasons = answer_of(error).get("CancellationReasons", [])
    told = next((reason for reason in reasons if reason.get("Code") not in (None, "None")), None)
    if told is None:
        return unavailable(what, error)
    return BackendUnavailable(f"{what} cancelled a transaction ({told['Code']}: {told.get('Message')}): try again")


def _packed(writes: Sequence[Write]) -> Iterator[list[Write]]:
    """Those that need transactions, in as few as DynamoDB takes."""
    pack: list[Write] = []
    actions, total, queues = 0, 0, set[str]()
    for write in writes:
        if write.alone:
            continue
        more = queues | write.counts.keys()
        full = actions + len(write.actions) + len(more) > ACTIONS or total + write.bytes > BYTES
        if pack and full:
            yield pack
            pack, actions, total, more = [], 0, 0, set(write.counts)
        pack.append(write)
        actions, total, queues = actions + len(write.actions), total + write.bytes, more
    if pack:
        yield pack

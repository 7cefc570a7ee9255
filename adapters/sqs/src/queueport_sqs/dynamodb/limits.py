"""The items of limits: how many jobs use a limit or wait for it, and the index of those that wait. For the store.

Each write of a job that changes one of these numbers is a transaction, in which the item of the limit changes too. So
the numbers are always those of the jobs. A begin also has the condition that the numbers are as it has read them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from queueport.spi.record import Record
from queueport.spi.storage import is_held, is_passed
from queueport.spi.store import MOST_LIMITS, HeldJobs, LimitState
from queueport.status import JobState
from queueport_sqs.dynamodb.commit import Action, Commit
from queueport_sqs.dynamodb.reading import Reading
from queueport_sqs.dynamodb.records import Item, value
from queueport_sqs.dynamodb.schema import LISTED

__all__ = ["actions", "held", "limits_of", "state_in"]

COUNTED = ("running", "held", "passed")
AHEAD = 10**11
"""More than any time in seconds, so that a job with a higher priority comes first."""
LAST = chr(0x10FFFF)


def limits_of(record: Record | None) -> Counter[tuple[str, str]]:
    """What the job counts for: the names of limits, each with the number of the limit that it belongs to."""
    found = Counter[tuple[str, str]]()
    if record is not None and record.state is JobState.RUNNING:
        found.update((name, "running") for name in record.slots or ())
    if record is not None and record.held_by is not None:
        found[record.held_by, "held"] += is_held(record)
        found[record.held_by, "passed"] += is_passed(record)
    return found


def state_in(item: Item | None) -> LimitState:
    """The state of a limit in its item."""
    if item is None:
        return LimitState()
    numbers = {name: int(item[name]["N"]) if name in item else 0 for name in COUNTED}
    return LimitState(**numbers, full_at=float(item["full_at"]["N"]) if "full_at" in item else 0.0)


def actions(
    commit: Commit,
    old: Record | None,
    new: Record | None,
    read: Mapping[str, LimitState],
    full_at: Mapping[str, float],
) -> list[tuple[str, Action]]:
    """The actions on limits that a change of a job needs, each with the limit's name; "" for an entry of the index.

    `read` has the states with which a begin was decided: the actions fail if one of them has changed. `full_at` are the
    new times of rates.
    """
    before, after = limits_of(old), limits_of(new)
    steps: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for name, kind in {*before, *after}:
        if step := after[name, kind] - before[name, kind]:
            steps[name][kind] = step
    names = sorted({*steps, *read, *full_at})
    found = [(name, _update(commit, name, steps[name], read.get(name), full_at.get(name))) for name in names]
    return [*found, *(("", action) for action in _entry(commit, old, new))]


def _update(
    commit: Commit, name: str, steps: Mapping[str, int], read: LimitState | None, full_at: float | None
) -> Action:
    values = {f":{kind}": value(step) for kind, step in steps.items()}
    parts = ["ADD " + ", ".join(f"#{kind} :{kind}" for kind in steps)] if steps else []
    names = {f"#{kind}": kind for kind in steps}
    if full_at is not None or not steps:
        parts = ["SET full_at = :full_at", *parts]
        values[":full_at"] = value(full_at if full_at is not None else 0.0 if read is None else read.full_at)
    condition = {}
    if read is not None:
        names |= {f"#{kind}": kind for kind in COUNTED}
        known = {kind: getattr(read, kind) for kind in COUNTED}
        values |= {f":known_{kind}": value(n) for kind, n in known.items()}
        same = [
            f"(#{kind} = :known_{kind}{'' if n else f' OR attribute_not_exists(#{kind})'})" for kind, n in known.items()
        ]
        values[":known_full_at"] = value(read.full_at)
        same.append(f"(full_at = :known_full_at{'' if read.full_at else ' OR attribute_not_exists(full_at)'})")
        condition["ConditionExpression"] = " AND ".join(same)
    return commit.action(
        "Update",
        commit.names.limit(name),
        UpdateExpression=" ".join(parts),
        ExpressionAttributeValues=values,
        **({"ExpressionAttributeNames": names} if names else {}),
        **condition,
    )


def _entry(commit: Commit, old: Record | None, new: Record | None) -> list[Action]:
    """The action that writes or deletes the entry of a job in the index of held jobs."""
    before, after = (None if record is None or not is_held(record) else _place(record) for record in (old, new))
    which = new or old
    if before == after or which is None:
        return []
    key = commit.names.held_job(which.id)
    if after is None:
        return [commit.action("Delete", key)]
    return [commit.action("Put", Item={"pk": value(key), "listed": value(commit.names.held), "seq": value(after)})]


def _place(record: Record) -> str:
    """The place of a held job in the index: by limit, then by priority, highest first, then by queued_at."""
    at = round(((record.queued_at or 0.0) - record.priority * AHEAD + 11 * AHEAD) * 1e6)
    return f"{record.held_by}\0{at:020d}"


def held(reading: Reading, names: Sequence[str] | None, limit: int, after: str) -> list[HeldJobs]:
    """The limits for which jobs are held, as `JobStore.held` returns them."""
    found = []
    for name in _names(reading, after) if names is None else sorted(name for name in set(names) if name > after):
        ids = [entry["pk"]["S"].split("#", 2)[2] for entry in _entries(reading, f"{name}\0", f"{name}\1", limit)]
        jobs = [job.record for job in reading.found(ids).values()]
        waiting = [job for job in jobs if job.held_by == name and is_held(job)]
        if waiting:
            key = reading.names.limit(name)
            state = state_in(reading.table.get([key]).get(key))
            found.append(HeldJobs(name, state, waiting, reading.now))
        if len(found) == MOST_LIMITS:
            break
    return found


def _names(reading: Reading, after: str) -> Iterator[str]:
    """The names, after `after`, of the limits with entries in the index, sorted. Reads one entry of each."""
    start = f"{after}\1" if after else ""
    while entries := list(_entries(reading, start, LAST, 1)):
        name = entries[0]["seq"]["S"].partition("\0")[0]
        yield name
        start = f"{name}\1"


def _entries(reading: Reading, start: str, end: str, limit: int) -> list[Item]:
    pages = reading.table.query(
        IndexName=LISTED,
        KeyConditionExpression="listed = :held AND seq BETWEEN :start AND :end",
        ExpressionAttributeValues={
            ":held": value(reading.names.held),
            ":start": value(start or " "),
            ":end": value(end),
        },
        Limit=limit,
    )
    found: list[Item] = []
    for page in pages:
        found += page["Items"]
        if len(found) >= limit:
            break
    return found[:limit]

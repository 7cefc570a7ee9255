"""What the scripts of the Redis store answer, flat as it comes. For readers of the store."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from queueport.stats import WorkerStats
from queueport.status import JobState
from queueport.store import QueueCounts, StoreStats

__all__ = ["pairs", "stats", "workers"]

STATES = {state.value: state for state in JobState}


def pairs(flat: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """An answer two by two."""
    return zip(flat[::2], flat[1::2], strict=True)


def _named(flat: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    return ((name.decode(), value) for name, value in pairs(flat))


def stats(answer: Sequence[Any]) -> StoreStats:
    """That of STATS."""
    now, processed, failed, queues, counts, heads = answer
    states = {queue.decode(): dict.fromkeys(JobState, 0) for queue in queues}
    priorities: dict[str, dict[int, int]] = defaultdict(dict)
    oldest: dict[str, float] = {}
    for place, n in _named(counts):
        kind, _, rest = place.partition(":")
        if kind == "listed":
            state, queue, _ = rest.split(":", 2)
            if state in STATES and queue in states:
                states[queue][STATES[state]] += int(n)
        elif kind == "queued":
            queue, _, priority = rest.rpartition(":")
            priorities[queue][int(priority)] = int(n)
    for place, at in _named(heads):
        queue = place.split(":")[1]
        oldest[queue] = min(float(at), oldest.get(queue, float("inf")))
    known = {queue: at for queue, at in oldest.items() if at != float("inf")}
    kept = {queue: QueueCounts(n, priorities[queue], known.get(queue)) for queue, n in states.items()}
    return StoreStats(float(now), kept, int(processed), int(failed))


def workers(answer: Sequence[bytes]) -> list[WorkerStats]:
    """That of WORKERS, by name."""
    found = []
    for name, said in sorted(_named(answer)):
        heard, _, text = said.partition(b" ")
        queues, tasks = json.loads(text)
        found.append(WorkerStats(name, tuple(queues), tuple(tasks), datetime.fromtimestamp(float(heard), UTC)))
    return found

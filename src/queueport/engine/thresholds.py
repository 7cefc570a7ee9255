"""`Thresholds`: limits for the statistics of queues. For `queueport check`, `/readyz` and applications."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from queueport.engine.arguments import queue_name
from queueport.errors import ConfigurationError, nearest
from queueport.stats import QueueStats, Stats

__all__ = ["EVERY", "Thresholds", "unused"]

EVERY = "*"
"""The key for every queue that has no limit of its own. No queue has this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Limits for the statistics of queues. A limit is one number for every queue, or numbers by queue name.

        Thresholds(max_depth={"*": 1000, "emails": 50}, max_age=300.0, min_workers=1).problems(queue.stats())

    The key `*` is for every queue that is not named. None: no limit. Raises ConfigurationError for a negative number,
    for a rate above 1, for a number of a wrong type, and for an invalid queue name.
    """

    max_depth: int | Mapping[str, int] | None = None
    """The highest number of queued jobs in a queue."""
    max_age: float | Mapping[str, float] | None = None
    """The highest number of seconds for which a job may have been queued."""
    max_dead: int | Mapping[str, int] | None = None
    """The highest number of dead jobs of a queue."""
    max_failure_rate: float | Mapping[str, float] | None = None
    """The highest part, from 0 to 1, of the attempts of a queue in the last hour that may have failed."""
    min_workers: int | Mapping[str, int] | None = None
    """The lowest number of live worker processes. A single number, or the key `*`, counts all of them; the name of a
    queue counts those that take jobs from it."""

    def __post_init__(self) -> None:
        for option in self.__dataclass_fields__:
            kinds = (int, float) if option in WANTED else (int,)
            highest = 1 if option == "max_failure_rate" else math.inf
            for name, limit in _by_queue(getattr(self, option)).items():
                if name != EVERY:
                    queue_name(name)
                if isinstance(limit, bool) or not isinstance(limit, kinds) or not 0 <= limit <= highest:
                    wanted = WANTED.get(option, "an integer of 0 or more")
                    raise ConfigurationError(f"{option}={limit!r:.80} is not a limit: pass {wanted}")

    def problems(self, stats: Stats) -> list[str]:
        """One sentence for each limit that these statistics exceed."""
        return [*self._of_queues(stats), *self._of_workers(stats)]

    def warnings(self, stats: Stats) -> list[str]:
        """One sentence for each queue that has a limit of its own, but that nothing uses. Its name may be wrong."""
        limits = (getattr(self, option) for option in self.__dataclass_fields__)
        named = {name for limit in limits for name in _by_queue(limit)} - {EVERY}
        return [unused(name, stats.queues) for name in sorted(named - stats.queues.keys())]

    def _of_queues(self, stats: Stats) -> Iterator[str]:
        depths, ages, dead = map(_by_queue, (self.max_depth, self.max_age, self.max_dead))
        rates = _by_queue(self.max_failure_rate)
        for name, counts in stats.queues.items():
            yield from _of_queue(name, counts, _limit(depths, name), _limit(ages, name), _limit(dead, name))
            rate, hour = _limit(rates, name), counts.last_hour
            ended = 0 if hour is None else hour.failed + hour.succeeded
            if rate is not None and hour is not None and hour.failed > rate * ended:
                part = f"{hour.failed} of {ended} attempts in queue {name}"
                yield f"{part} failed in the last hour, more than {rate * 100:g}%"

    def _of_workers(self, stats: Stats) -> Iterator[str]:
        for name, least in _by_queue(self.min_workers).items():
            live = sum(name in (EVERY, *worker.queues) for worker in stats.workers)
            if live < least:
                workers = "1 live worker" if live == 1 else f"{live or 'no'} live workers"
                where = "there" if name == EVERY else f"queue {name}"
                verb = ("is" if live == 1 else "are") if name == EVERY else "has"
                yield f"{where} {verb} {workers}, fewer than {least}"


WANTED = {"max_age": "a number of seconds of 0 or more", "max_failure_rate": "a number from 0 to 1"}
"""For error messages: what to pass for each limit that may be another number than an integer."""


def unused(name: str, known: Collection[str]) -> str:
    """The sentence about the name of a queue that is not one of the `known` ones, which have jobs or live workers."""
    return f"queue {name!r} has no jobs and no live worker{nearest(name, known) if known else ''}"


def _by_queue(limits: Any) -> dict[str, Any]:
    """The limits by queue name."""
    if limits is None:
        return {}
    return dict(limits) if isinstance(limits, Mapping) else {EVERY: limits}


def _limit(limits: Mapping[str, Any], queue: str) -> Any:
    return limits.get(queue, limits.get(EVERY))


def _of_queue(name: str, counts: QueueStats, depth: int | None, age: float | None, dead: int | None) -> Iterator[str]:
    if depth is not None and counts.queued > depth:
        yield f"queue {name} has {counts.queued} queued {_jobs(counts.queued)}, more than {depth}"
    if age is not None and counts.oldest_queued_age is not None and counts.oldest_queued_age > age:
        yield f"the oldest job in queue {name} has waited {counts.oldest_queued_age:.0f} s, more than {age:g} s"
    if dead is not None and counts.dead > dead:
        yield f"queue {name} has {counts.dead} dead {_jobs(counts.dead)}, more than {dead}"


def _jobs(number: int) -> str:
    return "job" if number == 1 else "jobs"

"""`Source`: one backend on the dashboard, with its latest numbers and short charts of them. For the pages.

However many pages are open, one thread reads the numbers, at most once in FRESH seconds. So a store that does not
answer blocks one thread only, and no page waits for longer than MOST_WAIT seconds. The thread that reads the first
numbers then also reads what the page with charts of all queues will need.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from queueport.errors import ConfigurationError, QueueportError
from queueport.job.recurrence import Schedule
from queueport.queue import JobQueue
from queueport.spi.url import hidden
from queueport.stats import Stats
from queueport.status import JobState, JobStatus
from queueport.web.dashboard.charts import Point
from queueport.web.dashboard.past import Past

__all__ = ["Snapshot", "Source", "named", "snapshots"]

FRESH = 1.0
"""Seconds for which the numbers that were read are shown again."""
MOST_WAIT = 2.0
"""Maximum seconds that a page waits for a backend."""
SAMPLES = 300
"""The number of points of a chart."""
SAMPLE_EVERY = 2.0
"""The minimum seconds between two points of a chart."""
SCHEDULES_EVERY = 5.0
"""The minimum seconds between two readings of the schedules."""
RUNNING = 100
"""The maximum number of running jobs that are read to say what each worker runs."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the charts need of one reading. `at` is in seconds of the monotonic clock."""

    at: float
    processed: int
    failed: int
    queued: int
    queued_in: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A backend at one time. If it did not answer, `stats` is None and `problem` says why."""

    stats: Stats | None = None
    problem: str | None = None
    running: Sequence[JobStatus] = ()
    """The latest running jobs."""
    schedules: Sequence[Schedule] = ()
    """All recurring jobs, by name."""
    samples: Sequence[Sample] = field(default=(), repr=False)

    def running_on(self, worker: str) -> list[JobStatus]:
        """The running jobs of a worker."""
        return [job for job in self.running if job.worker == worker]

    def without_worker(self) -> list[str]:
        """The queues with queued jobs that no live worker takes jobs from."""
        if self.stats is None:
            return []
        served = {queue for worker in self.stats.workers for queue in worker.queues}
        return [name for name, queue in self.stats.queues.items() if queue.queued and name not in served]

    @property
    def oldest(self) -> float | None:
        """Seconds for which the oldest queued job of all queues has waited; None if no job is queued."""
        queues = () if self.stats is None else self.stats.queues.values()
        return max((queue.oldest_queued_age for queue in queues if queue.oldest_queued_age is not None), default=None)

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks that live workers know."""
        workers = () if self.stats is None else self.stats.workers
        return sorted({task for worker in workers for task in worker.tasks})

    def depths(self, queue: str | None = None) -> list[Point]:
        """The number of queued jobs over time, of one queue or of all."""
        return [(s.at, s.queued if queue is None else s.queued_in.get(queue, 0)) for s in self.samples]

    def rates(self, counter: str) -> list[Point]:
        """How fast the counter "processed" or "failed" grew between two readings, per second."""
        pairs = zip(self.samples, self.samples[1:], strict=False)
        return [(b.at, max(getattr(b, counter) - getattr(a, counter), 0) / (b.at - a.at)) for a, b in pairs]

    def rate(self, counter: str) -> float | None:
        """How fast the counter grew in the last ten seconds, per second. None if it is not known yet."""
        recent = [sample for sample in self.samples if self.samples[-1].at - sample.at <= 10 + SAMPLE_EVERY]
        if len(recent) < 2:
            return None
        first, last = recent[0], recent[-1]
        grown: int = getattr(last, counter) - getattr(first, counter)
        return max(grown, 0) / (last.at - first.at)


class Source:
    """One backend. `name` is its name on the pages and in their addresses. Thread-safe."""

    def __init__(self, name: str, queue: JobQueue) -> None:
        self.name = name
        self.queue = queue
        self.past: Past = Past(queue)
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._lock = threading.Lock()
        self._schedules: Sequence[Schedule] = ()
        self._schedules_at = -math.inf
        self._reading: Future[Snapshot] | None = None
        self._read_at = 0.0
        self._prepared = False

    def start(self) -> Future[Snapshot]:
        """Begin to read the numbers, unless a thread reads them now or has just read them."""
        with self._lock:
            reading = self._reading
            if reading is None or (reading.done() and time.monotonic() - self._read_at >= FRESH):
                reading = Future()
                threading.Thread(target=self._run, args=[reading], name="queueport-dashboard", daemon=True).start()
                self._reading = reading  # only now, because `start` raises if the process has too many threads
            return reading

    def snapshot(self, reading: Future[Snapshot] | None = None, until: float | None = None) -> Snapshot:
        """The numbers, which are at most FRESH seconds old, or those of `reading`, a result of `start`.

        Waits at most until the time `until` of the monotonic clock, by default MOST_WAIT seconds.
        """
        wait = MOST_WAIT if until is None else max(until - time.monotonic(), 0.0)
        try:
            return (reading or self.start()).result(wait)
        except TimeoutError:
            return Snapshot(problem=f"{self.name} has not answered within {MOST_WAIT:g} s")

    def _run(self, reading: Future[Snapshot]) -> None:
        try:
            found = self._read()
        except QueueportError as error:
            found = Snapshot(problem=hidden(str(error)))
        except Exception as error:  # noqa: BLE001  # a fault of one backend must not hide the others
            found = Snapshot(problem=hidden(f"{self.name} could not be read: {type(error).__name__}: {error}"))
        self._read_at = time.monotonic()
        reading.set_result(found)
        if found.stats is not None and not self._prepared:  # after an outage, the next thread tries again
            self._prepared = True
            self.past.prepare()

    def _read(self) -> Snapshot:
        stats = self.queue.stats()
        running = self.queue.jobs(JobState.RUNNING, limit=RUNNING) if stats.totals.running else []
        now = time.monotonic()
        if now - self._schedules_at >= SCHEDULES_EVERY:
            self._schedules, self._schedules_at = self.queue.schedules.list(), now
        if not self._samples or now - self._samples[-1].at >= SAMPLE_EVERY:
            queued_in = {name: queue.queued for name, queue in stats.queues.items()}
            self._samples.append(Sample(now, stats.processed, stats.failed, stats.totals.queued, queued_in))
        return Snapshot(stats, None, running, self._schedules, tuple(self._samples))


def snapshots(sources: Collection[Source]) -> list[tuple[Source, Snapshot]]:
    """The numbers of each source. All are read at the same time. Waits at most MOST_WAIT seconds for all of them."""
    readings = [(source, source.start()) for source in sources]
    until = time.monotonic() + MOST_WAIT
    return [(source, source.snapshot(reading, until)) for source, reading in readings]


def _check(queues: object) -> None:
    """Raise ConfigurationError if this is neither a queue nor a sequence or mapping of queues."""
    found: Iterable[object] = [queues]
    if isinstance(queues, Mapping):
        found = queues.values()
    elif isinstance(queues, Sequence) and not isinstance(queues, str):
        found = queues
    for each in found:
        if not isinstance(each, JobQueue):
            raise ConfigurationError(
                f"the dashboard shows queues, not {type(each).__name__}: pass for example get_queue(URL)"
            )


def named(queues: JobQueue | Sequence[JobQueue] | Mapping[str, JobQueue]) -> dict[str, Source]:
    """A source for each queue, by name: the given name, or else the name of the backend, with a number if needed.

    Raises ConfigurationError if there is no queue or if a given name cannot be part of an address.
    """
    if isinstance(queues, JobQueue):
        queues = [queues]
    _check(queues)
    if not isinstance(queues, Mapping):
        given, queues = queues, dict[str, JobQueue]()
        for queue in given:
            base = re.sub(r"[^a-z0-9]+", "-", queue.backend.lower()).strip("-") or "queue"
            number = sum(name.rstrip("0123456789").rstrip("-") == base or name == base for name in queues)
            queues[f"{base}-{number + 1}" if number else base] = queue
    if not queues:
        raise ConfigurationError("the dashboard has no queue: pass at least one, for example get_queue(URL)")
    wrong = next((name for name in queues if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name)), None)
    if wrong is not None:
        raise ConfigurationError(f"{wrong!r} cannot name a backend: use letters, digits, '-', '_' and '.'")
    return {name: Source(name, queue) for name, queue in queues.items()}

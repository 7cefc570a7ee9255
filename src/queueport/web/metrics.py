"""Prometheus metrics of all queues: `JobsCollector` for a registry, and the text for a scrape.

`pip install 'queueport[metrics]'`. Importing this module imports the Prometheus client.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from weakref import WeakKeyDictionary

from queueport.errors import NeedsExtra, QueueportError, encodable
from queueport.job.limits import QueueLimit, rate_of
from queueport.queue import JobQueue
from queueport.spi.failures import FailureLog
from queueport.spi.history import HOUR, MINUTE, HistoryQuery, start_of
from queueport.spi.store import JobStore
from queueport.stats import BUCKETS, Stats
from queueport.status import JobState

with NeedsExtra("metrics", __name__):
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector
    from prometheus_client.utils import floatToGoString

__all__ = ["JobsCollector", "exposition"]

failures: FailureLog = FailureLog(logging.getLogger("queueport"))

DAY = 24 * HOUR
RESET = 4 * HOUR + 43 * MINUTE
"""The seconds after midnight UTC at which the counters and histograms begin at 0 again. Prometheus notices a reset only
if the first value after it is lower than the last one before it, so this is a minute for which few jobs are scheduled.
"""
SETTLED = 10 * MINUTE
"""The seconds after which a minute is certain not to change, also if a process counts late or by a clock that is slow.
"""
COUNTERS = {
    "enqueued": ("queueport_jobs_enqueued", "Jobs that were enqueued."),
    "succeeded": ("queueport_jobs_succeeded", "Jobs that have succeeded."),
    "dead": ("queueport_jobs_dead", "Jobs that have died."),
    "cancelled": ("queueport_jobs_cancelled", "Jobs that were cancelled or have expired."),
    "retried": ("queueport_jobs_retried", "Dead or cancelled jobs that were retried."),
    "failed": ("queueport_attempts_failed", "Attempts that have failed or crashed."),
}
"""The counters: the name of each event in the history, and the name and description of its metric."""
HISTOGRAMS = {
    "wait": ("queueport_attempt_wait_seconds", "Time from queued to the start of an attempt."),
    "run": ("queueport_attempt_run_seconds", "Time from the start of an attempt to its end."),
}
EVERY = 2
"""Every second bound of BUCKETS is a bound of the histograms, which halves the number of time series."""
MIDDLES = (BUCKETS[0] / 2, *((low * high) ** 0.5 for low, high in pairwise(BUCKETS)), BUCKETS[-1])
"""For each bucket of the history, the time that all times in it count as in the sum of a histogram."""

Sums = Mapping[str, Mapping[str, int]]
"""The number of each event, by queue."""


class JobsCollector(Collector):
    """The metrics of a queue, read from its store at each scrape. For a registry that the application exports.

        prometheus_client.REGISTRY.register(JobsCollector(queue))

    If the store or the backend does not answer, the only metric is `queueport_up`, with the value 0, so that the other
    metrics of the registry are not lost. docs/monitoring.md describes the metrics.
    """

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._totals = _totals.setdefault(queue, Totals())

    def describe(self) -> Iterator[Metric]:
        """No metrics, so that registering the collector reads nothing from the store."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        try:
            stats = self._queue.stats()
            now = stats.last_minute.at.timestamp() + stats.last_minute.seconds  # the store's time
            sums = self._totals.read(self._queue.operations.store, now)
        except QueueportError as error:
            failures.warning("the metrics could not be read: %s", error)
            return iter([_up(0)])
        return iter([_up(1), *_gauges(stats), *_counters(stats, sums)])


def exposition(queue: JobQueue, accept: str) -> tuple[bytes, str]:
    """The metrics in the format that the header `Accept` asks for, and its content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(JobsCollector(queue))
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # raised for a version that is not made of numbers
        encode, content_type = choose_encoder("")
    return encode(registry), content_type


@dataclass(frozen=True, slots=True)
class Settled:
    """The sums of the minutes from `start` until `end`, which do not change any more."""

    start: int
    end: int
    sums: Sums = field(default_factory=dict)


class Totals:
    """The number of each event in each queue since the latest reset. Thread-safe.

    All processes compute the same numbers, because the reset is at a fixed time, and the history has the minutes of the
    last 24 hours. So a number never decreases until the next reset. An object of this class remembers the sums of
    minutes that do not change any more, so that each scrape reads only the last minutes.
    """

    def __init__(self) -> None:
        self._settled = Settled(0, 0)

    def read(self, store: JobStore, now: float) -> Sums:
        """Read the totals. `now` is the store's time."""
        start, settled = start_of(DAY, now - RESET) + RESET, self._settled
        if settled.start != start:
            settled = Settled(start, start)
        end = start_of(MINUTE, now - SETTLED)
        if end >= settled.end + SETTLED:  # so only each tenth minute costs a second call
            settled = self._settled = Settled(start, end, _with(settled.sums, store, settled.end, end))
        return _with(settled.sums, store, settled.end, start_of(MINUTE, now) + MINUTE)


_totals: WeakKeyDictionary[JobQueue, Totals] = WeakKeyDictionary()
"""The totals of each queue. They outlive a collector, because the endpoint makes a new one for each scrape."""


def _with(sums: Sums, store: JobStore, since: int, until: int) -> Sums:
    """The sums, and what has happened from `since` to `until`."""
    added = defaultdict(Counter[str], {queue: Counter(counts) for queue, counts in sums.items()})
    if until > since:  # otherwise the store's clock was set back
        for found in store.history(HistoryQuery(since, until, until - since)):
            added[found.queue].update(found.counts)
    return added


def _bound(seconds: float) -> str:
    """The upper bound of a bucket, as OpenMetrics writes it."""
    text: str = floatToGoString(seconds)  # type: ignore[no-untyped-call]
    return text


def _up(value: int) -> Metric:
    return GaugeMetricFamily("queueport_up", "1 if the job store and the backend answer, else 0.", value)


def _gauges(stats: Stats) -> list[Metric]:
    jobs = GaugeMetricFamily("queueport_jobs", "Jobs in each state.", labels=["queue", "state"])
    depth = GaugeMetricFamily("queueport_queue_depth", "Messages that wait in the backend.", labels=["queue"])
    age = GaugeMetricFamily(
        "queueport_oldest_queued_age_seconds",
        "Time for which the oldest queued job has waited; 0 if no job is queued.",
        labels=["queue"],
    )
    serving = GaugeMetricFamily(
        "queueport_queue_workers", "Live worker processes that take jobs from this queue.", labels=["queue"]
    )
    paused = GaugeMetricFamily("queueport_queue_paused", "1 if the queue is paused, else 0.", labels=["queue"])
    concurrency = GaugeMetricFamily(
        "queueport_queue_concurrency_limit", "Jobs of this queue that may run at a time.", labels=["queue"]
    )
    rate = GaugeMetricFamily(
        "queueport_queue_rate_limit", "Jobs of this queue that may start in a second on average.", labels=["queue"]
    )
    served = Counter(name for worker in stats.workers for name in worker.queues)
    for name, queue in stats.queues.items():
        label = encodable(name)
        for state in JobState:
            jobs.add_metric([label, state.value], getattr(queue, state.value))
        if queue.depth is not None:
            depth.add_metric([label], queue.depth)
        age.add_metric([label], queue.oldest_queued_age or 0.0)
        serving.add_metric([label], served[name])
        paused.add_metric([label], queue.paused is not None)
        limit = queue.limit or QueueLimit()
        if limit.concurrency is not None:
            concurrency.add_metric([label], limit.concurrency)
        if limit.rate is not None:
            rate.add_metric([label], rate_of(limit.rate))
    workers = GaugeMetricFamily("queueport_workers", "Live worker processes.", len(stats.workers))
    limits = [family for family in (concurrency, rate) if family.samples]
    return [jobs, depth, age, serving, paused, *limits, workers]


def _counters(stats: Stats, sums: Sums) -> Iterator[Metric]:
    """The counters and histograms. Each known queue has all of them, so that Prometheus sees their first increase."""
    yield CounterMetricFamily("queueport_jobs_processed", "How often jobs have reached a final state.", stats.processed)
    queues = [(encodable(name), sums.get(name, {})) for name in sorted({*stats.queues, *sums})]
    for event, (name, text) in COUNTERS.items():
        counter = CounterMetricFamily(name, text, labels=["queue"])
        for label, counts in queues:
            counter.add_metric([label], counts.get(event, 0))
        yield counter
    for kind, (name, text) in HISTOGRAMS.items():
        histogram = HistogramMetricFamily(name, text, labels=["queue"])
        for label, counts in queues:
            numbers = [counts.get(f"{kind}{bucket}", 0) for bucket in range(len(MIDDLES))]
            reached = list(accumulate(numbers))
            bounds = [(_bound(bound), n) for bound, n in zip(BUCKETS[::EVERY], reached[::EVERY], strict=False)]
            total = sum(n * middle for n, middle in zip(numbers, MIDDLES, strict=True))
            histogram.add_metric([label], [*bounds, ("+Inf", reached[-1])], total)
        yield histogram

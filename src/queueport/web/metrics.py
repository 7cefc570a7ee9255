"""Prometheus metrics of all queues: `JobsCollector` for a registry, and the text for a scrape.

`pip install 'queueport[metrics]'`. Importing this module imports the Prometheus client.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from queueport.errors import encodable
from queueport.queue import JobQueue
from queueport.stats import Stats
from queueport.status import JobState

__all__ = ["JobsCollector", "exposition"]


class JobsCollector(Collector):
    """The metrics of a queue, read from its `stats` at each scrape. For a registry that the application exports.

        prometheus_client.REGISTRY.register(JobsCollector(queue))

    `collect` raises BackendUnavailable if the store or the backend does not answer. docs/monitoring.md describes the
    metrics.
    """

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def describe(self) -> Iterator[Metric]:
        """No metrics, so that registering the collector reads nothing from the store."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now. Raises BackendUnavailable."""
        return iter(_families(self._queue.stats()))


def exposition(queue: JobQueue, accept: str) -> tuple[bytes, str]:
    """The metrics in the format that the header `Accept` asks for, and its content type. Raises BackendUnavailable."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(JobsCollector(queue))
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # raised for a version that is not made of numbers
        encode, content_type = choose_encoder("")
    return encode(registry), content_type


def _families(stats: Stats) -> list[Metric]:
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
    return [
        jobs,
        depth,
        age,
        serving,
        paused,
        GaugeMetricFamily("queueport_workers", "Live worker processes.", len(stats.workers)),
        CounterMetricFamily("queueport_jobs_processed", "How often jobs have reached a final state.", stats.processed),
        CounterMetricFamily("queueport_attempts_failed", "Attempts that have failed or crashed.", stats.failed),
    ]

"""Reads and writes RQ's queues with RQ's own classes alone, as its tools do. For the tests of this adapter."""

from __future__ import annotations

import json
from collections.abc import Sequence

import redis
from rq import Queue
from rq.job import Job

ENTRY = "queueport_rq.job.run"


class RQ:
    """The RQ queues of one namespace."""

    def __init__(self, url: str, namespace: str) -> None:
        self.client = redis.Redis.from_url(url)
        self.namespace = namespace

    def queue(self, name: str) -> Queue:
        """RQ's object for a queue. `name` is the name that queueport uses."""
        return Queue(f"{self.namespace}.{name}", connection=self.client, serializer="json")

    def lose(self, name: str) -> None:
        """Delete the messages that wait in a queue."""
        self.client.delete(self.queue(name).key)

    def put(self, name: str, body: str) -> Job:
        """Enqueue a message with the given body."""
        return self.queue(name).enqueue(ENTRY, args=(body,), job_timeout=-1)

    def dead(self, name: str) -> Sequence[str]:
        """The ids of the jobs whose copies are in the registry of failed jobs."""
        failed = self.queue(name).failed_job_registry
        jobs = [failed.job_class.fetch(each, self.client, serializer="json") for each in failed.get_job_ids()]
        return [json.loads(job.args[0])["id"] for job in jobs]

    def requeue(self, name: str, job_id: str) -> None:
        """Do what `rq requeue` does."""
        failed = self.queue(name).failed_job_registry
        (mine,) = [each for each in failed.get_job_ids() if each.endswith(f"-{job_id}")]
        failed.requeue(mine)

    def clean(self) -> None:
        """Delete all keys of the namespace, those of RQ included."""
        for queue in [each for each in Queue.all(self.client) if each.name.startswith(self.namespace)]:
            registries = [queue.failed_job_registry, queue.finished_job_registry, queue.started_job_registry]
            ids = [*queue.job_ids, *(each for r in registries for each in r.get_job_ids(cleanup=False))]
            self.client.delete(*(key for each in ids for key in (Job.key_for(each), f"rq:results:{each}")), queue.key)
            self.client.delete(*(r.key for r in registries), queue.intermediate_queue_key, queue.registry_cleaning_key)
            self.client.srem(Queue.redis_queues_keys, queue.key)
            self.client.delete(f"rq:workers:{queue.name}")
        for pattern in (f"rq:*:{self.namespace}-*", f"rq:*:{self.namespace}.*", f"*{self.namespace}*"):
            keys = list(self.client.scan_iter(pattern, count=1000))
            if keys:
                self.client.delete(*keys)
        self.client.close()

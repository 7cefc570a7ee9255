"""What a job costs on RabbitMQ."""

from __future__ import annotations

import uuid
from collections import Counter
from pathlib import Path

import pytest

from queueport import get_queue
from tests.costs import Worker, count_store_calls, noop
from tests.servers import rabbitmq_server

JOBS = 96


def test_a_job_costs_two_store_calls_to_enqueue_and_less_than_one_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, namespace = f"sqlite:///{tmp_path}/jobs.db", f"costs_{uuid.uuid4().hex[:12]}"
    with get_queue(rabbitmq_server().url, store=store, namespace=namespace) as queue:
        worker = Worker(queue, [noop])
        try:
            with count_store_calls(queue.operations.store, monkeypatch) as found:
                queue.enqueue(noop, 1)
                assert found == Counter(insert=1, swap=1)
                queue.enqueue_many(noop.job(number) for number in range(JOBS - 1))
                assert found == Counter(insert=2, swap=2)
                found.clear()
                worker.run(JOBS)
                assert found["begin"] + found["swap"] < JOBS
        finally:
            queue.purge("default")

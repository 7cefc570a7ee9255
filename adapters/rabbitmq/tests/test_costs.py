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


def test_a_job_costs_one_store_call_to_enqueue_and_less_than_one_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, namespace = f"sqlite:///{tmp_path}/jobs.db", f"costs_{uuid.uuid4().hex[:12]}"
    with get_queue(rabbitmq_server().url, store=store, namespace=namespace) as queue:
        worker = Worker(queue, [noop])
        try:
            with count_store_calls(queue.operations.store, monkeypatch) as found:
                for number in range(JOBS):
                    queue.enqueue(noop, number)
                assert found["insert"] == JOBS
                queue.operations.marks.close(5.0)  # wait until all marks are written
                assert found["swap"] < JOBS / 2
                found.clear()
                queue.enqueue_many(noop.job(number) for number in range(JOBS))
                queue.operations.marks.close(5.0)
                assert found == Counter(insert=1, swap=1)
                found.clear()
                worker.run(2 * JOBS)
                assert found["begin"] + found["swap"] < 2 * JOBS
        finally:
            queue.purge("default")

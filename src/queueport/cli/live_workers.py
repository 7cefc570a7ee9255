"""`queueport workers`: list the live workers. For operators."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from queueport.cli import output
from queueport.cli.options import Json, Watch
from queueport.cli.watching import show
from queueport.queue import JobQueue
from queueport.stats import WorkerStats
from queueport.status import plain

if TYPE_CHECKING:
    from queueport.cli.tables import Table


def list_workers(queue: JobQueue, *, watch: Watch = None, as_json: Json = False) -> None:
    """List the live worker processes: their queues, the number of tasks that they know, and their last heartbeat."""

    def read() -> list[WorkerStats]:
        return sorted(queue.operations.store.workers(), key=lambda worker: worker.name)

    show(read, as_data, lambda workers: [worker_table(workers)], as_json=as_json, watch=watch)


def as_data(workers: Sequence[WorkerStats]) -> list[dict[str, object]]:
    """The workers as plain JSON values."""
    return [dataclasses.asdict(worker, dict_factory=plain) for worker in workers]


def worker_table(workers: Sequence[WorkerStats]) -> "Table":
    """A table with one row for each worker."""
    rows = [(w.name, ", ".join(w.queues), len(w.tasks), output.ago(w.heartbeat_at)) for w in workers]
    return output.table(("worker", "queues", ">tasks", ">last heartbeat"), rows)

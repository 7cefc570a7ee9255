"""One interface to the job queues that you already run. Applications import queueport's main names from here.

Integrations with web frameworks are in `queueport.contrib`, and helpers for tests in `queueport.testing`.

from queueport import get_queue, task

@task
def send_email(user_id: int) -> str: ...

queue = get_queue("sqlite:///jobs.db")
queue.enqueue(send_email, 42).result(timeout=10)
"""

from typing import TYPE_CHECKING, Any

from queueport import errors
from queueport.capability import Capability, Limits
from queueport.connect import get_queue
from queueport.context import Abort, RetryLater, current_job
from queueport.hooks import Event, around_job, before_enqueue, on_dead, on_event
from queueport.job import AsyncJobHandle, Job, JobHandle, chain
from queueport.job.recurrence import Recurrence, Schedule
from queueport.retry import Retry
from queueport.status import CancelOutcome, JobError, JobState, JobStatus
from queueport.tasks import Task, task

if TYPE_CHECKING:
    from queueport.aio import AsyncBatch, AsyncJobQueue
    from queueport.queue import JobQueue
    from queueport.queue.batch import Batch, BatchProgress
    from queueport.queue.dead_letters import DeadLetters
    from queueport.queue.schedules import Schedules
    from queueport.stats import Health, Stats
    from queueport.workers.worker import Worker

__all__ = [
    "Abort",
    "AsyncBatch",
    "AsyncJobHandle",
    "AsyncJobQueue",
    "Batch",
    "BatchProgress",
    "CancelOutcome",
    "Capability",
    "DeadLetters",
    "Event",
    "Health",
    "Job",
    "JobError",
    "JobHandle",
    "JobQueue",
    "JobState",
    "JobStatus",
    "Limits",
    "Recurrence",
    "Retry",
    "RetryLater",
    "Schedule",
    "Schedules",
    "Stats",
    "Task",
    "Worker",
    "around_job",
    "before_enqueue",
    "chain",
    "current_job",
    "errors",
    "get_queue",
    "on_dead",
    "on_event",
    "task",
]

__version__ = "0.1.0"

LAZY = {
    "AsyncBatch": "queueport.aio",
    "AsyncJobQueue": "queueport.aio",
    "Batch": "queueport.queue.batch",
    "BatchProgress": "queueport.queue.batch",
    "DeadLetters": "queueport.queue.dead_letters",
    "Health": "queueport.stats",
    "JobQueue": "queueport.queue",
    "Schedules": "queueport.queue.schedules",
    "Stats": "queueport.stats",
    "Worker": "queueport.workers.worker",
}
"""Names that are imported on first use, each with its module. A module that only declares tasks needs none of them, and
a producer without coroutines does not need asyncio, which is slow to import.
"""


def __getattr__(name: str) -> Any:
    if name in LAZY:
        from importlib import import_module

        return getattr(import_module(LAZY[name]), name)
    raise AttributeError(f"module 'queueport' has no attribute {name!r}")

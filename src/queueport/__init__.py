"""One job queue over the queues you already run. An application needs no more than what is named here.

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
from queueport.dead_letters import DeadLetters
from queueport.hooks import around_job, before_enqueue, on_dead
from queueport.job import Job
from queueport.queue import JobHandle, JobQueue
from queueport.retry import Retry
from queueport.stats import Health, Stats
from queueport.status import CancelOutcome, JobError, JobState, JobStatus
from queueport.tasks import Task, task

if TYPE_CHECKING:
    from queueport.aio import AsyncJobHandle, AsyncJobQueue
    from queueport.worker import Worker

__all__ = [
    "Abort",
    "AsyncJobHandle",
    "AsyncJobQueue",
    "CancelOutcome",
    "Capability",
    "DeadLetters",
    "Health",
    "Job",
    "JobError",
    "JobHandle",
    "JobQueue",
    "JobState",
    "JobStatus",
    "Limits",
    "Retry",
    "RetryLater",
    "Stats",
    "Task",
    "Worker",
    "around_job",
    "before_enqueue",
    "current_job",
    "errors",
    "get_queue",
    "on_dead",
    "task",
]

__version__ = "0.1.0"

LATER = {"AsyncJobHandle": "queueport.aio", "AsyncJobQueue": "queueport.aio", "Worker": "queueport.worker"}
"""What takes asyncio and is imported when it is first asked for, so that a producer starts quickly."""


def __getattr__(name: str) -> Any:
    if name in LATER:
        from importlib import import_module

        return getattr(import_module(LATER[name]), name)
    raise AttributeError(f"module 'queueport' has no attribute {name!r}")

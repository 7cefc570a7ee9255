"""The JSON of the endpoints: its types, and the functions that make it from `Stats` and `JobStatus`.

Annotations are not postponed here, because a TypedDict with postponed annotations does not know its required keys.
"""

from collections.abc import Collection
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic cannot read that of `typing` before Python 3.12

from queueport.spi.url import hidden
from queueport.stats import Counts, QueueStats, Stats
from queueport.status import JobStatus

__all__ = [
    "ErrorAnswer",
    "JobAnswer",
    "JobErrorAnswer",
    "JobsHealth",
    "Liveness",
    "ProgressAnswer",
    "QueueHealth",
    "Readiness",
    "job_answer",
    "jobs_health",
]

State = Literal["scheduled", "queued", "running", "retrying", "succeeded", "dead", "cancelled"]


class CountsAnswer(TypedDict):
    """The number of jobs in each state."""

    scheduled: int
    queued: int
    running: int
    retrying: int
    succeeded: int
    dead: int
    cancelled: int


class QueueHealth(CountsAnswer):
    """One queue. `size` is the number of jobs that wait for a worker, and `latency` the seconds for which the oldest of
    them has waited, 0 if there is none. `depth` is the number of messages in the backend, null if it cannot know it. No
    job of a `paused` queue starts.
    """

    size: int
    latency: float
    depth: int | None
    paused: bool


class JobsHealth(TypedDict):
    """The number of jobs and workers. `active` jobs are running; `workers` is the number of live worker processes.

    `processed` counts the jobs that have ended, and `failed` the attempts that have failed. Both never decrease.
    """

    active: int
    queued: int
    scheduled: int
    retrying: int
    dead: int
    processed: int
    failed: int
    workers: int
    totals: CountsAnswer
    queues: dict[str, QueueHealth]


class ProgressAnswer(TypedDict):
    """The progress that the job reported: `current` of `total` (null: unknown), and a message."""

    current: float
    total: float | None
    message: str | None


class JobErrorAnswer(TypedDict):
    """The latest error of the job. `traceback` is present only if the application shows it."""

    type: str
    message: str
    at: str
    attempt: int
    traceback: NotRequired[str]


class JobAnswer(TypedDict):
    """One job. Times are in ISO 8601. `args`, `kwargs` and `result` are present only if the application shows them."""

    id: str
    task: str
    queue: str
    state: State
    finished: bool
    reason: str | None
    attempts: int
    max_attempts: int | None
    enqueued_at: str
    run_at: str | None
    started_at: str | None
    finished_at: str | None
    next_attempt_at: str | None
    progress: ProgressAnswer | None
    error: JobErrorAnswer | None
    args: NotRequired[list[Any]]
    kwargs: NotRequired[dict[str, Any]]
    result: NotRequired[Any]


class Liveness(TypedDict):
    """The process answers requests."""

    alive: bool


class Readiness(TypedDict):
    """Whether the job store answers and no limit is exceeded, and one sentence for each problem."""

    ready: bool
    problems: list[str]


class ErrorAnswer(TypedDict):
    """Why the request failed."""

    error: str


def jobs_health(stats: Stats) -> JobsHealth:
    """The answer to `GET /health/jobs`."""
    return {
        "active": stats.totals.running,
        "queued": stats.totals.queued,
        "scheduled": stats.totals.scheduled,
        "retrying": stats.totals.retrying,
        "dead": stats.totals.dead,
        "processed": stats.processed,
        "failed": stats.failed,
        "workers": len(stats.workers),
        "totals": _counts(stats.totals),
        "queues": {name: _queue_health(queue) for name, queue in stats.queues.items()},
    }


def _queue_health(queue: QueueStats) -> QueueHealth:
    return {
        **_counts(queue),
        "size": queue.queued,
        "latency": queue.oldest_queued_age or 0.0,
        "depth": queue.depth,
        "paused": queue.paused is not None,
    }


def _counts(counts: Counts) -> CountsAnswer:
    return {
        "scheduled": counts.scheduled,
        "queued": counts.queued,
        "running": counts.running,
        "retrying": counts.retrying,
        "succeeded": counts.succeeded,
        "dead": counts.dead,
        "cancelled": counts.cancelled,
    }


def job_answer(status: JobStatus, show: Collection[str]) -> JobAnswer:
    """The answer about a job, with those of its "arguments", "result" and "traceback" that are in `show`.

    Passwords of URLs in its error are hidden.
    """
    fields = status.as_dict()
    answer: Any = {name: fields[name] for name in JobAnswer.__required_keys__}
    if status.error is not None:
        error = {**fields["error"], "message": hidden(status.error.message)}
        answer["error"] = {name: error[name] for name in JobErrorAnswer.__required_keys__}
        if "traceback" in show:
            answer["error"]["traceback"] = hidden(status.error.traceback)
    if "arguments" in show:
        answer |= {"args": status.args, "kwargs": status.kwargs}
    if "result" in show:
        answer["result"] = status.result
    made: JobAnswer = answer
    return made

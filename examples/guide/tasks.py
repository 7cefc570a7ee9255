"""The tasks of the guide: retries with backoff, progress, idempotency, and what happens to jobs that are given up."""

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from guide import outside
from queueport import JobStatus, Retry, current_job, on_dead, task

T = TypeVar("T")
logger = logging.getLogger(__name__)

PERSISTENT = Retry(max_attempts=6, initial=1.0, factor=2.0, maximum=600.0, jitter=0.5)
"""Five retries after every error, with exponential backoff up to 600 s and jitter."""


class UploadFailed(Exception):
    """A file could not be processed. The message contains the cause."""


@task(queue="upload-processing", retry=Retry(max_attempts=5, initial=2.0, abort_on=(FileNotFoundError,)), timeout=300.0)
def process_upload(file_id: str) -> dict[str, str]:
    """Process a file once, even if the job runs again after a crash: a recorded result is returned at once."""
    recorded = outside.recorded_result(file_id)
    if recorded is not None:
        return recorded
    job = current_job()
    job.progress(10, total=100, message="reading")
    try:
        content = outside.read_upload(file_id)
    except ConnectionError as error:
        raise UploadFailed(f"could not read {file_id}: {error}") from error
    job.progress(50, total=100, message="scanning")
    result = {"status": "completed", "file_id": file_id, "bytes": str(len(content))}
    job.progress(90, total=100, message="recording")
    outside.record_result(file_id, result)
    job.progress(100, total=100)
    return result


@task(queue="mailers", retry=PERSISTENT)
def send_email(user_id: int, template: str, params: dict[str, Any]) -> None:
    """Send a mail. An error is logged and raised, so that the job is retried."""
    try:
        outside.append("mails", {"to": user_id, "template": template, "params": params, "job": current_job().id})
    except OSError:
        logger.exception("mail %s to user %d failed in attempt %d", template, user_id, current_job().attempt)
        raise


@task(retry=Retry(max_attempts=1))
def log_visit(page: str, user: str) -> None:
    """Fire and forget: an error is logged by the worker, and nobody waits for it.

    A guide's handler would run a closure after the response. A closure cannot be sent to another process: write it as a
    task, and pass the values that it captures as arguments.
    """
    outside.append("visits", {"page": page, "user": user})


def retry_with_backoff(call: Callable[[], T], attempts: int = 3, first: float = 1.0) -> T:
    """Retry within one attempt of a job, after 1 s, 2 s and so on. The wait occupies a thread of the worker.

    Use it for short waits. A `Retry` of the task waits in the store, and survives a crash.
    """
    for attempt in range(attempts - 1):
        try:
            return call()
        except Exception:  # noqa: BLE001  # every error is retried
            time.sleep(first * 2**attempt)
    return call()


@on_dead
def push_to_dead_letter_queue(status: JobStatus) -> None:
    """Keep the original data and the error of each job that was given up, and alert somebody.

    queueport has its own dead letters, `queue.dead_letters`. This hook is for an additional system. `dead_letters.add`
    does not call hooks: after it, call this function with `handle.status()`.
    """
    error = None if status.error is None else f"{status.error.type}: {status.error.message}"
    outside.append("dead", {"task": status.task, "args": status.args, "kwargs": status.kwargs, "error": error})

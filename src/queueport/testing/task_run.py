"""`run_task`, which runs the code of one task as a worker does. For tests of applications."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from queueport.context import CurrentJob
from queueport.errors import JobCancelled, JobFailed
from queueport.spi.record import Change
from queueport.spi.store import Swap
from queueport.status import Progress
from queueport.tasks import Task
from queueport.testing.fake_queue import FakeQueue
from queueport.workers.attempt import Attempt
from queueport.workers.runner import Runner

__all__ = ["TaskRun", "run_task"]


@dataclass(slots=True)
class TaskRun:
    """The result of `run_task`: `result` is the task's result, or `error` is the exception that ended the attempt.

    `error` is JobFailed if the result cannot be encoded or is too large. `error` is JobCancelled if the task has
    returned although the job was cancelled meanwhile.
    """

    result: Any = None
    error: BaseException | None = None
    progress: list[Progress] = field(default_factory=list)
    """Every valid progress report, in order."""
    log: list[logging.LogRecord] = field(default_factory=list)
    """The log records of the level INFO and above that reach the root logger, without those of the logger
    `queueport`."""


def run_task(
    task: Task[..., Any, Any],
    /,
    *args: Any,
    kwargs: Mapping[str, Any] | None = None,
    attempt: int = 1,
    headers: Mapping[str, str] | None = None,
) -> TaskRun:
    """Run the code of a task once, with a `current_job()`. Returns its result, its progress and its log.

    If the task raises an exception, `run_task` does not raise it, but returns it as `error`.

        run = run_task(resize, 42, attempt=3)
        assert run.result == 7
        assert run.progress[-1].current == 100

    A plain task runs in this thread, an `async def` task in a new event loop in another thread. Arguments and result
    are encoded and decoded as on a queue. Hooks are called as on a queue: `before_enqueue`, `around_job`, `on_event`,
    and `on_dead` if the attempt makes the job dead. Timeouts do not interrupt the task. `attempt` is the value of
    `current_job().attempt`. The default queue inside the task is a new `FakeQueue`. Raises InvalidJob for wrong
    arguments, ValueError for an attempt below 1, TypeError if `task` is not a task, and the errors of `before_enqueue`
    hooks.
    """
    if not isinstance(task, Task):
        raise TypeError(f"run_task takes a task, not {task!r}: decorate the function with @task")
    if attempt < 1:
        raise ValueError(f"attempts count from 1: {attempt} is too small")
    ran = TaskRun()
    raised: list[BaseException] = []

    def run(runner: Runner, begun: Attempt) -> bool:
        begun.job = _RecordedJob(ran.progress, begun.job)
        begun.on_error = raised.append
        return queue.run(runner, begun)

    with FakeQueue() as queue, _logged(ran.log):
        handle = queue.enqueue(task.using(headers=headers).job(*args, **(kwargs or {})))
        record = queue.operations.read(handle.id)
        earlier = Swap(record.id, record.rev, Change({"attempts": attempt - 1}), "run_task")
        queue.operations.store.swap([earlier])
        queue.begin(record, run, [task])
        if not raised:
            try:
                ran.result = queue.result(handle.id, task=task)
            except (JobFailed, JobCancelled) as error:  # the result cannot be stored, or the job was cancelled
                raised.append(error)
    ran.error = raised[-1] if raised else None
    return ran


class _RecordedJob(CurrentJob):
    """A `CurrentJob` that adds every valid progress report to a list."""

    def __init__(self, reports: list[Progress], job: CurrentJob) -> None:
        super().__init__(**{each.name: getattr(job, each.name) for each in fields(job)})
        self._reports = reports

    def progress(self, current: float, total: float | None = None, message: str | None = None) -> None:
        super().progress(current, total, message)
        if self.latest_progress is not None:
            self._reports.append(self.latest_progress)


@contextmanager
def _logged(records: list[logging.LogRecord]) -> Iterator[None]:
    """Inside this context, append the log records that `TaskRun.log` describes to the list."""
    root, handler = logging.getLogger(), logging.Handler(logging.INFO)
    handler.emit = lambda record: None if record.name == "queueport" else records.append(record)  # type: ignore[method-assign]
    level = root.level
    root.addHandler(handler)
    root.setLevel(min(level, logging.INFO))
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)

"""`TasksBackend`: runs the tasks of `django.tasks`, or of `django-tasks` before Django 6, on queueport."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

from django.core import checks
from django.utils import timezone
from django.utils.module_loading import import_string

from queueport.capability import Capability
from queueport.connect import get_queue
from queueport.context import current_job
from queueport.contrib.django.transactions import defer_to_commit, enqueue_at_once, enqueues_on_commit
from queueport.errors import BackendUnavailable, ConfigurationError, InvalidJob, JobNotFound, Unsupported
from queueport.job import HIGHEST_PRIORITY, Options
from queueport.queue import JobQueue
from queueport.retry import Retry
from queueport.status import JobState, JobStatus
from queueport.tasks import Task, registry

PACKAGE = "django.tasks" if find_spec("django.tasks") else "django_tasks"
base: Any = import_module(f"{PACKAGE}.base")
signals: Any = import_module(f"{PACKAGE}.signals")
exceptions: Any = import_module(f"{PACKAGE}.exceptions")
normalize_json: Any = base.normalize_json
BaseTaskBackend: Any = import_module(f"{PACKAGE}.backends.base").BaseTaskBackend
Status: Any = base.TaskResultStatus

__all__ = ["TasksBackend"]

STATES = {
    JobState.SCHEDULED: Status.READY,
    JobState.QUEUED: Status.READY,
    JobState.RETRYING: Status.READY,
    JobState.RUNNING: Status.RUNNING,
    JobState.SUCCEEDED: Status.SUCCESSFUL,
    JobState.DEAD: Status.FAILED,
    JobState.CANCELLED: Status.FAILED,
}
"""Django's status for each state of a job."""


class TasksBackend(BaseTaskBackend):  # type: ignore[misc]  # its type depends on the package
    """A backend of `TASKS`. Its `OPTIONS`, all of which may be left out:

    - `url`, `store` and the other settings of `get_queue`: open a separate queue; default: the queue of `get_queue()`.
    - `max_attempts`: the number of failed attempts after which a job is dead; default 1, because Django's tasks are not
      retried. A job whose worker was lost runs again nevertheless, up to the setting `crash_limit`.
    - `timeout`: the seconds that one attempt may take; default: no limit.
    - `enqueue_on_commit`: True: in a transaction of the default database, enqueue when this transaction is committed;
      default: ENQUEUE_ON_COMMIT of the setting QUEUEPORT, or else False.

    Arguments and results are plain JSON values, as Django documents. Django's priorities -100 to 100 become -10 to 10.
    """

    supports_defer = True
    supports_async_task = True
    supports_get_result = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        settings = dict(self.options)
        self._on_commit: bool = settings.pop("enqueue_on_commit", enqueues_on_commit())
        policy = Retry(max_attempts=settings.pop("max_attempts", 1))
        self._task_options = Options(retry=policy, timeout=settings.pop("timeout", None))
        self._settings = settings

    @functools.cached_property
    def _own(self) -> JobQueue:
        return get_queue(self._settings.get("url"), **{k: v for k, v in self._settings.items() if k != "url"})

    @property
    def queue(self) -> JobQueue:
        """The queue of this backend. Raises ConfigurationError or Unsupported if it cannot be opened."""
        return self._own if self._settings else get_queue()

    @property
    def supports_priority(self) -> bool:
        """True if the queue's backend has priorities, or if the queue cannot be opened."""
        try:
            return Capability.PRIORITY in self.queue.capabilities
        except (ConfigurationError, Unsupported):
            return True

    def check(self, **_: Any) -> Iterable[checks.CheckMessage]:
        """For `manage.py check`: return an error if the separate queue of this backend cannot be opened. The app checks
        the project's queue.
        """
        try:
            if self._settings:
                self._own  # noqa: B018  # raises if the queue cannot be opened
        except (ConfigurationError, Unsupported) as error:
            return [checks.Error(str(error), id="queueport.E002", obj=self.alias)]
        return []

    def validate_task(self, task: Any) -> None:
        """Check a task as Django does, and, on the first call for this task, register it for workers in this process.

        Raises InvalidTask (`django-tasks`: InvalidTaskError). When the task is registered, raises InvalidJob if
        queueport does not allow the name of the task's queue.
        """
        super().validate_task(task)
        if registry.get(task.module_path) is None:
            function = self._coroutine(task) if inspect.iscoroutinefunction(task.func) else self._function(task)
            options = dataclasses.replace(self._task_options, queue=task.queue_name)
            registry.add(Task(task.module_path, function, options=options))

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Enqueue a job of a task. Returns Django's result, with the id of the job.

        Raises TypeError for wrong arguments, and the errors of `validate_task`, `queue` and `JobQueue.enqueue`. With
        the option `enqueue_on_commit`, in a transaction of the default database and outside `enqueue_at_once`, the
        job is enqueued by the commit. The commit then raises the errors of `queue` and `JobQueue.enqueue`, and the
        transaction stays committed.
        """
        self.validate_task(task)
        result = _result(task, self.alias, args=list(args), kwargs=dict(kwargs))
        run_after: datetime | None = task.run_after
        known = cast("Task[..., Any, Any]", registry.get(task.module_path))
        chosen = known.using(
            queue=task.queue_name,
            priority=round(task.priority * HIGHEST_PRIORITY / base.TASK_MAX_PRIORITY) or None,
            run_at=timezone.make_aware(run_after)
            if run_after is not None and timezone.is_naive(run_after)
            else run_after,
        )
        try:
            job = chosen.job(*result.args, **result.kwargs)
        except InvalidJob as error:
            raise TypeError(str(error)) from error
        object.__setattr__(result, "id", job.id)  # Django's own backends change a frozen result in this way, too
        if not (self._on_commit and defer_to_commit(lambda: self._send(job, result))):
            self._send(job, result)
        return result

    def get_result(self, result_id: str) -> Any:
        """The result of the job with this id.

        Raises TaskResultDoesNotExist if the job does not exist, if the job's task cannot be imported or is not a Django
        task, or after a ConfigurationError, such as a queue that cannot be opened. Raises BackendUnavailable; and
        InvalidTask (`django-tasks`: InvalidTaskError) if the job's queue is not in QUEUES of the task's backend.
        """
        try:
            return self._read(self.queue.status(result_id))
        except BackendUnavailable:  # first, because BackendMisconfigured is also a ConfigurationError
            raise
        except (JobNotFound, ConfigurationError, ImportError) as error:
            raise exceptions.TaskResultDoesNotExist(result_id) from error

    def _send(self, job: Any, result: Any) -> None:
        with enqueue_at_once():
            self.queue.enqueue(job)
        object.__setattr__(result, "enqueued_at", timezone.now())
        signals.task_enqueued.send(type(self), task_result=result)

    def _read(self, status: JobStatus) -> Any:
        """Make a result from the status of a job. Raises ImportError if the job's task cannot be imported or is not a
        Django task.
        """
        task = import_string(status.task)
        if not isinstance(task, base.Task):
            raise ImportError(f"{status.task} is not a Django task")  # noqa: TRY004  # the same as for a missing task
        result = _result(
            task.using(queue_name=status.queue, run_after=status.run_at),
            self.alias,
            id=status.id,
            status=STATES[status.state],
            enqueued_at=status.enqueued_at,
            started_at=status.started_at,
            last_attempted_at=status.started_at,
            finished_at=status.finished_at,
            args=status.args,
            kwargs=status.kwargs,
            errors=[base.TaskError(exception_class_path=_path(e.type), traceback=e.traceback) for e in status.errors],
            worker_ids=[status.worker or ""] * status.attempts,
        )
        object.__setattr__(result, "_return_value", status.result)
        return result

    # -- the code that a worker runs ------------------------------------------------------------------

    def _function(self, task: Any) -> Any:
        @functools.wraps(task.func)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self._attempt(task) as context:
                return normalize_json(task.func(*context, *args, **kwargs))

        return _without_context(run, task)

    def _coroutine(self, task: Any) -> Any:
        @functools.wraps(task.func)
        async def run(*args: Any, **kwargs: Any) -> Any:
            with self._attempt(task) as context:
                return normalize_json(await task.func(*context, *args, **kwargs))

        return _without_context(run, task)

    @contextmanager
    def _attempt(self, task: Any) -> Iterator[Sequence[Any]]:
        """Send Django's signals before and after the code of a task.

        Yields the arguments to pass before those of the job: Django's context, or none if the task takes no context.
        """
        running = self._started()
        try:
            yield (base.TaskContext(task_result=running),) if task.takes_context else ()
        except BaseException:
            self._finished(running, Status.FAILED)
            raise
        self._finished(running, Status.SUCCESSFUL)

    def _started(self) -> Any:
        result = self._read(current_job().status())
        signals.task_started.send(sender=type(self), task_result=result)
        return result

    def _finished(self, result: Any, status: Any) -> None:
        object.__setattr__(result, "status", status)
        object.__setattr__(result, "finished_at", timezone.now())
        signals.task_finished.send(type(self), task_result=result)


def _result(task: Any, alias: str, **known: Any) -> Any:
    """Make a result with these values; the other values are those of a new result."""
    new: dict[str, Any] = {
        "id": "",
        "status": Status.READY,
        "enqueued_at": None,
        "started_at": None,
        "finished_at": None,
        "last_attempted_at": None,
        "errors": [],
        "worker_ids": [],
    }
    return base.TaskResult(task=task, backend=alias, **{**new, **known})


def _without_context(run: Any, task: Any) -> Any:
    """Set the signature of `run` to the one that callers see: without the context argument, and without annotations.

    Without annotations, arguments and results are plain JSON values, as Django documents.
    """
    parameters = [p.replace(annotation=p.empty) for p in inspect.signature(task.func).parameters.values()]
    run.__signature__ = inspect.Signature(parameters[1:] if task.takes_context else parameters)
    return run


def _path(name: str) -> str:
    """The import path of an exception class. Adds `builtins`, which is left out in the names that queueport records."""
    return name if "." in name else f"builtins.{name}"

"""Hooks of an application: before a job is enqueued, around each attempt, after the death of a job, and on events."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeVar

from queueport.context import CurrentJob
from queueport.errors import ConfigurationError, log_error
from queueport.job import Job
from queueport.status import JobError, JobState, JobStatus
from queueport.tasks import declaring_module, hook_modules, registry

__all__ = ["Event", "EventName", "around_job", "before_enqueue", "on_dead", "on_event"]

logger: logging.Logger = logging.getLogger("queueport")

AroundHook = TypeVar("AroundHook", bound=Callable[[CurrentJob], Any])
BeforeHook = TypeVar("BeforeHook", bound=Callable[[Job[Any]], Job[Any]])
DeadHook = TypeVar("DeadHook", bound=Callable[[JobStatus], object])

EventName = Literal[
    "enqueued",
    "started",
    "succeeded",
    "failed",
    "retrying",
    "dead",
    "cancelled",
    "worker_started",
    "worker_stopped",
    "worker_lost",
    "put_aside",
]
"""The names of events. `docs/telemetry.md` says when each event occurs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One change of a job or of a worker, for the hooks of `on_event`."""

    name: EventName
    at: datetime
    """The time at which the event was made, in UTC, by the clock of this machine."""
    backend: str
    """The name of the backend, as `JobQueue.backend`."""
    job_id: str | None = None
    """The id of the job. None for events of workers and for `put_aside`, as are `task`, `queue` and `state`."""
    task: str | None = None
    queue: str | None = None
    state: JobState | None = None
    """The state of the job after the change."""
    attempt: int = 0
    """The number of the job's attempts so far. For events of an attempt, the number of this attempt, from 1."""
    duration: float | None = None
    """If the event is the end of an attempt: the seconds from its begin to its recorded end, by the store's clock. None
    for other events, and if a dispatcher has ended the attempt because its worker was lost."""
    error: JobError | None = None
    """For `failed`, `retrying` and `dead`: the error, with type, message and traceback; None if there is none."""
    reason: str | None = None
    """For `cancelled`: the reason, as `JobStatus.reason`. For `put_aside`: why the worker cannot use the message."""
    worker: str | None = None
    """The name of the worker that the event is about, or that ran the job's latest attempt; None if there is none."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """The headers of the job."""


EventHook = TypeVar("EventHook", bound=Callable[[Event], object])

_around: list[Callable[[CurrentJob], AbstractContextManager[Any]]] = []
_before: list[Callable[[Job[Any]], Job[Any]]] = []
_dead: list[Callable[[JobStatus], object]] = []
event_hooks: list[Callable[[Event], object]] = []
"""The hooks that `on_event` registered. The code that makes events first checks that this list is not empty."""


def around_job(hook: AroundHook) -> AroundHook:
    """Register a context manager that surrounds each attempt, in the thread or coroutine of the task.

        @around_job
        def transaction(job):
            with database.begin():
                yield

    `hook` takes a `CurrentJob`. It is a generator function with one `yield`, or returns a context manager. The hook
    that was registered first is the outermost. An error that a hook raises is the error of the attempt, even if the
    task has returned. A hook must not suppress an error of the task: the attempt would fail with ConfigurationError.
    Workers must import the module that registers the hook.

    Raises ConfigurationError if `hook` is not callable.
    """
    _check_callable(hook, "around_job")
    _add(_around, contextmanager(hook) if inspect.isgeneratorfunction(hook) else hook)
    return hook


def before_enqueue(hook: BeforeHook) -> BeforeHook:
    """Register a function that takes each job before this process enqueues it, and returns the job to enqueue instead.

        @before_enqueue
        def add_trace(job):
            return replace(job, headers={**job.headers, "traceparent": current_trace()})

    `enqueue` raises the errors of the hook, and ConfigurationError if the hook returns no Job. A dispatcher calls the
    hook for the jobs of schedules, and logs its errors. The hook is not called for `DeadLetters.add`, nor when a job is
    retried. Raises ConfigurationError if `hook` is not callable.
    """
    _check_callable(hook, "before_enqueue")
    _add(_before, hook)
    return hook


def on_dead(hook: DeadHook) -> DeadHook:
    """Register a function that is called with the `JobStatus` of each job that died. For one task: `Task.on_dead`.

    The process that recorded the death calls the hook, at most once: not if that process crashes before the call, or
    does not learn that its write was applied. That process is usually a worker, so register the hook in a module that
    workers import. The hook is not called for `DeadLetters.add`. If a hook raises, the error is logged. Raises
    ConfigurationError if `hook` is not callable.
    """
    _check_callable(hook, "on_dead")
    _add(_dead, hook)
    return hook


def on_event(hook: EventHook) -> EventHook:
    """Register a function that is called with an `Event` when a job or a worker has changed.

        @on_event
        def count(event):
            statsd.increment(f"jobs.{event.name}", tags=[f"queue:{event.queue}"])

    The process that made the change calls the hook, after the store has applied the change, in a copy of the present
    context. So register the hook in a module that producers and workers import. The hook is called once for each
    change, but not if that process crashes before the call, or does not learn that its write was applied. Several
    processes that notice a lost worker at the same moment may each call the hook for `worker_lost`. The caller waits
    until the hook returns. If a hook raises, the error is logged, and repeated errors at growing intervals.
    Raises ConfigurationError if `hook` is not callable.
    """
    _check_callable(hook, "on_event")
    _add(event_hooks, hook)
    return hook


def remove(hook: Callable[..., Any]) -> None:
    """Unregister a hook. For integrations that can be switched off. Has no effect on a generator function of
    `around_job`.
    """
    for hooks in (_around, _before, _dead, event_hooks):
        if hook in hooks:
            hooks.remove(hook)
            hook_modules.pop(id(hook), None)


Send = Callable[[Sequence[Job[Any]]], list[Any]]
"""Sends jobs, and returns what `Enqueue.accept` returns."""
around_send: Callable[[Sequence[Job[Any]], str, Send], list[Any]] | None = None
"""`JobQueue` calls this hook with the jobs to send, the name of the backend, and the function that sends them. The hook
must call that function and return its result. `queueport.contrib.opentelemetry` sets the hook."""


def _at_once(_send: Callable[[], object]) -> bool:
    return False


defer: Callable[[Callable[[], object]], bool] = _at_once
"""`JobQueue` calls this hook with a function that sends jobs. The hook returns True if it will call that function
later, and False if `JobQueue` must call the function now. `queueport.contrib.django` replaces the hook, to wait for the
commit of a transaction; after a rollback, the function is not called."""


def call_before_enqueue(job: Job[Any]) -> Job[Any]:
    """Pass the job through every before_enqueue hook. For the queue.

    Raises ConfigurationError if a hook returns no Job.
    """
    for hook in _before:
        job = hook(job)
        if not isinstance(job, Job):
            raise ConfigurationError(f"the before_enqueue hook {hook!r} must return a Job, not {type(job).__name__}")
    return job


def enter_around_job(job: CurrentJob) -> AbstractContextManager[object]:
    """A context manager that enters the context managers of all around_job hooks. For `Attempt`."""
    return _entered(job) if _around else _NO_HOOKS


@contextmanager
def _entered(job: CurrentJob) -> Iterator[None]:
    with ExitStack() as stack:
        for hook in _around:
            stack.enter_context(hook(job))
        yield
        return
    raise ConfigurationError("an around_job hook has suppressed an error: let the hook raise it again")


_NO_HOOKS = nullcontext()


def call_on_dead(status: JobStatus) -> None:
    """Call the on_dead hooks of the job's task, then the hooks for all tasks. An error that a hook raises is logged."""
    task = registry.get(status.task)
    for hook in [*(task.dead_hooks if task is not None else ()), *_dead]:
        try:
            hook(status)
        except BaseException as error:  # noqa: BLE001  # sys.exit() in a hook must not end the worker's thread
            message = "an on_dead hook of job %s (%s) raised; the job stays dead"
            log_error(logger, error, message, status.id, status.task)


def modules() -> list[str]:
    """The names of the modules that define and register hooks. A worker's child processes import these modules."""
    dead = [hook for task in registry.tasks() for hook in task.dead_hooks]
    names: dict[str, None] = {}
    for hook in (*_around, *_before, *_dead, *event_hooks, *dead):
        registered_in = hook_modules.get(id(hook), hook.__module__)
        names |= {hook.__module__ or registered_in: None, registered_in: None}  # a built-in method has no module
    return list(names)


def _add(hooks: list[Any], hook: Any) -> None:
    hooks.append(hook)
    hook_modules[id(hook)] = declaring_module(hook.__module__)


def _check_callable(hook: object, name: str) -> None:
    if not callable(hook):
        raise ConfigurationError(f"@{name} takes a function, not {type(hook).__name__}")

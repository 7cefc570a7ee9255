"""What an application hangs around its jobs: sessions and tenants, trace headers, alarms on death."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

from queueport.context import CurrentJob
from queueport.errors import ConfigurationError
from queueport.job import Job
from queueport.status import JobStatus
from queueport.tasks import registry

__all__ = ["around_job", "before_enqueue", "on_dead"]

logger: logging.Logger = logging.getLogger("queueport")

Around = TypeVar("Around", bound=Callable[[CurrentJob], Any])
Before = TypeVar("Before", bound=Callable[[Job[Any]], Job[Any]])
Death = TypeVar("Death", bound=Callable[[JobStatus], object])

_around: list[Callable[[CurrentJob], AbstractContextManager[Any]]] = []
_before: list[Callable[[Job[Any]], Job[Any]]] = []
_deaths: list[Callable[[JobStatus], object]] = []


def around_job(hook: Around) -> Around:
    """Register a context manager around each job, in the job's own thread; the first registered is the outermost.

        @around_job
        def tenant(job):
            with use_tenant(job.headers["tenant"]):
                yield

    Takes a generator function with one `yield`, or whatever makes a context manager of a `CurrentJob`. What it
    raises is the job's own error.
    """
    _callable(hook, "around_job")
    _around.append(contextmanager(hook) if inspect.isgeneratorfunction(hook) else hook)
    return hook


def before_enqueue(hook: Before) -> Before:
    """Register a function (job) -> job, called before each job is recorded: to add headers or trace context."""
    _callable(hook, "before_enqueue")
    _before.append(hook)
    return hook


def on_dead(hook: Death) -> Death:
    """Register a function (status) -> None for the death of any job, called in the worker that declared it."""
    _callable(hook, "on_dead")
    _deaths.append(hook)
    return hook


def prepare(job: Job[Any]) -> Job[Any]:
    """The job after every before_enqueue hook; for the queue."""
    for hook in _before:
        job = hook(job)
        if not isinstance(job, Job):
            raise ConfigurationError(f"the before_enqueue hook {hook!r} must return a Job, not {type(job).__name__}")
    return job


@contextmanager
def surround(job: CurrentJob) -> Iterator[None]:
    """All around_job hooks entered; for the runner."""
    with ExitStack() as stack:
        for hook in _around:
            stack.enter_context(hook(job))
        yield


def tell_death(status: JobStatus) -> None:
    """Call the task's hooks and everybody's; a hook that raises is logged, and the next one is called."""
    task = registry.get(status.task)
    for hook in [*(task.dead_hooks if task is not None else ()), *_deaths]:
        try:
            hook(status)
        except Exception:
            logger.exception(
                "job %s (%s): its on_dead hook raised; the job is dead all the same", status.id, status.task
            )


def modules() -> list[str]:
    """The modules that hooks come from, in their order, for a worker's other processes."""
    dead = [hook for task in registry.tasks() for hook in task.dead_hooks]
    return list(dict.fromkeys(hook.__module__ for hook in (*_around, *_before, *_deaths, *dead)))


@contextmanager
def isolated() -> Iterator[None]:
    """Hooks registered within are forgotten; for tests."""
    kept = list(_around), list(_before), list(_deaths)
    try:
        yield
    finally:
        _around[:], _before[:], _deaths[:] = kept


def _callable(hook: object, name: str) -> None:
    if not callable(hook):
        raise ConfigurationError(f"@{name} takes a function, not {type(hook).__name__}")

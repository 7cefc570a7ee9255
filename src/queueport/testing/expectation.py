"""`Expected`: compares enqueued jobs with the values that a test expects, and explains differences. For `FakeQueue`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NoReturn

from queueport.errors import InvalidJob
from queueport.status import JobStatus
from queueport.tasks import Task, registry

__all__ = ["Expected"]

SHOWN = 20
"""The maximum number of jobs that the text of a failure lists."""


class Expected:
    """The values that a test expects of a job. None means any value.

    Raises TypeError if `task` is neither a task nor a name.
    """

    def __init__(
        self,
        task: Task[..., Any, Any] | str,
        *,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        queue: str | None = None,
        delay: float | timedelta | None = None,
        key: str | None = None,
    ) -> None:
        if not isinstance(task, Task | str):
            raise TypeError(f"expected a task or the name of a task, not {task!r}: decorate the function with @task")
        known = task if isinstance(task, Task) else registry.get(task)
        self._task = task if isinstance(task, str) else task.name
        self._decode: Callable[[bytes], tuple[Any, Any]] | None = None if known is None else known.signature.decode
        seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
        given = {
            "args": None if args is None else tuple(args),
            "kwargs": None if kwargs is None else dict(kwargs),
            "queue": queue,
            "delay": None if seconds is None else float(seconds),
            "key": key,
        }
        self._given = {name: value for name, value in given.items() if value is not None}

    def find(self, jobs: Sequence[JobStatus], count: int | None) -> list[JobStatus]:
        """The jobs that match.

        Raises AssertionError if the number of these jobs is not `count`, or, if `count` is None, if no job matches.
        """
        matching = [job for job in jobs if job.task == self._task and not self._differences(job)]
        if count is None and not matching:
            self.fail(f"no job {self} was enqueued{self._nearest(jobs)}", jobs)
        if count is not None and len(matching) != count:
            nearest = self._nearest(jobs) if len(matching) < count else ""
            self.fail(f"expected {count} jobs {self}, but {len(matching)} were enqueued{nearest}", jobs)
        return matching

    def find_none(self, jobs: Sequence[JobStatus]) -> None:
        """Raise AssertionError if a job matches."""
        if any(job.task == self._task and not self._differences(job) for job in jobs):
            self.fail(f"no job {self} should be enqueued", jobs)

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self._given.items())
        return f"of {self._task}{' with ' if given else ''}{given}"

    def _differences(self, job: JobStatus) -> dict[str, tuple[Any, Any]]:
        """The values that differ from the expected ones, by name: for each, the job's value and the expected value."""
        args, kwargs = self._arguments(job)
        delay = None if job.run_at is None else round((job.run_at - job.enqueued_at).total_seconds(), 3)
        found = {"args": args, "kwargs": kwargs, "queue": job.queue, "delay": delay, "key": job.key}
        return {name: (found[name], value) for name, value in self._given.items() if found[name] != value}

    def _arguments(self, job: JobStatus) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, decoded to the annotated types if this is possible; otherwise as plain JSON values."""
        payload = json.dumps({"args": job.args, "kwargs": job.kwargs}).encode()
        try:
            return (tuple(job.args), job.kwargs) if self._decode is None else self._decode(payload)
        except InvalidJob:
            return tuple(job.args), job.kwargs

    def _nearest(self, jobs: Sequence[JobStatus]) -> str:
        """The last part of an error's text: those values of the most similar job that differ from the expected ones.

        Returns "" if there is no job of this task that differs.
        """
        different = [found for job in jobs if job.task == self._task and (found := self._differences(job))]
        if not different:
            return ""
        nearest = min(different, key=len)
        return "; the nearest has " + ", ".join(f"{name}={found!r}" for name, (found, _) in nearest.items())

    @staticmethod
    def fail(problem: str, jobs: Sequence[JobStatus]) -> NoReturn:
        """Raise AssertionError, with a text that contains the problem and lists at most SHOWN of the jobs."""
        shown = [f"  {job.task}({_call(job)}) queue={job.queue!r} {job.state}" for job in jobs[:SHOWN]]
        more = [f"  and {len(jobs) - SHOWN} more"] if len(jobs) > SHOWN else []
        raise AssertionError("\n".join([problem, "enqueued:" if jobs else "no job was enqueued", *shown, *more]))


def _call(job: JobStatus) -> str:
    named = (f"{name}={value!r}" for name, value in job.kwargs.items())
    return ", ".join([*map(repr, job.args), *named])

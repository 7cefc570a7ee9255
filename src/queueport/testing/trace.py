"""What the suite's tasks leave behind when they run, in whatever process: how the tests know what really happened.

A task that is `traced` writes its start and its end to a file in the folder that `TRACE` names, and holds a lock of the
operating system meanwhile: a job that runs twice at once meets it, and the death of a process lets go of it.
"""

from __future__ import annotations

import fcntl
import functools
import inspect
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from queueport.context import CurrentJob, current_job

__all__ = ["TRACE", "Run", "Trace", "traced"]

P = ParamSpec("P")
R = TypeVar("R")

TRACE = "QUEUEPORT_CONTRACT_TRACE"
"""The environment variable that names the folder; workers inherit it. Where it is not set nothing is written."""


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a task. Times in seconds since the epoch; `ended` None: it has not ended, or never will."""

    job: str
    task: str
    attempt: int
    pid: int
    started: float
    ended: float | None


class Trace:
    """The notes in one folder, written by tasks and read by tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "notes.jsonl"

    @classmethod
    def here(cls) -> Trace | None:
        """That of the test which started this process, or runs in it."""
        folder = os.environ.get(TRACE)
        return None if folder is None else cls(Path(folder))

    # -- written by tasks --------------------------------------------------------------------------

    def note(self, name: str, **values: Any) -> None:
        """Write one line: safe from several processes and threads, and past a kill at any moment."""
        values.update(note=name, at=time.time(), pid=os.getpid(), thread=threading.get_ident())
        line = json.dumps(values).encode() + b"\n"
        file = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(file, line)
        finally:
            os.close(file)

    @contextmanager
    def running(self, job: CurrentJob) -> Iterator[None]:
        """While a task's code runs."""
        run = uuid.uuid4().hex
        self.note("start", job=job.id, task=job.task, attempt=job.attempt, run=run)
        with (self.folder / f"{job.id}.lock").open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.note("overlap", job=job.id, attempt=job.attempt)
            try:
                yield
            finally:
                self.note("end", run=run)

    # -- read by tests -----------------------------------------------------------------------------

    def open(self, gate: str) -> None:
        """Let the tasks through that wait at this gate, see `wait_at`."""
        (self.folder / f"{gate}.gate").touch()

    def wait_at(self, gate: str) -> None:
        """Wait until a test opens this gate; for tasks. Python code all the while, so that it can be interrupted."""
        while not (self.folder / f"{gate}.gate").exists():
            time.sleep(0.02)

    def notes(self, name: str, **values: Any) -> list[dict[str, Any]]:
        """The notes of that name which have these values, oldest first."""
        wanted = {"note": name, **values}
        return [note for note in self._all() if wanted.items() <= note.items()]

    def runs(self, *job_ids: str) -> list[Run]:
        """Every execution of these jobs, or of all, by its start."""
        notes = self._all()
        ends = {note["run"]: note["at"] for note in notes if note["note"] == "end"}
        return [
            Run(note["job"], note["task"], note["attempt"], note["pid"], note["at"], ends.get(note["run"]))
            for note in notes
            if note["note"] == "start" and (not job_ids or note["job"] in job_ids)
        ]

    def times(self, job_id: str) -> int:
        """How often that job was started."""
        return len(self.runs(job_id))

    def overlaps(self) -> list[str]:
        """The jobs that ran twice at the same time."""
        return [note["job"] for note in self.notes("overlap")]

    def _all(self) -> list[dict[str, Any]]:
        if not self._file.exists():
            return []
        lines = self._file.read_bytes().split(b"\n")
        return [json.loads(line) for line in lines[:-1]]  # what follows the last line end is not whole yet


def traced(function: Callable[P, R]) -> Callable[P, R]:
    """A task's function that leaves a trace of each of its runs. Below `@task`."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def run_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            with _running():
                return await function(*args, **kwargs)

        return cast("Callable[P, R]", run_async)

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with _running():
            return function(*args, **kwargs)

    return run


@contextmanager
def _running() -> Iterator[None]:
    trace = Trace.here()
    if trace is None:
        yield
    else:
        with trace.running(current_job()):
            yield

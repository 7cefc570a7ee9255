"""The trace of a test: a file in which the suite's tasks record their runs, in any process. For tasks and tests.

When a task with the decorator `traced` starts, and when it ends, it writes a note to `notes.jsonl` in the folder that
the environment variable QUEUEPORT_CONTRACT_TRACE names. While the task runs, it holds a file lock, so that a second run
of the same job at the same time is noticed. If the process is killed, the operating system releases the lock.
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
"""The environment variable that names the folder of the trace. Workers inherit it. Without it, tasks write no notes."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a task. Times are seconds since the epoch; `ended` is None if the end was not recorded."""

    job: str
    task: str
    attempt: int
    pid: int
    started: float
    ended: float | None


class Trace:
    """The notes in one folder. Tasks write them and tests read them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "notes.jsonl"

    @classmethod
    def here(cls) -> Trace | None:
        """The trace in the folder that QUEUEPORT_CONTRACT_TRACE names; None if the variable is not set."""
        folder = os.environ.get(TRACE)
        return None if folder is None else cls(Path(folder))

    # -- written by tasks --------------------------------------------------------------------------

    def note(self, name: str, **values: Any) -> None:
        """Append a note with this name, these values, the time, and the ids of the process and the thread.

        The note is appended in one write, so that several threads and processes can write at the same time, and a
        process that is killed does not leave part of a note.
        """
        values.update(note=name, at=time.time(), pid=os.getpid(), thread=threading.get_ident())
        line = json.dumps(values).encode() + b"\n"
        file = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(file, line)
        finally:
            os.close(file)

    @contextmanager
    def running(self, job: CurrentJob) -> Iterator[None]:
        """A context manager that records the start and the end of a run. If another run of the same job still goes on
        at the start, an overlap is recorded too.
        """
        run = uuid.uuid4().hex
        with (self.folder / f"{job.id}.lock").open("wb") as lock:
            self.note("start", job=job.id, task=job.task, attempt=job.attempt, run=run)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.note("overlap", job=job.id, attempt=job.attempt)
            try:
                yield
            finally:
                self.note("end", run=run)

    # -- gates, and what tests read ----------------------------------------------------------------

    def open(self, gate: str) -> None:
        """Open this gate: tasks that wait for it in `wait_at` continue, and tasks that come later do not wait."""
        (self.folder / f"{gate}.gate").touch()

    def wait_at(self, gate: str) -> None:
        """Wait until a test opens this gate. For tasks. The wait is a loop in Python, so an interruption can end it."""
        while not (self.folder / f"{gate}.gate").exists():
            time.sleep(0.02)

    def notes(self, name: str, **values: Any) -> list[dict[str, Any]]:
        """The notes with this name and these values, oldest first."""
        wanted = {"note": name, **values}
        return [note for note in self._all() if wanted.items() <= note.items()]

    def runs(self, *job_ids: str) -> list[Run]:
        """The runs of these jobs, or of all jobs if no id is given, in the order in which the runs started."""
        notes = self._all()
        ends = {note["run"]: note["at"] for note in notes if note["note"] == "end"}
        return [
            Run(note["job"], note["task"], note["attempt"], note["pid"], note["at"], ends.get(note["run"]))
            for note in notes
            if note["note"] == "start" and (not job_ids or note["job"] in job_ids)
        ]

    def times(self, job_id: str) -> int:
        """The number of recorded runs of the job."""
        return len(self.runs(job_id))

    def overlaps(self) -> list[str]:
        """The ids of the jobs of which two runs went on at the same time; one id for each recorded overlap."""
        return [note["job"] for note in self.notes("overlap")]

    def _all(self) -> list[dict[str, Any]]:
        if not self._file.exists():
            return []
        lines = self._file.read_bytes().split(b"\n")
        return [json.loads(line) for line in lines[:-1]]  # the last item is empty, or a line that is not complete yet


def traced(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate the function of a task to record its runs if TRACE is set. Write this decorator below `@task`."""
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

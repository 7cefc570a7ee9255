"""The ledger of a run: one file to which tasks, producers and the run itself append what they have seen.

Each line is one JSON object and is written in one call with O_APPEND, so that several processes can write at once, and
a process that is killed leaves no part of a line. Times are of the machine's monotonic clock, in seconds.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["LEDGER", "WORKER", "Ledger", "Run"]

LEDGER = "QUEUEPORT_TEST_LEDGER"
"""The environment variable with the folder of the ledger."""
WORKER = "QUEUEPORT_TEST_WORKER"
"""The environment variable with the name of the worker whose processes inherit it."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a job, as the task saw it. `end` is None, and `outcome` empty, if the task did not get to its end.

    `held` is True if another process was still running the job when this run began.
    """

    job: str
    attempt: int
    worker: str
    pid: int
    begin: float
    held: bool = False
    end: float | None = None
    outcome: str = ""
    """`returned`, or the name of the class of the exception."""


class Ledger:
    """The ledger in a folder, which must exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read = 0
        self.lines: list[dict[str, Any]] = []
        """The lines that `update` has read."""
        self.going_on: dict[str, dict[str, Any]] = {}
        """The lines of the runs that have begun and not ended, as far as `update` has read, by the id of the run."""

    @classmethod
    def here(cls) -> Ledger:
        """The ledger in the folder that LEDGER names."""
        return cls(Path(os.environ[LEDGER]))

    def write(self, what: str, **values: Any) -> None:
        """Append a line of this kind with the time."""
        line = json.dumps({"what": what, "at": time.monotonic(), **values}).encode() + b"\n"
        file = os.open(self.folder / "ledger.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(file, line)
        finally:
            os.close(file)

    @contextmanager
    def running(self, job: str, attempt: int) -> Iterator[None]:
        """A context manager that records the begin and the end of a run of a job.

        Inside it, the process holds a file lock, which the operating system releases if the process dies.
        """
        run, worker = uuid.uuid4().hex, os.environ.get(WORKER, "")
        with (self.folder / f"{job}.lock").open("wb") as lock:
            held = not _locked(lock)
            self.write("begin", run=run, job=job, attempt=attempt, worker=worker, pid=os.getpid(), held=held)
            outcome = "returned"
            try:
                yield
            except BaseException as error:
                outcome = type(error).__name__
                raise
            finally:
                self.write("end", run=run, outcome=outcome)

    def update(self) -> list[dict[str, Any]]:
        """Read the lines that were added since the last call, append them to `lines`, and return them."""
        path = self.folder / "ledger.jsonl"
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(self._read)
            *complete, _ = file.read().split(b"\n")
        self._read += sum(len(line) + 1 for line in complete)
        added = [json.loads(line) for line in complete]
        self.lines += added
        for line in added:
            if line["what"] == "begin":
                self.going_on[line["run"]] = line
            elif line["what"] == "end":
                self.going_on.pop(line["run"], None)
        return added

    def runs(self) -> list[Run]:
        """The runs in `lines`, in the order in which they began."""
        ends = {line["run"]: line for line in self.lines if line["what"] == "end"}
        made = []
        for line in self.lines:
            if line["what"] == "begin":
                end = ends.get(line["run"], {"at": None, "outcome": ""})
                place = (line["job"], line["attempt"], line["worker"], line["pid"], line["at"], line["held"])
                made.append(Run(*place, end["at"], end["outcome"]))
        return made

    def told(self) -> dict[str, str]:
        """What producers were told about each job that they offered: accepted, rejected, or unknown."""
        answers: dict[str, str] = {}
        for line in self.lines:
            if line["what"] == "offered":
                answers.update(dict.fromkeys(line["jobs"], "unknown"))
            elif line["what"] in ("accepted", "rejected", "unknown"):
                answers.update(dict.fromkeys(line["jobs"], line["what"]))
        return answers


def _locked(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""`run`: one run of a plan, from the first process to the evidence. For the command and for tests."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from queueport.connect import get_queue
from queueport.errors import BackendUnavailable
from queueport.queue import JobQueue
from queueport.stats import Stats
from queueport.status import JobState, JobStatus
from queueport.testing.chaos import tasks
from queueport.testing.chaos.ledger import Ledger
from queueport.testing.chaos.plan import Plan
from queueport.testing.chaos.servers import Servers
from queueport.testing.chaos.verdict import Evidence, Happened, Verdict, judge
from queueport.testing.chaos.world import World

__all__ = ["Outcome", "run"]

BACKLOG = 10
"""The number of jobs for each worker that producers may be ahead of the workers. If they were far ahead, a job that a
fault has hit would wait behind all those jobs.
"""
START = 120.0
"""The seconds that workers have to start, which takes long on a busy machine."""
PATIENCE = 30.0
"""A job is stuck if no job has ended for this number of seconds, `lost_after` twice and a lease."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a run. `url` is the queue's URL with hidden passwords, `folder` contains the ledger and the logs.

    `unexpected` are workers that ended by themselves, and `seconds` is how long the run took.
    """

    url: str
    plan: Plan
    evidence: Evidence
    verdict: Verdict
    unexpected: list[str]
    seconds: float
    folder: Path


def run(
    servers: Servers, plan: Plan, command: str | None = None, tell: Callable[[str], object] = lambda _: None
) -> Outcome:
    """Carry out the plan on these servers, in a new namespace. `tell` is called with sentences on the way.

    `command` is the command of another worker than queueport's own, see `World`.
    """
    ledger = Ledger(Path(tempfile.mkdtemp(prefix="queueport-chaos-")))
    settings: dict[str, Any] = {
        "namespace": f"chaos_{uuid.uuid4().hex[:12]}",
        "lease": plan.lease,
        "keep_succeeded": "7d",
    }
    environment = {f"QUEUEPORT_{name.upper()}": str(value) for name, value in settings.items()}
    environment |= {"QUEUEPORT_URL": servers.process_url, "QUEUEPORT_TASKS": tasks.__name__}
    started = time.monotonic()
    with get_queue(servers.url, **settings) as queue:
        queue.driver.setup(["default"])
        queue.operations.store.setup()
        health = queue.check()
        if not health.ok:
            raise BackendUnavailable(health.problems[0])
        world = World(plan, ledger, servers, environment, command)
        tell(f"{plan.jobs} jobs and {len(plan.faults)} faults, with {plan.workers} workers, on {queue.url}")
        try:
            world.start()
            _wait_for_workers(queue, world)
            _disturb(world, tell)
            _finish(world, queue, tell)
            stats, records = _settled(queue)
        except BaseException:
            tell(f"the run has not ended; the logs of its processes stay in {ledger.folder}")
            raise
        finally:
            world.end()
        ledger.update()
        faults, wall = _until_next(world.happened), time.time() - time.monotonic()
        evidence = Evidence(queue.settings.lease, ledger.told(), ledger.runs(), records, stats, faults, wall)
        seconds = time.monotonic() - started
        return Outcome(queue.url, plan, evidence, judge(evidence), world.unexpected, seconds, ledger.folder)


def _wait_for_workers(queue: JobQueue, world: World) -> None:
    """Wait until so many worker processes are live as the plan says, at most START seconds."""
    deadline = time.monotonic() + START
    while len(queue.stats().workers) < world.plan.workers and time.monotonic() < deadline:
        time.sleep(0.1)
        world.tend(0)


def _disturb(world: World, tell: Callable[[str], object]) -> None:
    """Let producers and workers go on, and carry out each fault when so many jobs have started as it says."""
    plan, started = world.plan, Started(world)
    for number, fault in enumerate(plan.faults, 1):
        started.wait(fault.after)
        what = f"fault {number} of {len(plan.faults)}: {fault.kind} {fault.target}"
        tell(f"{what}, {len(started.jobs)} jobs have started or were refused")
        world.carry_out(fault, started.go_on)
    started.wait(plan.jobs - 1)
    world.tend(plan.jobs)
    world.wait_for_producers()


class Started:
    """The jobs that have started so far, and those that a producer could not enqueue, or does not know of."""

    def __init__(self, world: World) -> None:
        self.jobs: set[str] = set()
        self._world = world
        self._seen = 0
        self._limit = 0

    def wait(self, number: int) -> None:
        """Wait until so many jobs have started, or none has for PATIENCE seconds. Producers stay a little ahead, and do
        not go on beyond this number, so that jobs are left for the later faults.
        """
        self._limit = number
        before, changed = -1, time.monotonic()
        while len(self.jobs) < number and time.monotonic() < changed + PATIENCE:
            self.go_on()
            if len(self.jobs) > before:
                before, changed = len(self.jobs), time.monotonic()
            time.sleep(0.02)

    def go_on(self) -> None:
        """Let the producers go on, and read what has happened since the last call."""
        plan = self._world.plan
        self._world.tend(min(plan.jobs, min(self._limit, len(self.jobs)) + BACKLOG * plan.workers))
        added = self._world.ledger.lines[self._seen :]
        self._seen += len(added)
        for line in added:
            if line["what"] == "begin":
                self.jobs.add(line["job"])
            elif line["what"] in ("rejected", "unknown"):
                self.jobs.update(line["jobs"])


def _finish(world: World, queue: JobQueue, tell: Callable[[str], object]) -> None:
    """Wait until every job has ended, or none has for a long time."""
    patience = PATIENCE + 2 * queue.settings.lost_after + queue.settings.lease
    ended, changed = -1, time.monotonic()
    while time.monotonic() < changed + patience:
        world.tend(world.plan.jobs)
        try:
            totals = queue.stats().totals
        except BackendUnavailable:
            continue
        now = totals.succeeded + totals.dead + totals.cancelled
        if now == totals.total:
            return
        if now > ended:
            ended, changed = now, time.monotonic()
        time.sleep(0.1)
    tell(f"no job has ended for {patience:g} s")


def _settled(queue: JobQueue) -> tuple[Stats, dict[str, JobStatus]]:
    return queue.stats(), {status.id: status for status in _records(queue)}


def _records(queue: JobQueue) -> Iterator[JobStatus]:
    for state in JobState:
        after = None
        while page := queue.jobs(state, limit=500, after=after):
            yield from page
            after = page[-1].id


def _until_next(happened: list[Happened]) -> list[Happened]:
    """The faults. A stopped worker is slow for a moment after it continues, so its fault lasts a second longer."""
    return [replace(fault, end=fault.end + 1.0) if fault.kind == "stop" else fault for fault in happened]

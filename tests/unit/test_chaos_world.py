"""The processes of `queueport chaos`: none is left when the run has ended."""

from __future__ import annotations

import os
from pathlib import Path

from queueport.testing.chaos.ledger import Ledger
from queueport.testing.chaos.plan import Fault, Plan
from queueport.testing.chaos.servers import Servers
from queueport.testing.chaos.tasks import job_id
from queueport.testing.chaos.world import World
from queueport.testing.waiting import eventually


def test_processes_that_outlive_the_first_process_of_their_worker_are_killed_at_the_end(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    command = "sh -c 'sleep 60 & echo $! > {namespace}; wait'"
    plan = Plan("1", jobs=0, workers=1, producers=0, lease=1.0, faults=[])
    ledger, servers = Ledger(tmp_path), Servers("memory://", "memory://", [])
    world = World(plan, ledger, servers, {"QUEUEPORT_NAMESPACE": str(pid)}, command)
    world.start()
    try:
        left = eventually(lambda: pid.exists() and int(pid.read_text() or 0))
        ledger.write("begin", run="1", job=job_id(0), attempt=1, worker="worker-0.1", pid=left, held=False)
        world.carry_out(Fault("parent", 0, 0), lambda: None)
        ledger.write("end", run="1", outcome="returned")  # the process is idle
        ledger.update()
        os.kill(left, 0)
    finally:
        world.end()
    eventually(lambda: not running(left))


def test_a_worker_with_a_wrong_clock_is_not_excused_from_anything(tmp_path: Path) -> None:
    plan = Plan("1", jobs=0, workers=1, producers=0, lease=1.0, faults=[Fault("clock-back", 0, 0)])
    servers, environment = Servers("memory://", "memory://", []), {"QUEUEPORT_NAMESPACE": "any"}
    world = World(plan, Ledger(tmp_path), servers, environment, "sleep 60")
    world.start()
    found = set[str]()
    try:
        (clock,) = tmp_path.glob("*.clock")
        world.carry_out(plan.faults[0], lambda: found.add(clock.read_text()))
        found.add(clock.read_text())
    finally:
        world.end()
    assert found == {"-3600", "0"}
    assert [(fault.kind, fault.worker, fault.server) for fault in world.happened] == [("clock-back", "", "")]


def running(pid: int) -> bool:
    """True if the process exists and is not a zombie that waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

"""Wrong clocks in `queueport chaos`: the processes of a worker see the time that the run gives them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from queueport.testing.chaos.clock import Clock
from queueport.testing.waiting import eventually

PROGRAM = """
import datetime, os, sys, time
import queueport.testing.chaos.tasks  # as a worker does

name = "parent" if os.fork() else "child"
while os.getppid() > 1:
    wall = datetime.datetime.now().timestamp() if name == "child" else time.time()
    with open(f"{sys.argv[1]}/{name}.new", "w") as file:
        file.write(str(wall - time.monotonic()))
    os.replace(f"{sys.argv[1]}/{name}.new", f"{sys.argv[1]}/{name}")
    time.sleep(0.02)
"""


def test_the_processes_of_a_worker_see_a_wrong_clock_until_it_is_right_again(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "clock")

    def ahead() -> list[int]:
        """By how many seconds the clocks of both processes are ahead, to ten seconds."""
        values = [float((tmp_path / name).read_text()) for name in ("parent", "child")]
        return [round((value - right) / 10) * 10 for value in values]

    right = time.time() - time.monotonic()
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    process = subprocess.Popen(command, env={**os.environ, **clock.environment}, process_group=0)
    try:
        eventually(lambda: (tmp_path / "parent").exists() and (tmp_path / "child").exists(), 30)
        assert ahead() == [0, 0]
        with clock.wrong(3600):
            eventually(lambda: ahead() == [3600, 3600])
        with clock.wrong(-3600):
            eventually(lambda: ahead() == [-3600, -3600])
        eventually(lambda: ahead() == [0, 0])
    finally:
        os.killpg(process.pid, 9)
        process.wait()

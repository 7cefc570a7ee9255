"""Wrong clocks in `queueport chaos`: the processes of a worker see the time that the run gives them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from queueport.testing.chaos.clock import Clock
from queueport.testing.waiting import eventually

PROGRAM = """
import datetime, multiprocessing, sys, time
import queueport.testing.chaos.tasks  # as a worker does

def child():
    return datetime.datetime.now().timestamp() - time.monotonic()

with multiprocessing.get_context("fork").Pool(1) as pool:
    for _ in sys.stdin:
        print(time.time() - time.monotonic(), pool.apply(child), flush=True)
"""


def test_the_processes_of_a_worker_see_a_wrong_clock_until_it_is_right_again(tmp_path: Path) -> None:
    clock, right = Clock(tmp_path / "clock"), time.time() - time.monotonic()
    environment = {**os.environ, **clock.environment}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, **pipes) as process:

        def ahead() -> list[int]:
            """By how many seconds the clocks of the process and of its child are ahead, to ten seconds."""
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            return [round((float(value) - right) / 10) * 10 for value in process.stdout.readline().split()]

        assert ahead() == [0, 0]
        with clock.wrong(3600):
            eventually(lambda: ahead() == [3600, 3600])
        with clock.wrong(-3600):
            eventually(lambda: ahead() == [-3600, -3600])
        eventually(lambda: ahead() == [0, 0])

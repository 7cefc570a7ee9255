"""`python -m queueport.witness`: records how attempts ended whose code ended with its process. For native workers.

The process that is to end writes a line of JSON to this one's standard input, and closes it by ending.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from queueport.connect import get_queue
from queueport.runner import Runner

__all__ = ["call"]


def call(spec: Mapping[str, Any], stuck: Sequence[Mapping[str, Any]]) -> None:
    """Start a witness of this process's end; `spec` is the queue's, `stuck` what it is to record then."""
    process = subprocess.Popen(
        [sys.executable, "-m", "queueport.witness"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # whoever ends this process and all its children does not mean the witness
    )
    if process.stdin is not None:
        process.stdin.write(json.dumps({**spec, "path": sys.path, "stuck": list(stuck)}).encode() + b"\n")
        process.stdin.flush()


def main() -> None:
    """Wait for the end of the process, and record it."""
    told: dict[str, Any] = json.loads(sys.stdin.readline())
    sys.path[:] = told["path"]
    sys.stdin.read()
    with get_queue(told["url"], **told["settings"]) as queue:
        runner = Runner(queue.operations, {}, ())
        for attempt in told["stuck"]:
            runner.finish_stuck(attempt)


if __name__ == "__main__":
    main()

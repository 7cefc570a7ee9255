"""What a run of the suite has shown, line by line, for the table of backends in the README. For the suite.

Where the environment variable REPORT names a folder, an empty one, each backend gets a file `contract-NAME.json` there.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from queueport import Capability

__all__ = ["REPORT", "report"]

REPORT = "QUEUEPORT_CONTRACT_REPORT"

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


def report(test: str, backend: str, capabilities: Iterable[Capability], outcome: str) -> None:
    """Add how one test ended: "passed", "failed" or "skipped: WHY". Several processes may do so at once."""
    folder = os.environ.get(REPORT)
    line = re.match(r"test_([A-Z][0-9]+)_", test)
    if folder is None or line is None:
        return
    file = Path(folder) / f"contract-{backend}.json"
    with file.open("a+", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        known: dict[str, Any] = json.loads(stream.read() or '{"lines": {}}')
        lines = known["lines"]
        lines[line[1]] = _worse(lines.get(line[1]), outcome)
        told = {
            "backend": backend,
            "capabilities": sorted(capabilities),
            "lines": {name: lines[name] for name in sorted(lines, key=lambda name: (name[0], int(name[1:])))},
        }
        stream.truncate(0)
        stream.write(json.dumps(told, indent=2) + "\n")


def _worse(before: str | None, outcome: str) -> str:
    """A line fails with one of its tests, and is skipped only with all of them."""
    if before is None or before.startswith(SKIPPED) or outcome == FAILED:
        return outcome
    return before

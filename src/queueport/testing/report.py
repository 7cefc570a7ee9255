"""What a run of the suite has shown, line by line, for the table of backends in the README. For the suite.

Where the environment variable REPORT names a folder, each backend gets a file `contract-NAME.json` there, named by the
harness's `title`. Runs add to it: begin with an empty folder.
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


def report(test: str, backend: str, capabilities: Iterable[Capability], outcome: str) -> None:
    """Add how one test ended: "passed", "failed" or "skipped: WHY". Several processes may do so at once."""
    folder = os.environ.get(REPORT)
    found = re.match(r"test_((?:[A-Z][0-9]+_)+)", test)
    if folder is None or found is None:
        return
    file = Path(folder) / f"contract-{re.sub('[^a-z0-9]+', '-', backend.lower()).strip('-')}.json"
    with file.open("a+", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        known: dict[str, Any] = json.loads(stream.read() or '{"lines": {}}')
        lines = known["lines"]
        for line in found[1].split("_")[:-1]:
            lines[line] = _worse(lines.get(line), outcome)
        told = {
            "backend": backend,
            "capabilities": sorted(capabilities),
            "lines": {name: lines[name] for name in sorted(lines, key=lambda name: (name[0], int(name[1:])))},
        }
        stream.truncate(0)
        stream.write(json.dumps(told, indent=2) + "\n")


def _worse(before: str | None, outcome: str) -> str:
    """A line fails with one of its tests, and is skipped only with all of them."""
    if before is None or before.startswith("skipped") or outcome == "failed":
        return outcome
    return before

"""Writes the outcome of each contract line to a file. For the suite, and for the table in the README.

If the environment variable QUEUEPORT_CONTRACT_REPORT names a folder, which must exist, the outcomes of each backend are
written to a file `contract-NAME.json` in this folder. NAME is the harness's `title`, or else the backend's name, in
lower case with hyphens. A run adds its outcomes to existing files, so start with an empty folder.
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
from queueport.testing.contract.lines import lines_of, worse

__all__ = ["REPORT", "report"]

REPORT = "QUEUEPORT_CONTRACT_REPORT"


def report(test: str, backend: str, capabilities: Iterable[Capability], outcome: str) -> None:
    """Add the outcome of one test ("passed", "failed" or "skipped: REASON"). Several processes may write at once.

    Does nothing if the variable QUEUEPORT_CONTRACT_REPORT is not set, or if the test checks no contract line.
    """
    folder = os.environ.get(REPORT)
    ids = lines_of(test)
    if folder is None or not ids:
        return
    file = Path(folder) / f"contract-{re.sub('[^a-z0-9]+', '-', backend.lower()).strip('-')}.json"
    with file.open("a+", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        known: dict[str, Any] = json.loads(stream.read() or '{"lines": {}}')
        lines = known["lines"]
        for line in ids:
            lines[line] = worse(lines.get(line), outcome)
        document = {
            "backend": backend,
            "capabilities": sorted(capabilities),
            "lines": {name: lines[name] for name in sorted(lines, key=lambda name: (name[0], int(name[1:])))},
        }
        stream.truncate(0)
        stream.write(json.dumps(document, indent=2) + "\n")

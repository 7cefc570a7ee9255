"""`check_chaos`: a short run of `queueport chaos`, for the tests of each adapter. `nox -s chaos` runs the long ones."""

from __future__ import annotations

import json
import subprocess
import sys

__all__ = ["check_chaos"]


def check_chaos(url: str, *kinds: str) -> None:
    """Run 60 jobs with one fault of each kind on a private server, because the jobs stay there."""
    size = ["--jobs=60", f"--faults={len(kinds)}", "--workers=2", "--producers=1", "--lease=2s", "--seed=1"]
    command = [sys.executable, "-m", "queueport", "chaos", url, "--json", *size, *(f"--kind={kind}" for kind in kinds)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.stdout, ended.stderr
    found = json.loads(ended.stdout)
    breaches = {kind: sentences for kind, sentences in found["breaches"].items() if sentences}
    assert not breaches, f"{breaches}\n{ended.stderr}"
    assert sum(found["faults"].values()) == len(kinds)

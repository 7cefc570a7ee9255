"""`queueport chaos` finds a product that is broken on purpose, and no breach in the real one.

`nox -s chaos -- tests/chaos/test_chaos_command.py` runs this. The runs need about a minute each.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FORGETFUL = "tests.chaos.forgetful_worker"
"""The module of a worker that records the end of an attempt although another attempt has taken over the job."""


def chaos(url: str, *options: str) -> tuple[int, dict[str, Any]]:
    """Run the command, and return its exit code and its document."""
    command = [sys.executable, "-m", "queueport", "chaos", url, "--json", *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout)


@pytest.mark.parametrize("backend", ["sqlite", "rq", "rabbitmq"])
def test_no_breach_is_found(backend: str) -> None:
    code, found = chaos(backend, "--jobs=200", "--faults=6", "--seed=1")
    assert {kind: sentences for kind, sentences in found["breaches"].items() if sentences} == {}
    assert (code, found["ok"], found["accepted"] + found["rejected"] + found["unknown"]) == (0, True, 200)


def test_a_worker_that_ignores_the_token_is_found(tmp_path: Path) -> None:
    command = f"{{python}} -m {FORGETFUL} worker --queue={{queue}} --threads=4"
    options = (
        "--jobs=200",
        "--faults=6",
        "--workers=2",
        "--kind=stop",
        "--seed=1",
        "--lease=3s",
        f"--command={command}",
    )
    code, found = chaos(f"sqlite:///{tmp_path}/jobs.db", *options)
    assert code == 1
    assert found["breaches"]["wrong"] or found["breaches"]["stats"]

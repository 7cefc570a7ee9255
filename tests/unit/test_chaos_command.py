"""The command `queueport chaos`: what it refuses, and what it leaves behind when it is told to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from queueport.cli.app import app
from queueport.testing.chaos.ledger import Ledger
from queueport.testing.waiting import eventually


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["rqq"], "'rqq' is neither a URL nor a backend with private servers: choose from sqlite, rq,"),
        (["sqlite:///{folder}/jobs.db", "--kind", "cut"], "the fault 'cut' is impossible here"),
        (["sqlite:///{folder}/jobs.db", "--kind", "cutt"], "no fault is called 'cutt'"),
        (["sqlite:///{folder}/jobs.db", "--native"], "sqlite has no workers of its own"),
        (["sqlite:///{folder}/jobs.db", "--lease", "0.5"], "--lease 0.5 is too short"),
    ],
)
def test_what_is_impossible_is_refused(arguments: Sequence[str], sentence: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["chaos", *(word.replace("{folder}", str(tmp_path)) for word in arguments)])
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("worker", "sentence"),
    [
        ("false", "error: the workers' command ends at once (exit code 1): correct it"),
        ("no-such-program", "error: the workers' command cannot be started ([Errno 2]"),
    ],
)
def test_a_command_that_is_no_worker_ends_the_run(
    worker: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    url = f"sqlite:///{tmp_path}/jobs.db"
    result = CliRunner().invoke(app, ["chaos", url, "--command", worker, "--jobs", "5", "--faults", "0"])
    assert result.exit_code == 2
    begin, logs, error = result.stderr.splitlines()
    assert begin == f"5 jobs and 0 faults, with 3 workers, on {url}"
    assert Path(logs.partition("the logs of its processes stay in ")[2]).parent == tmp_path
    assert error.startswith(sentence)


@pytest.mark.timeout(180)  # on a busy machine, workers take long to start
def test_a_run_that_is_told_to_stop_ends_its_workers(tmp_path: Path) -> None:
    words = [f"sqlite:///{tmp_path}/jobs.db", "--jobs=4000", "--faults=0", "--workers=2"]
    command = [sys.executable, "-m", "queueport", "chaos", *words]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: len({line["worker"] for line in begun(tmp_path)}) == 2, 60)
        process.terminate()
        code = process.wait(30)
        eventually(lambda: not any(map(exists, running(tmp_path))), 10, lambda: running(tmp_path))
        assert code == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
        for pid in running(tmp_path):
            with suppress(ProcessLookupError):
                os.killpg(os.getpgid(pid), signal.SIGKILL)


def running(folder: Path) -> set[int]:
    """The processes that have run jobs."""
    return {line["pid"] for line in begun(folder)}


def begun(folder: Path) -> list[dict[str, Any]]:
    """The lines of the runs that have begun, in the ledger of the run in this folder."""
    lines = [line for ledger in folder.glob("queueport-chaos-*") for line in Ledger(ledger).update()]
    return [line for line in lines if line["what"] == "begin"]


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

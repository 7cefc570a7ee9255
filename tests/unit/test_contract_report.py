"""The report of a run of the contract: passed, failed and skipped lines. For those who change the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from queueport import Capability
from queueport.testing.contract.report import REPORT, report

SUITE = """
import pytest
from queueport import Capability
from queueport.testing import Harness
from queueport.testing.contract.case import Case, needs

class TestSuite(Case):
    @pytest.fixture
    def harness(self):
        return Harness("memory://report")

    def test_E1_passes(self, queue): ...
    @needs(Capability.GROUPS)
    def test_E1_needs_groups(self, queue): ...
    def test_E2_fails(self, queue):
        assert queue is None
    def test_E10_lacks_a_part(self, harness):
        harness.wipe("default")
    def test_E11_records_an_overlap(self, trace):
        trace.note("overlap", job="twice")
    def test_without_a_line(self, queue): ...
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(REPORT, str(tmp_path))
    return tmp_path


def read(folder: Path, backend: str = "memory") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"contract-{backend}.json").read_text())
    return found


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        (["passed"], "passed"),
        (["passed", "failed", "passed"], "failed"),
        (["skipped: why", "passed"], "passed"),
        (["passed", "skipped: why"], "passed"),
        (["skipped: why"], "skipped: why"),
        (["skipped: why", "failed", "skipped: why"], "failed"),
    ],
)
def test_a_line_has_the_worst_outcome_of_its_tests(folder: Path, outcomes: list[str], expected: str) -> None:
    for number, outcome in enumerate(outcomes):
        report(f"test_S1_part_{number}", "memory", [], outcome)
    assert read(folder)["lines"] == {"S1": expected}


def test_a_test_may_be_about_two_lines(folder: Path) -> None:
    report("test_X4_X5_restart", "memory", [], "passed")
    assert read(folder)["lines"] == {"X4": "passed", "X5": "passed"}


def test_lines_and_capabilities_are_sorted(folder: Path) -> None:
    for line in ("X1", "E10", "E2"):
        report(f"test_{line}_it", "memory", [Capability.THREADS, Capability.DEPTH], "passed")
    assert read(folder)["backend"] == "memory"
    assert read(folder)["capabilities"] == ["depth", "threads"]
    assert list(read(folder)["lines"]) == ["E2", "E10", "X1"]


def test_without_the_variable_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REPORT, raising=False)
    monkeypatch.chdir(tmp_path)
    report("test_E1_it", "memory", [], "passed")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ci", [False, True])
def test_a_run_of_the_suite_writes_a_report(tmp_path: Path, ci: bool) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    environment = {name: value for name, value in os.environ.items() if name not in (REPORT, "CI")}
    environment |= {REPORT: str(tmp_path)} | ({"CI": "true"} if ci else {})
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    part = "failed" if ci else "skipped: Harness has no wipe()"
    assert read(tmp_path)["lines"] == {"E1": "passed", "E2": "failed", "E10": part, "E11": "failed"}

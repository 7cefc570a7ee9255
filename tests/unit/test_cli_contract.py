"""`queueport contract` on a suite of five tests, as a process. For those who change the command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import os, sys, types
import pytest

class Harness:
    def __init__(self, url):
        self.url = url

class Contract:
    def test_E1_passes(self, harness):
        print("not to be seen")
        assert harness.url.startswith("sqlite:")
    @pytest.mark.parametrize("n", [1, 2])
    def test_E2_fails_for_two(self, harness, n):
        assert n == 1, "rq://:secret@host"
    def test_S3_is_skipped(self, harness):
        assert "CI" not in os.environ
        pytest.skip("the harness has no restart_backend")
    def test_X1_breaks_in_a_fixture(self, broken): ...
    @pytest.fixture
    def broken(self):
        raise ValueError("before it began")

suite = types.ModuleType("queueport.testing")
suite.Contract, suite.Harness = Contract, Harness
sys.modules["queueport.testing"] = suite

from queueport.cli import main
main()
"""


def contract(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(SUITE)
    command = [sys.executable, str(script), "contract", f"sqlite:///{folder}/jobs.db", *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_each_test_is_a_line_and_failures_are_shown_in_full(tmp_path: Path) -> None:
    result = contract(tmp_path)
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [[*words[:2], words[4]] for words in lines[:5]] == [
        ["passed", "E1", "test_E1_passes"],
        ["passed", "E2", "test_E2_fails_for_two[1]"],
        ["failed", "E2", "test_E2_fails_for_two[2]"],
        ["skipped", "S3", "test_S3_is_skipped"],
        ["failed", "X1", "test_X1_breaks_in_a_fixture"],
    ]
    assert "(the harness has no restart_backend)" in result.stdout
    assert "AssertionError: rq://:***@host" in result.stdout
    assert "ValueError: before it began" in result.stdout
    assert "not to be seen" not in result.stdout
    assert result.stdout.splitlines()[-1].endswith("jobs.db breaks the contract: 2 failed, 2 passed, 1 skipped")
    assert (result.returncode, result.stderr) == (1, "")


def test_the_report_is_one_document_for_scripts_and_lines_can_be_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    result = contract(tmp_path, "--json", "-k", "E1 or S3")
    report = json.loads(result.stdout)
    assert [(line["line"], line["outcome"], line["reason"]) for line in report["lines"]] == [
        ("E1", "passed", None),
        ("S3", "skipped", "the harness has no restart_backend"),
    ]
    assert [report[name] for name in ("passed", "failed", "skipped")] == [1, 0, 1]
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("-k", "Z9"), 2, "no line of the contract fits"),
        (("-k", "E1 or ("), 2, "Wrong expression passed to '-k'"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(tmp_path: Path, words: tuple[str, ...], code: int, said: str) -> None:
    result = contract(tmp_path, *words)
    assert (result.returncode, result.stdout) == (code, "")
    assert said in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_a_backend_that_does_not_answer_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").mkdir()
    result = contract(tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert "jobs.db is a folder" in result.stderr

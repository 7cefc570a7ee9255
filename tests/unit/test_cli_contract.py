"""`queueport contract` with a suite of six tests, as a process. For those who change the command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from queueport.testing.contract.lines import LINES

SUITE = """
import os
import pytest

class Harness:
    def __init__(self, url):
        self.url = url

class Contract:
    def test_E1_passes(self, harness):
        print("not to be shown")
        assert harness.url.startswith("sqlite:")
    @pytest.mark.parametrize("n", [1, 2])
    def test_E2_fails_for_two(self, harness, n):
        assert n == 1, "rq://:secret@host"
    def test_S3_is_skipped(self, harness):
        assert "CI" not in os.environ
        pytest.skip("the harness has no restart_backend")
    def test_X4_X5_is_about_two_lines(self, harness): ...
    def test_X1_fails_in_a_fixture(self, broken): ...
    @pytest.fixture
    def broken(self):
        raise ValueError("before the test")

import queueport.testing as suite
suite.Contract, suite.Harness = Contract, Harness

from queueport.cli import main
main()
"""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(SUITE)
    command = [sys.executable, str(script), "contract", *words]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # importing the plugins takes most of the time
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=environment)


def contract(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run(folder, f"sqlite:///{folder}/jobs.db", *words)


def test_each_line_is_a_row_with_its_sentence_and_failures_are_shown_in_full(tmp_path: Path) -> None:
    result = contract(tmp_path)
    rows = [row.split(maxsplit=4) for row in result.stdout.splitlines()[:6]]
    assert [[words[0], words[1], words[4]] for words in rows] == [
        ["E1", "passed", LINES["E1"].sentence],
        ["E2", "failed", LINES["E2"].sentence],
        ["S3", "skipped", f"{LINES['S3'].sentence} (skipped: the harness has no restart_backend)"],
        ["X4", "passed", LINES["X4"].sentence],
        ["X5", "passed", LINES["X5"].sentence],
        ["X1", "failed", LINES["X1"].sentence],
    ]
    assert "E2 test_E2_fails_for_two[2]" in result.stdout
    assert "E2 test_E2_fails_for_two[1]" not in result.stdout
    assert "AssertionError: rq://:***@host" in result.stdout
    assert "ValueError: before the test" in result.stdout
    assert "not to be shown" not in result.stdout
    assert result.stdout.splitlines()[-1].endswith("jobs.db breaks the contract. Lines: 2 failed, 3 passed, 1 skipped")
    assert (result.returncode, result.stderr) == (1, "")


def test_the_json_report_has_each_test_and_lines_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    result = contract(tmp_path, "--json", "-k", "E1 or S3")
    report = json.loads(result.stdout)
    assert [(line["line"], line["test"], line["outcome"], line["reason"]) for line in report["lines"]] == [
        ("E1", "test_E1_passes", "passed", None),
        ("S3", "test_S3_is_skipped", "skipped", "the harness has no restart_backend"),
    ]
    assert [line["sentence"] for line in report["lines"]] == [LINES["E1"].sentence, LINES["S3"].sentence]
    assert [report[name] for name in ("passed", "failed", "skipped")] == [1, 0, 1]
    assert (result.returncode, result.stderr) == (0, "")


def test_a_quick_run_says_that_it_is_a_part(tmp_path: Path) -> None:
    result = contract(tmp_path, "--quick")
    assert [row.split()[0] for row in result.stdout.splitlines()[:3]] == ["E1", "E2", "X1"]
    assert f" breaks 3 of the {len(LINES)} lines of the contract, a part of it." in result.stdout.splitlines()[-1]


@pytest.mark.parametrize(("words", "complete", "number"), [((), True, 6), (("--quick", "-k", "E1"), False, 1)])
def test_the_json_report_says_whether_it_is_complete(
    tmp_path: Path, words: tuple[str, ...], complete: bool, number: int
) -> None:
    report = json.loads(contract(tmp_path, *words, "--json").stdout)
    assert (report["complete"], len(report["lines"])) == (complete, number)


@pytest.mark.parametrize("words", [("--quick",), ("-k", "E1")])
def test_a_part_of_the_contract_writes_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("QUEUEPORT_CONTRACT_REPORT", str(tmp_path))
    refused = contract(tmp_path, *words)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "QUEUEPORT_CONTRACT_REPORT is set" in refused.stderr
    assert list(tmp_path.glob("contract-*.json")) == []


def test_the_lines_can_be_listed_without_a_backend(tmp_path: Path) -> None:
    result = run(tmp_path, "--list")
    rows = [row.rstrip().split(maxsplit=1) for row in result.stdout.splitlines()[1:]]
    assert rows == [[line.id, line.sentence] for line in LINES.values()]
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--list", "-k", "nothing"), "error: --list prints all lines: leave out -k and --quick\n"),
        ((), "error: no URL is given: write for example `queueport contract sqlite:///contract.db`\n"),
    ],
)
def test_a_url_or_only_list_is_given(tmp_path: Path, words: tuple[str, ...], error: str) -> None:
    result = run(tmp_path, *words)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", error)


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("-k", "Z9"), 2, "no line of the contract matches"),
        (("-k", "E1 or ("), 2, "Wrong expression passed to '-k'"),
    ],
)
def test_a_selection_that_cannot_be_run_is_an_error_of_one_sentence(
    tmp_path: Path, words: tuple[str, ...], code: int, error: str
) -> None:
    result = contract(tmp_path, *words)
    assert (result.returncode, result.stdout) == (code, "")
    assert error in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["namespace", "lease"])
def test_a_setting_that_the_suite_chooses_is_refused_before_any_test_runs(tmp_path: Path, name: str) -> None:
    result = run(tmp_path, f"sqlite:///{tmp_path}/jobs.db?{name}=5")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"error: the contract suite sets {name} itself: leave {name}= out of the URL\n"
    assert not (tmp_path / "jobs.db").exists()


def test_a_backend_that_does_not_answer_is_reported_before_any_test_runs(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").mkdir()
    result = contract(tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert "jobs.db is a folder" in result.stderr

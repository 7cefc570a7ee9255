"""`queueport contract`: run the contract suite against a backend. For authors of adapters, and to test a server."""

import importlib
import io
import os
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from queueport.cli import output
from queueport.cli.exit_codes import FAILED
from queueport.cli.options import Json
from queueport.connect import get_queue
from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.spi.url import hidden
from queueport.testing.contract.lines import LINES, lines_of, worse

if TYPE_CHECKING:
    import pytest

REPORT = "QUEUEPORT_CONTRACT_REPORT"
"""The environment variable with the folder to which `queueport.testing.contract.report` writes the outcomes. The name
is repeated here, because that module cannot be imported without pytest."""
QUICK = " or ".join(f"_{line.id}_" for line in LINES.values() if line.quick)
SUITE = Path(__file__).with_name("contract_suite.py")
ROW = "{:6}{:9}{:>8}  {}"
"""The format of a row: the id of a contract line, its outcome, its seconds and its sentence."""


def sentence(line: str) -> str:
    """The sentence of the contract line with this id; empty if the contract does not have this line."""
    return LINES[line].sentence if line in LINES else ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a test of the suite, or a setup or teardown that did not pass, has ended: passed, failed or skipped.

    `line` is the id of the first contract line that the test checks; empty if the test's name has no such id.
    """

    line: str
    test: str
    outcome: str
    seconds: float
    reason: str | None
    """The reason for the skip, or the text of the failure; None if the test passed."""
    sentence: str


@dataclass(eq=False, slots=True)
class Report:
    """A pytest plugin that collects outcomes, and calls `show` with a row after the last test of each contract line."""

    url: str
    show: Callable[[str], object]
    tests: list[Outcome] = field(default_factory=list)
    outcomes: dict[str, str] = field(default_factory=dict)
    """Each line's outcome so far: failed if a test failed, skipped with a reason if all were skipped, else passed."""
    problem: str | None = None
    """The error that prevented the import of the suite; None if the suite was imported."""
    interrupted: bool = False
    _waiting: Counter[str] = field(default_factory=Counter)
    _seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def pytest_collection_finish(self, session: "pytest.Session") -> None:
        self._waiting = Counter(line for item in session.items for line in lines_of(item.name))

    def pytest_runtest_logreport(self, report: "pytest.TestReport") -> None:
        """Record the outcome of a test's call, and of a setup or teardown that did not pass."""
        if report.when != "call" and report.outcome == "passed":
            return
        name = report.nodeid.rpartition("::")[2]
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        reason = hidden(text.removeprefix("Skipped: ")) if text else None
        lines = lines_of(name)
        line = lines[0] if lines else ""
        self.tests.append(Outcome(line, name, report.outcome, round(report.duration, 3), reason, sentence(line)))
        for line in lines:
            outcome = f"skipped: {output.one_line(reason or '')}" if report.outcome == "skipped" else report.outcome
            self.outcomes[line] = worse(self.outcomes.get(line), outcome)
            self._seconds[line] += report.duration

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        for line in lines_of(nodeid.rpartition("::")[2]):
            self._waiting[line] -= 1
            if self._waiting[line] == 0:
                outcome, _, reason = self.outcomes[line].partition(": ")
                row = ROW.format(line, outcome, f"{self._seconds[line]:.2f} s", sentence(line))
                self.show(f"{row} (skipped: {reason})" if reason else row)

    def pytest_collectreport(self, report: "pytest.CollectReport") -> None:
        if report.failed:
            self.problem = report.longreprtext.splitlines()[-1]

    def pytest_keyboard_interrupt(self) -> None:
        """Remember Ctrl-C, because pytest does not raise it again."""
        self.interrupted = True


def _list() -> None:
    """Print the lines of the contract. This needs no backend."""
    rows = [[line.id, line.sentence] for line in LINES.values()]
    output.print_parts(output.table(["line", "what every backend must do"], rows))


def contract(
    url: Annotated[
        str | None, typer.Argument(metavar="URL", help="The URL of the backend to test.", show_default=False)
    ] = None,
    *,
    only: Annotated[
        str | None, typer.Option("-k", metavar="LINES", help="Run only these contract lines, like '_E1_ or _T2_'.")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Run only the quick subset: some lines of every group, in less than a minute."),
    ] = False,
    as_json: Json = False,
    lists: Annotated[bool, typer.Option("--list", help="Print the contract lines and exit.")] = False,
) -> None:
    """Run the contract suite against a backend and print a row for each line of the contract.

    Use a server or a database that nobody else uses. The exit code is 1 if a line failed or the backend is not healthy.
    If QUEUEPORT_CONTRACT_REPORT names an existing folder, the outcomes are also written to a file in it. A run with -k
    or --quick checks only a part of the contract, so the variable must not be set for such a run.
    """
    if lists:
        if only is not None or quick:
            raise ConfigurationError("--list prints all lines: leave out -k and --quick")
        _list()
        return
    if url is None:
        raise ConfigurationError("no URL is given: write for example `queueport contract sqlite:///contract.db`")
    chosen = " and ".join(f"({words})" for words in (only, QUICK if quick else None) if words is not None) or None
    if chosen is not None and os.environ.get(REPORT):
        raise ConfigurationError(
            f"{REPORT} is set, but -k and --quick check only a part: unset the variable, or leave out the option"
        )
    try:
        importlib.import_module("pytest")
    except ImportError:
        raise ConfigurationError("the contract suite needs pytest: run pip install 'queueport[testing]'") from None
    from queueport.testing.harness import Harness  # imported here, because it imports pytest

    Harness(url)  # raises if the suite cannot use this URL
    with get_queue(url) as queue:
        health = queue.check()
        if not health.ok:
            raise BackendUnavailable(health.problems[0])
        shown = queue.url
    stdout = sys.stdout  # for the rows, because `_run` redirects `sys.stdout` while pytest runs
    report = Report(url, (lambda _: None) if as_json else lambda row: print(row, file=stdout, flush=True))
    _run(report, chosen)
    counts = Counter(test.outcome for test in report.tests)
    if as_json:
        numbers = {name: counts[name] for name in ("passed", "failed", "skipped")}
        whole = {"url": shown, "complete": chosen is None, **numbers}
        output.print_json({**whole, "lines": [asdict(test) for test in report.tests]})
    else:
        _print_summary(report, shown, chosen)
    if counts["failed"]:
        raise typer.Exit(FAILED)


def _print_summary(report: Report, shown: str, chosen: str | None) -> None:
    """Print the failures in full, and one sentence about the whole run."""
    failed = [test for test in report.tests if test.outcome == "failed"]
    for test in failed:
        output.print_parts("", output.escaped(f"{test.line} {test.test}\n{test.reason}"))
    counts = Counter(outcome.partition(":")[0] for outcome in report.outcomes.values())
    numbers = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    lines = f"{len(report.outcomes)} of the {len(LINES)} lines of the contract, a part of it"
    what = "the contract" if chosen is None else lines
    output.print_line(f"{shown} {'breaks' if failed else 'keeps'} {what}. Lines: {numbers}")


def _run(report: Report, chosen: str | None) -> None:
    """Run pytest with its output suppressed, and without the environment variable CI.

    Raises ConfigurationError if the suite cannot be imported or no test was run, and KeyboardInterrupt after Ctrl-C.
    """
    import pytest

    # The harness lacks optional parts. Tests that need such a part fail if CI is set; without CI, they are skipped.
    os.environ.pop("CI", None)
    printed = io.StringIO()
    with tempfile.TemporaryDirectory(prefix="queueport-contract-") as folder:
        (Path(folder) / "pytest.ini").write_text("[pytest]\n")
        words = [str(SUITE), "-c", f"{folder}/pytest.ini", "--rootdir", folder, "--basetemp", f"{folder}/tests"]
        words += ["-p", "no:cacheprovider", "--import-mode=importlib", *(() if chosen is None else ("-k", chosen))]
        with redirect_stdout(printed), redirect_stderr(printed):
            code = pytest.main(words, plugins=[report])
    if report.problem is not None:
        raise ConfigurationError(
            f"the contract suite cannot be imported ({output.one_line(report.problem)}): "
            "run pip install 'queueport[testing]'"
        )
    if report.interrupted:
        raise KeyboardInterrupt
    if not report.tests:
        none = "no line of the contract matches; `queueport contract --list` shows all"
        errors = re.findall(r"ERROR: (.*)", printed.getvalue()) or [none]
        raise ConfigurationError(f"the contract suite did not run (pytest ended with {int(code)}): {errors[0]}")

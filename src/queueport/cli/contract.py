"""`queueport contract`: the contract suite against any backend. For authors of adapters, and for the careful."""

import importlib
import io
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from queueport.cli import output
from queueport.cli.connection import Json, opened
from queueport.cli.endings import FAILED
from queueport.cli.logs import one_line
from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.url import hidden

if TYPE_CHECKING:
    import pytest

__all__ = ["Report", "contract"]

PROOF = Path(__file__).with_name("proof.py")


@dataclass(frozen=True, slots=True)
class Line:
    """How one test of one line of the contract ended: passed, failed or skipped."""

    line: str
    test: str
    outcome: str
    seconds: float
    reason: str | None
    """Why it was skipped, or what failed."""


@dataclass(eq=False, slots=True)
class Report:
    """A pytest plugin that collects the lines, and tells each one to `tell` when it has ended."""

    url: str
    tell: Callable[[Line], None]
    lines: list[Line] = field(default_factory=list)
    problem: str | None = None
    """Why the suite itself could not be read."""
    interrupted: bool = False

    def pytest_runtest_logreport(self, report: "pytest.TestReport") -> None:
        """One phase of a test is over: its call, or what went wrong before or after it."""
        if report.when != "call" and report.outcome == "passed":
            return
        name = report.nodeid.rpartition("::")[2]
        found = re.match(r"test_([A-Z][0-9]+)", name)
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        line = "" if found is None else found[1]
        reason = reason.removeprefix("Skipped: ")
        made = Line(line, name, report.outcome, round(report.duration, 3), hidden(reason) if reason else None)
        self.lines.append(made)
        self.tell(made)

    def pytest_collectreport(self, report: "pytest.CollectReport") -> None:
        """The suite was read."""
        if report.failed:
            self.problem = report.longreprtext.splitlines()[-1]

    def pytest_keyboard_interrupt(self) -> None:
        """Ctrl-C, which pytest keeps to itself."""
        self.interrupted = True


def contract(
    url: Annotated[str, typer.Argument(metavar="URL", help="The backend to prove.", show_default=False)],
    *,
    only: Annotated[str | None, typer.Option("-k", metavar="LINES", help="Only these lines, like 'E1 or T2'.")] = None,
    as_json: Json = False,
) -> None:
    """Run the contract suite against a backend and print the report.

    It wants a server, or a database, of its own. The exit code is 1 where a line of the contract failed.
    """
    try:
        importlib.import_module("pytest")
    except ImportError:
        raise ConfigurationError("the contract suite needs pytest: run pip install 'queueport[testing]'") from None
    with opened(url) as queue:
        health = queue.check()
        if not health.ok:
            raise BackendUnavailable(health.problems[0])
        shown = queue.url
    report = Report(url, (lambda _: None) if as_json else partial(_print, sys.stdout))
    _run(report, only)
    counts = Counter(line.outcome for line in report.lines)
    if as_json:
        outcomes = {name: counts[name] for name in ("passed", "failed", "skipped")}
        output.document({"url": shown, **outcomes, "lines": [asdict(line) for line in report.lines]})
    else:
        for line in report.lines:
            if line.outcome == "failed":
                output.parts("", output.safe(f"{line.line} {line.test}\n{line.reason}"))
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        what = "the contract" if only is None else "these lines of the contract"
        output.line(f"{shown} {'breaks' if counts['failed'] else 'keeps'} {what}: {told}")
    if counts["failed"]:
        raise typer.Exit(FAILED)


def _print(stream: TextIO, line: Line) -> None:
    """One line as it ends, on the output that pytest does not have."""
    reason = f"  ({one_line(line.reason or '')})" if line.outcome == "skipped" else ""
    stream.write(f"{line.outcome:8}{line.line:4}{line.seconds:7.2f} s  {line.test}{reason}\n")
    stream.flush()


def _run(report: Report, only: str | None) -> None:
    """Run pytest, which does not speak itself. Raises ConfigurationError where nothing could be run."""
    import pytest

    os.environ.pop("CI", None)  # there, parts that are missing fail; a URL alone brings none, and they are skipped
    said = io.StringIO()
    with tempfile.TemporaryDirectory(prefix="queueport-contract-") as folder:
        (Path(folder) / "pytest.ini").write_text("[pytest]\n")
        words = [str(PROOF), "-c", f"{folder}/pytest.ini", "--rootdir", folder, "--basetemp", f"{folder}/tests"]
        words += ["-p", "no:cacheprovider", "--import-mode=importlib", *(() if only is None else ("-k", only))]
        with redirect_stdout(said), redirect_stderr(said):
            code = pytest.main(words, plugins=[report])
    if report.problem is not None:
        raise ConfigurationError(f"the contract suite cannot be read: {one_line(report.problem)}")
    if report.interrupted:
        raise KeyboardInterrupt
    if not report.lines:
        errors = re.findall(r"ERROR: (.*)", said.getvalue()) or ["no line of the contract fits"]
        raise ConfigurationError(f"the contract suite did not run (pytest ended with {int(code)}): {errors[0]}")

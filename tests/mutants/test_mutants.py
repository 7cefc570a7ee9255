"""Every mutant fails its line of the contract suite, and an unbroken backend passes the same lines."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.mutants import broken_brokers, broken_records, broken_running  # noqa: F401  # importing them registers their mutants
from tests.mutants.mutant import MUTANTS, NONE

ROOT = Path(__file__).parents[2]
PLACES = (ROOT, ROOT / "src", ROOT / "examples", Path(__file__).with_name("installed"))
FAILED = 1
"""The exit code of pytest if tests ran and some of them failed."""

TRIED = [(backend, name) for name, mutant in MUTANTS.items() for backend in mutant.on]
BROKEN = {(backend, MUTANTS[name].line) for backend, name in TRIED}
GROUPS = sorted({(backend, line[0]) for backend, line in BROKEN})
"""The groups of lines that a mutant breaks, for each backend."""


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("backend", "group"), GROUPS, ids=str)
def test_an_unbroken_backend_passes_the_same_lines(backend: str, group: str) -> None:
    lines = [line for on, line in BROKEN if on == backend and line[0] == group]
    done = contract(backend, NONE.name, lines, 60)
    assert done.returncode == 0, done.stdout[-8_000:]


@pytest.mark.parametrize(("backend", "name"), TRIED, ids=str)
def test_a_mutant_fails_its_line(backend: str, name: str) -> None:
    done = contract(backend, name, {MUTANTS[name].line})
    assert done.returncode == FAILED, f"{name} on {backend} is not noticed:\n{done.stdout[-8_000:]}"


def test_each_group_of_the_contract_has_mutants() -> None:
    assert {mutant.line[0] for mutant in MUTANTS.values()} == set("ESTRDCMWXPFLH")


def contract(backend: str, name: str, lines: Iterable[str], timeout: int = 15) -> subprocess.CompletedProcess[str]:
    """Run these lines of the contract up to the first failure. `timeout`: the seconds that each test may take."""
    words = " or ".join(f"(_{line})" for line in lines)
    options = ["-x", "-q", "-p", "pytest_timeout", "-p", "no:cacheprovider", "-k", words, f"--timeout={timeout}"]
    path = os.pathsep.join(map(str, PLACES))
    environment = {"BROKEN": f"{backend}:{name}", "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(Path(__file__).with_name("subject.py"))],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

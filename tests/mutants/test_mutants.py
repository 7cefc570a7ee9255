"""The contract suite catches every mutant, by the lines that it is about; on a sound backend the same lines hold."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.mutants import broken_brokers, broken_stores  # noqa: F401  # importing them registers their mutants
from tests.mutants.mutant import CARRYING, MUTANTS, NONE, STORED

ROOT = Path(__file__).parents[2]
PLACES = (ROOT, ROOT / "src", ROOT / "examples", Path(__file__).with_name("installed"))
FAILED = 1
"""Pytest's exit code where tests ran and some failed."""

tried = [(backend, name) for name, mutant in MUTANTS.items() for backend in mutant.on]
held = sorted({(backend, line) for mutant in MUTANTS.values() for backend in mutant.on for line in mutant.lines})


@pytest.mark.parametrize(("backend", "name"), tried, ids=lambda word: word)
def test_a_mutant_is_caught(backend: str, name: str) -> None:
    done = contract(backend, name, MUTANTS[name].lines)
    assert done.returncode == FAILED, f"{name} on {backend} goes unnoticed:\n{done.stdout[-8_000:]}"


@pytest.mark.parametrize(("backend", "line"), held, ids=lambda word: word)
def test_a_sound_backend_holds_the_line(backend: str, line: str) -> None:
    done = contract(backend, NONE.name, [line])
    assert done.returncode == 0, done.stdout[-8_000:]


def test_each_group_of_the_contract_has_its_mutants() -> None:
    assert {line[0] for mutant in MUTANTS.values() for line in mutant.lines} == set("ESTRDCMWXH")
    assert {backend for backend, _ in tried} == {*STORED, *CARRYING}


def contract(backend: str, name: str, lines: Iterable[str]) -> subprocess.CompletedProcess[str]:
    """Run these lines of the contract, up to the first that fails."""
    words = " or ".join(f"_{line}" for line in lines)
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-k", words, "--timeout=50"]
    environment = {"BROKEN": f"{backend}:{name}", "PYTHONPATH": os.pathsep.join(map(str, PLACES))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(Path(__file__).with_name("subject.py"))],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

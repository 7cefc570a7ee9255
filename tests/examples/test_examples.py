"""Every example, as a process of its own, prints what its docstring promises; the fourth one on every backend."""

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NUMBERED = sorted(path.name for path in EXAMPLES.glob("[0-9]*.py"))
SWAP = "04_swap_backend.py"
URLS = [
    "memory://",
    "sqlite:///FOLDER/jobs.db",
    "spool:///FOLDER/spool",
    "spool:///FOLDER/s?store=sqlite:///FOLDER/s.db",
]
MORE_URLS = os.environ.get("QUEUEPORT_EXAMPLE_URLS", "").split()
"""Backends that are not built in, where CI has them: separated by blanks."""


def printed(example: str, *arguments: str) -> str:
    """What it prints; its log lines go elsewhere."""
    command = [sys.executable, str(EXAMPLES / example), *arguments]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=50)
    assert run.returncode == 0, run.stderr
    return run.stdout


def promised(example: str) -> str:
    """The indented block that ends its docstring."""
    docstring = ast.get_docstring(ast.parse((EXAMPLES / example).read_text()))
    assert docstring is not None
    return textwrap.dedent(docstring.rpartition(":\n\n")[2]) + "\n"


def test_there_are_five_examples() -> None:
    assert [name[:2] for name in NUMBERED] == ["01", "02", "03", "04", "05"]


@pytest.mark.parametrize("example", NUMBERED)
def test_an_example_prints_what_it_promises(example: str) -> None:
    assert printed(example) == promised(example)


@pytest.mark.parametrize("url", [*URLS[1:], *MORE_URLS])
def test_every_backend_prints_the_same(url: str, tmp_path: Path) -> None:
    assert printed(SWAP, url.replace("FOLDER", str(tmp_path))) == promised(SWAP)


@pytest.mark.parametrize("example", [*NUMBERED, "tasks.py"])
def test_an_example_is_short(example: str) -> None:
    lines = len((EXAMPLES / example).read_text().splitlines())
    assert lines <= (200 if example.startswith("05") else 80)

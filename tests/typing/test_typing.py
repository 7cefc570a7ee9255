"""Proves that mypy and pyright refuse exactly the lines of `tasks.py` that say so, and no other.

The `types` session of nox checks that file as it is. Here its ignores are taken away, so that each has to be an error.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("tasks.py")
ROOT = CASES.parents[2]
IGNORES = re.compile(r"  # (type|pyright): ignore\[.*")


@pytest.mark.timeout(300)  # a checker reads the whole package, without its cache at first
@pytest.mark.parametrize(
    ("checker", "options"),
    [("mypy", ["--no-error-summary", "--follow-imports=silent"]), ("pyright", ["--pythonpath", sys.executable])],
)
def test_a_type_checker_refuses_exactly_the_lines_that_say_so(checker: str, options: list[str], tmp_path: Path) -> None:
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is installed in the types session only, which checks the same lines by their ignores")
    lines = CASES.read_text().splitlines()
    bare = tmp_path / "bare.py"
    bare.write_text("\n".join(IGNORES.sub("", line) for line in lines) + "\n")
    ran = subprocess.run(
        [sys.executable, "-m", checker, *options, str(bare)],
        cwd=ROOT,
        env=os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1", "MYPYPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    found = {int(line) for line in re.findall(r"bare\.py:(\d+):.*\berror:? ", ran.stdout)}
    assert found == {number for number, line in enumerate(lines, 1) if IGNORES.search(line)}, ran.stdout + ran.stderr

"""mypy and pyright reject exactly the lines of `tasks.py` that have ignores.

The `types` session of nox checks `tasks.py` with its ignores. This test removes the ignores, so that each line that had
one must be an error.
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


@pytest.mark.timeout(300)  # on its first run, a checker reads the whole package without a cache
@pytest.mark.parametrize(
    ("checker", "options"),
    [("mypy", ["--no-error-summary", "--follow-imports=silent"]), ("pyright", ["--pythonpath", sys.executable])],
)
def test_a_type_checker_rejects_exactly_the_lines_marked_with_ignores(
    checker: str, options: list[str], tmp_path: Path
) -> None:
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed; the types session checks the same lines by their ignores")
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

"""The comparison with other dashboards in docs/dashboard-figures.md claims only what a test proves."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "dashboard-figures.md").read_text()


def rows(start: str) -> list[list[str]]:
    """The rows of the table whose header begins with `start`, without the header."""
    lines = PAGE[PAGE.index(start) :].splitlines()
    table = lines[: next(number for number, line in enumerate(lines) if not line.startswith("|"))]
    return [line.strip("| ").split(" | ") for line in table[2:]]


def test_each_claim_of_the_comparison_names_a_test_that_exists() -> None:
    compared = {row[0]: row[1] for row in rows("| | queueport")}
    proved = dict(rows("| row | test |"))
    assert len(compared) > 10
    assert {name for name, claim in compared.items() if not claim.startswith("no")} == {*proved}
    for place in proved.values():
        file, _, test = place.strip("`").partition("::")
        tree = ast.parse((ROOT / file).read_text())
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert test.startswith("test_")
        assert test in functions, place


def test_each_row_of_the_comparison_has_a_cell_for_each_dashboard() -> None:
    (header,) = [line for line in PAGE.splitlines() if line.startswith("| | queueport")]
    dashboards = header.strip("| ").split(" | ")
    assert {len(row) for row in rows("| | queueport")} == {len(dashboards) + 1}

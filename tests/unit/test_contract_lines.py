"""The sentences of the contract agree with the tests of the suite. For those who change a line or a test."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable
from importlib import import_module

import pytest

from queueport.testing import Contract, Harness
from queueport.testing.contract.lines import GROUPS, LINES, PARTS, Group, Line, lines_of

Test = Callable[..., object]


def by_line() -> dict[str, list[Test]]:
    """The tests of the suite by the ids of their lines."""
    found: defaultdict[str, list[Test]] = defaultdict(list)
    for name, test in inspect.getmembers(Contract, inspect.isfunction):
        for line in lines_of(name):
            found[line].append(test)
    return found


TESTS = by_line()


def test_each_line_has_tests_and_each_test_has_a_line() -> None:
    names = [name for name, _ in inspect.getmembers(Contract, inspect.isfunction) if name.startswith("test")]
    assert LINES.keys() == TESTS.keys()
    assert len(LINES) == sum(len(group.lines) for group in GROUPS) == 98
    assert [name for name in names if not lines_of(name)] == []


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.module)
def test_a_group_has_the_lines_and_tests_of_its_letter(group: Group) -> None:
    module = import_module(f"queueport.testing.contract.{group.module}")
    tests = {test for line in group.lines for test in TESTS[line.id]}
    assert [line.id for line in group.lines] == [f"{group.letter}{number + 1}" for number in range(len(group.lines))]
    assert {test.__module__ for test in tests} == {module.__name__}


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.module)
def test_a_group_has_lines_in_the_quick_subset_and_their_tests_are_marked(group: Group) -> None:
    assert 0 < sum(line.quick for line in group.lines) < len(group.lines)
    for line in group.lines:
        assert {getattr(test, "quick", False) for test in TESTS[line.id]} == {line.quick}


@pytest.mark.parametrize("line", LINES.values(), ids=lambda line: line.id)
def test_a_line_names_the_capabilities_that_its_tests_need(line: Line) -> None:
    needs = [set(getattr(test, "needs", ())) for test in TESTS[line.id]]
    assert set(line.needs) == set.intersection(*needs)
    assert set(line.partly) == set.union(*needs) - set(line.needs)


@pytest.mark.parametrize("line", LINES.values(), ids=lambda line: line.id)
def test_a_line_names_the_parts_of_the_harness_that_its_tests_call(line: Line) -> None:
    source = "".join(inspect.getsource(test) for test in TESTS[line.id])
    called = {part for part in PARTS if f"harness.{part}(" in source} - {"worker_command"}
    native = {"native_command"} if "native=True" in source else set()
    assert set(line.parts) == called | native


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_described_like_the_method_of_the_harness(part: str) -> None:
    description = inspect.getdoc(getattr(Harness, part))
    assert description is not None
    assert " ".join(description.split()).startswith(PARTS[part])


def test_each_part_that_a_harness_may_lack_is_described() -> None:
    optional = {
        name
        for name, method in inspect.getmembers(Harness, inspect.isfunction)
        if f'_missing("{name}")' in inspect.getsource(method)
    }
    assert optional <= PARTS.keys()

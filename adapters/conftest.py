"""Which of the adapters' tests are heavy, how long tests may take, and how processes share them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

ALONE = ("::TestSqsWithDynamo::", "_X6_a_worker_killed_")
"""Parts of the names of tests that use much processor time: two emulators with their clients, or ten workers at once.
No two of them run at the same time.
"""
SECOND = ("::TestFifoWithRedis::", "::TestClassic::")
"""Parts of the names of the contract tests on the second kind of queue of a backend, with the same transport."""
TIMED = ("adapters/sqs/tests/test_chaos.py::test_no_breach_is_found",)
"""Names of tests that need an idle machine: on a busy one, the emulators are so slow that jobs start late."""
HEAVY = ALONE + SECOND + TIMED
"""`.ci/run` leaves these out (`-m "not heavy"`): they take more than half of the time and rarely fail, or need an idle
machine."""


TIMEOUT = 240
"""The seconds that a test may take: a private RabbitMQ may need more than a minute to start if the machine is busy."""


class OneAlone(LoadScopeScheduling):  # type: ignore[misc]
    """Runs all tests in ALONE in one process, so that no two run at the same time.

    It replaces pytest-xdist's marker `xdist_group`, which has no effect in pytest 9.2 with pytest-xdist 3.8.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "alone" if _is(ALONE, nodeid) else nodeid


def _is(names: tuple[str, ...], nodeid: str) -> bool:
    return any(part in nodeid for part in names)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneAlone:
    """Divide the tests among the processes."""
    return OneAlone(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the heavy tests, before pytest selects by `-m`, and set TIMEOUT. Mix the contract tests of all adapters.

    The tests of SQS use much processor time, and those of other adapters mostly wait.
    """
    for item in items:
        if _is(HEAVY, item.nodeid):
            item.add_marker(pytest.mark.heavy)
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT))
    contract = [item for item in items if item.path.name == "test_contract.py"]
    numbers = Counter(item.path for item in contract)
    before: Counter[Path] = Counter()
    places: dict[pytest.Item, float] = {}
    for item in contract:
        places[item] = before[item.path] / numbers[item.path]
        before[item.path] += 1
    items[:] = [*sorted(contract, key=places.__getitem__), *(item for item in items if item not in places)]

"""`Case`, the base class of every group of the contract, and decorators for tests. For the suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from queueport import Capability, JobQueue, JobStatus
from queueport.testing.contract.report import report
from queueport.testing.harness import Harness
from queueport.testing.trace import TRACE, Trace

__all__ = ["Case", "budgets", "disrupts", "lacks", "needs"]

Test = TypeVar("Test", bound=Callable[..., object])


def needs(*capabilities: Capability) -> Callable[[Test], Test]:
    """Mark a test that needs these capabilities. The test is skipped if the backend does not declare all of them."""
    return lambda test: _mark(test, "needs", capabilities)


def lacks(*capabilities: Capability) -> Callable[[Test], Test]:
    """Mark a test that checks the refusal of these capabilities: skipped if the backend declares one of them."""
    return lambda test: _mark(test, "lacks", capabilities)


def disrupts(test: Test) -> Test:
    """Mark a test that stops a server. The `harness` fixture must give the test a server that no other test uses.

    The fixture recognises such a test by `request.function.disrupts`.
    """
    return _mark(test, "disrupts", True)


def _mark(test: Test, name: str, value: object) -> Test:
    setattr(test, name, value)
    return test


class Case:
    """The base class of a group. It defines the fixtures `harness`, `queue` and `trace`."""

    @pytest.fixture
    def harness(self) -> Harness:
        """A new harness for each test. A test file must override this fixture."""
        raise NotImplementedError("a test file of the contract must define a `harness` fixture")

    @pytest.fixture
    def trace(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trace:
        """The trace in which the tasks of this test record their runs."""
        monkeypatch.setenv(TRACE, str(tmp_path))
        return Trace(tmp_path)

    @pytest.fixture(autouse=True)
    def _checked(self, request: pytest.FixtureRequest, harness: Harness, trace: Trace) -> Iterator[None]:
        tell = partial(report, request.node.name, harness.title or harness.open().backend, harness.capabilities)
        reason = _reason_to_skip(request.function, harness.capabilities)
        if reason is not None:
            harness.end()
            tell(f"skipped: {reason}")
            pytest.skip(reason)
        failures = request.session.testsfailed
        try:
            yield
            harness.end()
            print(harness.logs())  # noqa: T201  # pytest shows this if the test fails
            assert trace.overlaps() == [], "a job ran twice at the same time"
        except BaseException:
            tell("failed")
            raise
        if request.session.testsfailed > failures:
            tell("failed")
        else:
            tell("passed" if harness.lacking is None else f"skipped: {harness.lacking}")

    @pytest.fixture
    def queue(self, harness: Harness, _checked: None) -> JobQueue:
        """An open queue in a namespace that only this test uses."""
        return harness.open()


def _reason_to_skip(test: Callable[..., object], capabilities: AbstractSet[Capability]) -> str | None:
    """The reason why the test does not apply to a backend with these capabilities, or None if the test applies."""
    for capability in getattr(test, "needs", ()):
        if capability not in capabilities:
            return f"the backend does not declare {capability.name}"
    for capability in getattr(test, "lacks", ()):
        if capability in capabilities:
            return f"the backend declares {capability.name}"
    return None


def budgets(status: JobStatus) -> tuple[int, int, int]:
    """The numbers of attempts, failures and crashes of a job."""
    return status.attempts, status.failures, status.crashes

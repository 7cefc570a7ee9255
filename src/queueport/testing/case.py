"""What every group of the contract's lines shares: fixtures, and which capability a line asks for. For the suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from queueport import Capability, JobQueue
from queueport.testing.harness import Harness
from queueport.testing.report import report
from queueport.testing.trace import TRACE, Trace

__all__ = ["Case", "disrupts", "lacks", "needs"]

Test = TypeVar("Test", bound=Callable[..., object])


def needs(*capabilities: Capability) -> Callable[[Test], Test]:
    """The test holds where the backend declares these, and is skipped elsewhere. There is no other skip."""
    return lambda test: _mark(test, "needs", capabilities)


def lacks(*capabilities: Capability) -> Callable[[Test], Test]:
    """The test is of what a backend refuses that does not declare these."""
    return lambda test: _mark(test, "lacks", capabilities)


def disrupts(test: Test) -> Test:
    """The test stops a server: the author's fixture sees `request.function.disrupts`, and gives it a private one."""
    return _mark(test, "disrupts", True)


def _mark(test: Test, name: str, value: object) -> Test:
    setattr(test, name, value)
    return test


class Case:
    """A group of lines: its tests take `harness`, `queue` (open, in a namespace of its own) and `trace`."""

    @pytest.fixture
    def harness(self) -> Harness:
        """The author's: a new one for each test."""
        raise NotImplementedError("a contract's test file has a `harness` fixture")

    @pytest.fixture
    def trace(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trace:
        """What the tasks of this test leave behind."""
        monkeypatch.setenv(TRACE, str(tmp_path))
        return Trace(tmp_path)

    @pytest.fixture(autouse=True)
    def _capable(self, request: pytest.FixtureRequest, harness: Harness, trace: Trace) -> Iterator[None]:
        told = partial(report, request.node.name, harness.title or harness.open().backend, harness.capabilities)
        reason = _unfit(request.function, harness.capabilities)
        if reason is not None:
            harness.end()
            told(f"skipped: {reason}")
            pytest.skip(reason)
        failures = request.session.testsfailed
        try:
            yield
            harness.end()
            print(harness.story())  # noqa: T201  # pytest shows it where the test failed
            assert trace.overlaps() == [], "a job ran twice at the same time"
        except BaseException:
            told("failed")
            raise
        if request.session.testsfailed > failures:
            told("failed")
        else:
            told("passed" if harness.lacking is None else f"skipped: {harness.lacking}")

    @pytest.fixture
    def queue(self, harness: Harness, _capable: None) -> JobQueue:
        """An open queue."""
        return harness.open()


def _unfit(test: Callable[..., object], capabilities: AbstractSet[Capability]) -> str | None:
    """Why the test is not of this backend; None where it is."""
    for capability in getattr(test, "needs", ()):
        if capability not in capabilities:
            return f"the backend does not declare {capability.name}"
    for capability in getattr(test, "lacks", ()):
        if capability in capabilities:
            return f"the backend declares {capability.name}"
    return None

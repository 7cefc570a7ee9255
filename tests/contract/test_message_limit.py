"""Contract line E5, about sizes, on a transport that limits the size of the whole message and not of the payload."""

from __future__ import annotations

from pathlib import Path

import pytest

from queueport import JobQueue, Limits
from queueport.testing import Harness
from queueport.testing.contract.case import Case
from queueport.testing.contract.enqueue import RefusalTests
from queueport.testing.contract.report import REPORT
from tests.contract.test_spool import SpoolHarness


class TestMessageLimit(Case):
    @pytest.fixture
    def harness(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SpoolHarness:
        monkeypatch.delenv(REPORT, raising=False)  # only a run of the whole contract may write a report
        harness = SpoolHarness(tmp_path)
        monkeypatch.setattr(type(harness.open().driver), "limits", Limits(message=65_536))
        return harness

    def test_arguments_up_to_the_limit_arrive(self, queue: JobQueue, harness: Harness) -> None:
        RefusalTests().test_E5_arguments_up_to_the_limit_arrive(queue, harness)

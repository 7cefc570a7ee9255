"""The listed functions of an existing app run as tasks under their dotted paths."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.rq.tests.rq_harness import RQCase, RQHarness
from queueport import JobQueue, JobState, Retry, task
from queueport.errors import ConfigurationError, JobFailed
from queueport.tasks import registry
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually
from queueport_rq import join

HERE = str(Path(__file__).parent)
ALLOWED = {
    "QUEUEPORT_TASKS": "legacy_shop",
    "QUEUEPORT_RQ_ALLOW": "legacy_shop.resize, legacy_shop.refuse,legacy_shop.slow",
    "PYTHONPATH": HERE,
}


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the app importable, and remove after the test the tasks that the app has declared."""
    monkeypatch.setattr(sys, "path", [*sys.path, HERE])
    importlib.invalidate_caches()
    with registry.isolated():
        yield


class TestJoined(RQCase):
    @pytest.mark.parametrize("how", ["our_command", "two_processes", "rq_worker", "by_hand"])
    def test_its_functions_run_with_queueports_retries(
        self, queue: JobQueue, harness: RQHarness, trace: Trace, how: str
    ) -> None:
        words = [sys.executable, "-m", "queueport", "worker", "--queue=default"]
        words += ["--processes=2"] if how in ("two_processes", "by_hand") else []
        command = harness.native_command(["default"]) if how == "rq_worker" else words
        assert command is not None
        by_hand = {"QUEUEPORT_TASKS": "legacy_joins", "QUEUEPORT_RQ_ALLOW": ""} if how == "by_hand" else {}
        harness.start(command, ready=True, **{**ALLOWED, **by_hand})
        good = queue.enqueue(task.named("legacy_shop.resize"), 21)
        slow = queue.enqueue(task.named("legacy_shop.slow"), 1)
        retry = Retry(max_attempts=3, initial=0.05)
        bad = queue.enqueue(task.named("legacy_shop.refuse").using(retry=retry).job("no room"))
        assert (good.result(20), slow.result(20)) == (42, 2)
        with pytest.raises(JobFailed, match="no room"):
            bad.result(20)
        assert (bad.status().attempts, bad.status().failures) == (3, 3)
        eventually(lambda: list(harness.native_dead()) == [bad.id])

    def test_a_function_that_is_not_listed_is_not_run(self, queue: JobQueue, harness: RQHarness, trace: Trace) -> None:
        words = [sys.executable, "-m", "queueport", "worker", "--queue=default"]
        harness.start(words, ready=True, **{**ALLOWED, "QUEUEPORT_RQ_ALLOW": "legacy_shop.resize"})
        refused = queue.enqueue(task.named("legacy_shop.refuse"), "never")
        eventually(lambda: refused.status().state is JobState.DEAD, 20)
        error = refused.status().error
        assert error is not None
        assert error.type == "queueport.errors.UnknownTask"

    @pytest.mark.parametrize("path", ["legacy_shop.nothing", "no_such_shop.resize", "resize", "legacy_shop.CONNECTION"])
    def test_a_path_that_is_not_a_function_is_refused(
        self, queue: JobQueue, harness: RQHarness, trace: Trace, shop: None, path: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=path):
            join(path)

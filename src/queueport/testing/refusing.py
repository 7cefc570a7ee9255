"""E3 to E6 and E9: what is refused before anything is sent, and what happens when nothing can be sent.

For the contract suite.
"""

from __future__ import annotations

import inspect
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import pytest

from queueport import Capability, JobQueue, Limits
from queueport.driver import SendOutcome, Sent
from queueport.errors import BackendUnavailable, InvalidJob, JobNotFound, PayloadTooLarge, Unsupported
from queueport.message import Message
from queueport.status import JobState
from queueport.store import Insert, Written
from queueport.testing import tasks
from queueport.testing.case import Case, disrupts, lacks
from queueport.testing.harness import Harness
from queueport.testing.trace import Trace

__all__ = ["Refusing", "silent"]

NAMES = [f"job-{number}" for number in range(10)]
KEPT, CUT = tuple(NAMES[:4]), tuple(NAMES[4:])


class Refusing(Case):
    """The lines of group E that end in an error."""

    # -- E3: a batch cut in the middle -------------------------------------------------------------

    @pytest.mark.parametrize("outcome", [SendOutcome.FAILED, SendOutcome.UNKNOWN])
    def test_E3_of_a_cut_batch_the_accepted_run_and_the_rejected_never_do(
        self, queue: JobQueue, harness: Harness, trace: Trace, monkeypatch: pytest.MonkeyPatch, outcome: SendOutcome
    ) -> None:
        with monkeypatch.context() as patched:
            if queue.driver.carries:
                patched.setattr(queue.driver, "alongside", False)  # else there is nothing to cut
                patched.setattr(queue.driver, "publish", _cut_publish(queue, outcome))
            else:
                patched.setattr("queueport.queue.BATCH", len(KEPT))
                patched.setattr(queue.operations.store, "insert", _cut_insert(queue))
            with pytest.raises(BackendUnavailable) as caught:
                queue.enqueue_many(tasks.echo.using(job_id=name).job(name) for name in NAMES)
        assert (caught.value.accepted, caught.value.rejected) == (KEPT, CUT)
        self._runs_only(KEPT, CUT, queue, harness, trace)

    def test_E3_a_long_batch_is_cut_between_two_steps(
        self, queue: JobQueue, harness: Harness, trace: Trace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr("queueport.queue.BATCH", len(KEPT))
            patched.setattr(queue.operations.store, "insert", _cut_insert(queue))
            with pytest.raises(BackendUnavailable) as caught:
                queue.enqueue_many(tasks.echo.using(job_id=name).job(name) for name in NAMES)
        assert (caught.value.accepted, caught.value.rejected) == (KEPT, CUT)
        self._runs_only(KEPT, CUT, queue, harness, trace)

    def _runs_only(
        self, accepted: Sequence[str], rejected: Sequence[str], queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        assert [name for name in rejected if not _withdrawn(queue, name)] == []
        with harness.working(queue):
            assert [queue.result(name, 10) for name in accepted] == list(accepted)
            assert queue.enqueue(tasks.echo, "later").result(10) == "later"
        assert [trace.times(name) for name in accepted] == [1] * len(accepted)
        assert [name for name in rejected if trace.times(name)] == []

    # -- E4: arguments -----------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("name", "args", "kwargs", "parameter"),
        [
            ("add", ("one",), {}, "a"),
            ("add", (1,), {"b": None}, "b"),
            ("add", (), {}, "a"),
            ("add", (1, 2, 3), {}, "too many"),
            ("add", (1,), {"c": 2}, "c"),
            ("same_parcel", ({"kg": "much"},), {}, "kg"),
            *(
                ("echo", (value,), {}, "value")
                for value in (object(), {1: 2}, (1, 2), {1}, math.nan, [math.inf], "\ud800", b"\xff", 1j)
            ),
        ],
    )
    def test_E4_arguments_that_would_not_arrive_are_refused(
        self, queue: JobQueue, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], parameter: str
    ) -> None:
        with silent(queue), pytest.raises(InvalidJob, match=rf"\b{parameter}\b"):
            queue.enqueue(getattr(tasks, name), *args, **kwargs)
        assert queue.jobs() == []

    # -- E5: size ----------------------------------------------------------------------------------

    def test_E5_arguments_up_to_the_limit_arrive(self, queue: JobQueue, harness: Harness) -> None:
        limit = queue.limits.payload
        size = (2**20 if limit is None else limit) - len(tasks.length.job("").payload)
        handle = queue.enqueue(tasks.length, "x" * size)
        with harness.working(queue):
            assert handle.result(20) == size
        if limit is not None:
            with silent(queue), pytest.raises(PayloadTooLarge, match=rf"\b{limit + 1}\b.*\b{limit}\b"):
                queue.enqueue(tasks.length, "x" * (size + 1))
            assert queue.stats().totals.succeeded == 1

    def test_E5_one_too_large_keeps_its_whole_batch_back(
        self, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(queue.operations.store, "limits", Limits(payload=1000))
        sizes = (1, 1000, 1)
        with silent(queue), pytest.raises(PayloadTooLarge, match=r"\b1000\b"):
            queue.enqueue_many(tasks.length.job("é" * (size // 2)) for size in sizes)
        assert queue.jobs() == []

    def test_E5_headers_count_where_the_whole_message_is_limited(
        self, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(queue.operations.store, "limits", Limits(message=2000))
        with silent(queue), pytest.raises(PayloadTooLarge, match=r"\b2000\b"):
            queue.enqueue(tasks.length.using(headers={"note": "x" * 2000}), "")
        queue.enqueue(tasks.length.using(headers={"note": "x" * 1000}), "")

    # -- E6: options -------------------------------------------------------------------------------

    @lacks(Capability.PRIORITY)
    def test_E6_a_priority_is_refused(self, queue: JobQueue) -> None:
        _refuses(queue, lambda: queue.enqueue(tasks.echo.using(priority=1), 1))
        queue.enqueue(tasks.echo.using(priority=0), 1)

    @lacks(Capability.GROUPS)
    def test_E6_a_group_is_refused(self, queue: JobQueue) -> None:
        _refuses(queue, lambda: queue.enqueue(tasks.echo.using(group="g"), 1))
        _refuses(queue, lambda: queue.enqueue_many([tasks.echo.job(1), tasks.echo.using(group="g").job(2)]))

    def test_E6_a_required_capability_that_is_lacking_is_refused_at_once(self, harness: Harness) -> None:
        for capability in Capability:
            if capability in harness.capabilities:
                assert capability in harness.open(require=[capability]).capabilities
            else:
                with pytest.raises(Unsupported, match=capability.name):
                    harness.open(require=[capability])

    # -- E9: nothing can be sent -------------------------------------------------------------------

    @disrupts
    def test_E9_while_nothing_can_be_sent_it_says_so_in_time(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        queue.enqueue(tasks.echo.using(job_id="before"), 1)
        patience = queue.settings.call_timeout + 1.0
        with harness.sends_down():
            for names in (["lost"], ["lost-1", "lost-2"]):
                started = time.monotonic()
                with pytest.raises(BackendUnavailable) as caught:
                    queue.enqueue_many(tasks.echo.using(job_id=name).job(1) for name in names)
                assert time.monotonic() - started < patience
                assert (caught.value.accepted, caught.value.rejected) == ((), tuple(names))
        queue.enqueue(tasks.echo.using(job_id="after"), 1)
        self._says_nothing_of_the_lost(queue, harness, trace)

    def test_E9_so_it_does_while_nothing_can_be_recorded(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        queue.enqueue(tasks.echo.using(job_id="before"), 1)
        away = BackendUnavailable("the store is away")
        with patch.object(queue.operations.store, "insert", side_effect=away), pytest.raises(BackendUnavailable):
            queue.enqueue(tasks.echo.using(job_id="lost"), 1)
        queue.enqueue(tasks.echo.using(job_id="after"), 1)
        self._says_nothing_of_the_lost(queue, harness, trace)

    def _says_nothing_of_the_lost(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        assert [name for name in ("lost", "lost-1", "lost-2") if not _withdrawn(queue, name)] == []
        with harness.working(queue):
            assert [queue.result(name, 10) for name in ("before", "after")] == [1, 1]
        assert sorted(run.job for run in trace.runs()) == ["after", "before"]

    def test_E9_a_lost_answer_of_the_store_loses_and_doubles_nothing(
        self, queue: JobQueue, harness: Harness, trace: Trace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, calls = queue.operations.store, iter([True])
        insert = store.insert

        def forget(inserts: Sequence[Insert]) -> Sequence[Written]:
            written = insert(inserts)
            if next(calls, False):
                raise BackendUnavailable("the answer was lost")
            return written

        monkeypatch.setattr(store, "insert", forget)
        handles = queue.enqueue_many(tasks.echo.job(number) for number in range(3))
        with harness.working(queue):
            assert [handle.result(10) for handle in handles] == [0, 1, 2]
        assert [trace.times(handle.id) for handle in handles] == [1, 1, 1]


@contextmanager
def silent(queue: JobQueue) -> Iterator[None]:
    """While it is entered, neither backend nor store may be asked for anything."""
    with ExitStack() as stack:
        for part in (queue.operations.store, queue.driver):
            for name, verb in inspect.getmembers(type(part), inspect.isfunction):
                if not name.startswith("_"):
                    reason = AssertionError(f"{verb.__qualname__} was called")
                    stack.enter_context(patch.object(part, name, side_effect=reason))
        yield


def _refuses(queue: JobQueue, call: Callable[[], object]) -> None:
    with silent(queue), pytest.raises(Unsupported, match=re.escape(queue.backend)):
        call()
    assert queue.jobs() == []


def _withdrawn(queue: JobQueue, job_id: str) -> bool:
    """Whether that job will never run."""
    try:
        status = queue.status(job_id)
    except JobNotFound:
        return True
    return status.state is JobState.CANCELLED and status.reason == "not_sent"


def _cut_publish(queue: JobQueue, outcome: SendOutcome) -> Callable[[Sequence[Message]], Sequence[Sent]]:
    """A backend that takes the first jobs only; of an unknown outcome it has taken all."""
    publish = queue.driver.publish

    def cut(messages: Sequence[Message]) -> Sequence[Sent]:
        sent = publish(messages if outcome is SendOutcome.UNKNOWN else messages[: len(KEPT)])
        rest = [Sent(outcome, ConnectionError("cut")) for _ in messages[len(KEPT) :]]
        return [*sent[: len(KEPT)], *rest]

    return cut


def _cut_insert(queue: JobQueue) -> Callable[[Sequence[Insert]], Sequence[Written]]:
    """A store that can be reached once."""
    insert, calls = queue.operations.store.insert, iter([True])

    def cut(inserts: Sequence[Insert]) -> Sequence[Written]:
        if next(calls, False):
            return insert(inserts)
        raise BackendUnavailable("cut")

    return cut

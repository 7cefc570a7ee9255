"""Tests of jobs and dead-letter copies that the backend does not take: some jobs die, others are sent again."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest

from queueport import JobHandle, JobQueue, JobState, errors
from queueport.errors import BackendUnavailable
from queueport.spi.message import Message, SendOutcome, SendResult
from queueport.spi.settings import read
from queueport.stores.memory.store import MemoryStore
from queueport.testing import tasks
from queueport.testing.waiting import eventually
from tests.mutants.wire import Broker, WireTransport

SENT, FAILED, REFUSED = SendOutcome.SENT, SendOutcome.FAILED, SendOutcome.REFUSED
CAUSES = {FAILED: BackendUnavailable("no permission"), REFUSED: BackendUnavailable("too large")}
CLAIM = 0.2


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def queue(broker: Broker) -> Iterator[JobQueue]:
    url, settings = read(f"wire://publishing?lost_after=0.3&call_timeout={CLAIM / 2}", {})
    with JobQueue(url, settings, WireTransport(broker), MemoryStore()) as queue:
        yield queue


@contextmanager
def answering(outcomes: Mapping[str, SendOutcome]) -> Iterator[Counter[str]]:
    """Make the broker answer with these outcomes, by job id, to messages and to dead-letter copies.

    Yields a counter: how often each job id was sent.
    """
    tried: Counter[str] = Counter()

    def result(message: Message) -> SendResult:
        tried[message.id] += 1
        outcome = outcomes.get(message.id, SENT)
        return SendResult(outcome, CAUSES.get(outcome))

    def send(real: Callable[..., Any]) -> Callable[..., Sequence[SendResult]]:
        def call(transport: Any, queue: str, messages: Sequence[Message]) -> Sequence[SendResult]:
            results = [result(message) for message in messages]
            real(transport, queue, [m for m, sent in zip(messages, results, strict=True) if sent.outcome is SENT])
            return results

        return call

    with (
        patch.object(WireTransport, "send", send(WireTransport.send)),
        patch.object(WireTransport, "bury", send(WireTransport.bury)),
    ):
        yield tried


def delayed(queue: JobQueue, number: int) -> list[JobHandle[Any]]:
    """Jobs whose delay is over."""
    handles = queue.enqueue_many([tasks.echo.using(delay=0.01).job(n) for n in range(number)])
    last = handles[-1].status().enqueued_at + timedelta(seconds=0.01)
    eventually(lambda: queue.operations.store.now() > last.timestamp())
    return handles


def dead(queue: JobQueue, number: int) -> list[JobHandle[Any]]:
    """Dead jobs that are not buried yet."""
    with patch.object(WireTransport, "bury", side_effect=BackendUnavailable("down")):
        return [queue.dead_letters.add(tasks.echo.job(n), "by hand") for n in range(number)]


def dispatched(queue: JobQueue, condition: Callable[[], bool]) -> None:
    """Dispatch until the condition holds."""
    eventually(lambda: (queue.operations.dispatch(100), condition())[1])


def states(handles: Sequence[JobHandle[Any]]) -> list[JobState]:
    return [handle.status().state for handle in handles]


def warnings(caplog: pytest.LogCaptureFixture, job_id: str) -> list[str]:
    """The warnings about a job so far."""
    records = [record for record in caplog.records if record.levelno == logging.WARNING]
    return [message for record in records if job_id in (message := record.getMessage())]


def test_a_delayed_job_whose_message_is_refused_is_dead_with_the_reason_and_its_batch_is_sent(
    queue: JobQueue, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    handles = delayed(queue, 5)
    bad = handles[2].id
    with answering({bad: REFUSED}) as tried:
        queue.operations.dispatch(100)
    assert states(handles) == [JobState.DEAD if handle.id == bad else JobState.QUEUED for handle in handles]
    assert broker.sent.keys() == {handle.id for handle in handles} - {bad}
    error = queue.dead_letters.get(bad).error
    assert error is not None
    assert (error.type, error.message) == ("queueport.errors.PublishFailed", "too large")
    with pytest.raises(errors.JobFailed, match="PublishFailed: too large"):
        handles[2].result(0)
    assert set(tried.values()) == {1, 2}, "it was sent more than once: the message, and its dead-letter copy"
    message, copy = warnings(caplog, bad)
    assert message.endswith("could not be published; the backend refuses it for good: too large")
    assert copy.endswith("could not be buried; the backend refuses it for good: too large")


def test_a_retried_job_that_is_refused_again_is_dead_again_and_can_be_retried_later(
    queue: JobQueue, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    (handle,) = delayed(queue, 1)
    with answering({handle.id: REFUSED}):
        queue.operations.dispatch(100)
        handle.retry()
        assert states([handle]) == [JobState.DEAD]
    assert len(warnings(caplog, handle.id)) >= 2
    handle.retry()
    assert states([handle]) == [JobState.QUEUED]
    assert handle.id in broker.sent


def test_a_new_job_that_is_refused_raises_and_does_not_exist(queue: JobQueue) -> None:
    job = tasks.echo.job(1)
    with (
        answering({job.id: REFUSED}),
        pytest.raises(BackendUnavailable, match="too large; the job was not enqueued on wire"),
    ):
        queue.enqueue(job)
    with pytest.raises(errors.JobNotFound):
        queue.status(job.id)


def unpublished(queue: JobQueue) -> list[str]:
    """The warnings of `check` about jobs that could not be published."""
    return [warning for warning in queue.check().warnings if "no live worker" not in warning]


def test_a_job_that_cannot_be_published_is_logged_once_and_shown_until_it_is_sent(
    queue: JobQueue, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    handles = delayed(queue, 3)
    bad = handles[0].id
    assert unpublished(queue) == []
    with answering({bad: FAILED}) as tried:
        queue.operations.dispatch(100)
        assert len(warnings(caplog, bad)) == 1, "the first failure is logged at once"
        dispatched(queue, lambda: tried[bad] >= 5)
    (warning,) = warnings(caplog, bad)
    assert (
        warning == f"job {bad} of queue {tasks.QUEUE} could not be published; this will be tried again: no permission"
    )
    status = handles[0].status()
    assert status.error is not None
    assert (status.state, status.error.message) == (JobState.QUEUED, "no permission")
    (shown,) = unpublished(queue)
    assert shown.startswith("1 queued job could not be published")
    assert shown.endswith(f"such as job {bad} of queue default: no permission")
    dispatched(queue, lambda: bad in broker.sent)
    assert unpublished(queue) == []
    assert handles[0].status().errors == []


def test_a_copy_that_fails_or_is_refused_does_not_bury_the_others_again(
    queue: JobQueue, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    handles = dead(queue, 5)
    fails, refused, *others = (handle.id for handle in handles)
    with answering({fails: FAILED, refused: REFUSED}) as tried:
        dispatched(queue, lambda: tried[fails] >= 4)
    assert {job_id: tried[job_id] for job_id in (refused, *others)} == dict.fromkeys((refused, *others), 1)
    assert warnings(caplog, fails)[1].endswith("could not be buried; this will be tried again: no permission")
    assert len(warnings(caplog, refused)) == 2, "while the broker is down, and when it refuses the copy"
    dispatched(queue, lambda: fails in broker.dead)
    assert broker.dead.keys() == {handle.id for handle in handles} - {refused}
    assert queue.dead_letters.count() == 5


def test_a_dead_job_that_can_never_be_buried_is_deleted_when_its_retention_is_over(broker: Broker) -> None:
    url, settings = read(f"wire://publishing?keep_dead=0.5&call_timeout={CLAIM / 2}", {})
    with (
        JobQueue(url, settings, WireTransport(broker), MemoryStore()) as queue,
        patch.object(WireTransport, "bury", side_effect=BackendUnavailable("down")),
    ):
        queue.dead_letters.add(tasks.echo.job(1), "by hand")
        dispatched(queue, lambda: queue.dead_letters.count() == 0)

"""Jobs and dead letters that SQS refuses: their batches go on, and each of them is dead or tried again and shown."""

from __future__ import annotations

import logging
import socket
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.stub import Stubber

from queueport import JobHandle, JobQueue, JobState, get_queue
from queueport.errors import BackendUnavailable
from queueport.testing import tasks
from queueport.testing.waiting import eventually
from queueport_sqs.transport import SqsTransport
from tests.servers import aws_server
from tests.servers.health import check_never_sent

LARGE = "x" * 2_000
"""Arguments that are too large for a queue with the smallest MaximumMessageSize, which is 1,024 bytes."""


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    namespace = f"sqs_{uuid.uuid4().hex[:8]}"
    url = f"sqs://us-east-1?endpoint={aws_server('sqs').url}"
    with get_queue(url, store=f"sqlite:///{tmp_path}/jobs.db", namespace=namespace) as queue:
        queue.setup(tasks.QUEUE)
        yield queue
        for found in queue.native.list_queues(QueueNamePrefix=namespace).get("QueueUrls", []):
            queue.native.delete_queue(QueueUrl=found)


def url_of(queue: JobQueue, *, dead: bool = False) -> str:
    assert isinstance(queue.driver, SqsTransport)
    return queue.driver._queues._url(tasks.QUEUE, dead)


def limit_size(queue: JobQueue) -> None:
    """Give the queue the smallest MaximumMessageSize."""
    queue.native.set_queue_attributes(QueueUrl=url_of(queue), Attributes={"MaximumMessageSize": "1024"})


def delayed(queue: JobQueue, *arguments: str) -> list[JobHandle[Any]]:
    """Jobs that become due at the same moment, so that one dispatch sends them as one batch."""
    due = datetime.now(UTC) + timedelta(seconds=0.1)
    return queue.enqueue_many([tasks.echo.using(run_at=due).job(argument) for argument in arguments])


def dispatched(queue: JobQueue, condition: Callable[[], bool]) -> None:
    """Dispatch until the condition holds."""
    eventually(lambda: (queue.operations.dispatch(100), condition())[1], 20)


def unpublished(queue: JobQueue) -> list[str]:
    """The warnings of `check` about jobs that could not be published."""
    return [warning for warning in queue.check().warnings if "could not be published" in warning]


def sent(queue: JobQueue, handles: Sequence[JobHandle[Any]]) -> list[bool]:
    return [queue.operations.read(handle.id).sent for handle in handles]


def copies(queue: JobQueue) -> Counter[str]:
    """The number of dead-letter copies of each job."""
    options: dict[str, Any] = {"MaxNumberOfMessages": 10, "MessageAttributeNames": ["All"], "VisibilityTimeout": 30}
    found: Counter[str] = Counter()
    while some := queue.native.receive_message(QueueUrl=url_of(queue, dead=True), **options).get("Messages"):
        found.update(message["MessageAttributes"]["id"]["StringValue"] for message in some)
    return found


def test_a_job_is_rejected_if_no_connection_to_its_store_can_be_opened() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        store = f"dynamodb://us-east-1/jobs?endpoint=http://127.0.0.1:{unused.getsockname()[1]}"
        with (
            get_queue(f"sqs://us-east-1?endpoint={aws_server('sqs').url}", store=store, call_timeout=1.0) as queue,
            pytest.raises(BackendUnavailable, match=r"cannot be reached .* will not run") as caught,
        ):
            queue.enqueue(tasks.echo.using(job_id="lost"), 1)
    assert (caught.value.rejected, caught.value.unknown) == (("lost",), ())


def test_a_job_is_not_recorded_if_no_connection_can_be_opened(tmp_path: Path) -> None:
    check_never_sent("sqs://us-east-1?endpoint=http://{}", tmp_path)


def test_a_delayed_job_that_is_too_large_for_its_queue_is_dead_and_its_batch_is_sent(
    queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    limit_size(queue)
    large, *others = delayed(queue, LARGE, "a", "b", "c")
    dispatched(queue, lambda: large.status().state is JobState.DEAD and all(sent(queue, others)))
    error = large.status().error
    assert error is not None
    assert "must be shorter than 1024 bytes" in error.message
    assert any(large.id in text and "refuses it for good" in text for text in caplog.messages)


def test_a_retried_job_that_is_too_large_does_not_stop_its_batch(queue: JobQueue) -> None:
    large, other = (queue.dead_letters.add(tasks.echo.job(argument), "by hand") for argument in (LARGE, "a"))
    limit_size(queue)
    assert queue.dead_letters.retry_all() == 2
    assert [handle.status().state for handle in (large, other)] == [JobState.DEAD, JobState.QUEUED]
    assert sent(queue, [other]) == [True]


def test_jobs_without_permission_are_logged_and_shown_and_sent_once_it_is_granted(
    queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    handles = delayed(queue, "a", "b", "c")
    with Stubber(queue.native) as stub:
        for _ in range(3):  # one call for the batch, and one for each of two jobs alone
            stub.add_client_error("send_message_batch", "AccessDenied", http_status_code=403)
        dispatched(queue, lambda: all(handle.status().error for handle in handles))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "and 2 others of queue default could not be published; this will be tried again" in warning
    assert "allow SendMessage in the IAM policy" in warning
    (shown,) = unpublished(queue)
    assert "3 queued jobs could not be published" in shown
    assert "allow SendMessage in the IAM policy" in shown
    dispatched(queue, lambda: all(sent(queue, handles)))
    assert unpublished(queue) == []


def test_jobs_of_a_deleted_queue_are_shown_and_sent_once_the_queue_is_made_again(queue: JobQueue) -> None:
    handles = delayed(queue, "a", "b")
    queue.native.delete_queue(QueueUrl=url_of(queue))
    dispatched(queue, lambda: all(handle.status().error for handle in handles))
    (shown,) = unpublished(queue)
    assert "2 queued jobs could not be published" in shown
    queue.setup(tasks.QUEUE)
    dispatched(queue, lambda: all(sent(queue, handles)))


def test_a_refused_dead_letter_does_not_cause_the_others_of_its_batch_to_be_buried_again(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Stubber(queue.native) as stub:  # all copies are buried later, in one batch
        for _ in range(4):
            stub.add_client_error("send_message_batch", "AccessDenied", http_status_code=403)
        handles = [queue.dead_letters.add(tasks.echo.job(argument), "by hand") for argument in ("a", "b", LARGE, "c")]
    monkeypatch.setattr("queueport_sqs.sending.LARGEST", 1_500)
    kept = [handle.id for handle in handles if handle is not handles[2]]
    dispatched(queue, lambda: all(queue.operations.read(job_id).buried for job_id in kept))
    end = queue.operations.store.now() + 1.5 * queue.operations.rules.claim
    dispatched(queue, lambda: queue.operations.store.now() > end)
    assert copies(queue) == Counter(kept)
    assert queue.dead_letters.count() == 4

"""The tests of the sample app. They are the same in memory and on every backend."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from queueport import JobQueue, JobState
from queueport.errors import InvalidJob
from sample_app.accounts import Order, charge, check_out, send_mail, sign_up

Work = Callable[[], None]


def test_signing_up_sends_a_mail_now_and_a_reminder_after_an_hour(queue: JobQueue, work: Work) -> None:
    welcome, reminder = sign_up("ann@example.org")
    work()
    assert welcome.result() == "welcome to ann@example.org"
    status = reminder.status()
    assert (status.state, status.task, status.args) == (
        JobState.SCHEDULED,
        send_mail.name,
        ["ann@example.org", "reminder"],
    )
    assert status.run_at is not None
    assert abs(status.run_at - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=1)
    queue.retry(reminder.id)  # queues a scheduled job now
    work()
    assert reminder.result() == "reminder to ann@example.org"


def test_a_charge_is_retried_until_the_provider_answers(queue: JobQueue, work: Work) -> None:
    job = check_out(Order(1, 990, ["tea"]), fails=2)
    work()
    assert (job.result(), job.status().attempts, job.status().failures) == (990, 3, 2)


def test_a_charge_that_always_fails_is_dead_until_an_operator_retries_it(queue: JobQueue, work: Work) -> None:
    job = check_out(Order(2, 500), fails=3)
    work()
    dead = queue.dead_letters.get(job.id)
    assert dead.error is not None
    assert (dead.error.type, dead.args) == ("ConnectionError", [{"number": 2, "cents": 500, "lines": []}])
    queue.dead_letters.retry(job.id)
    work()
    assert job.result() == 500


def test_an_order_is_charged_once_at_a_time(queue: JobQueue, work: Work) -> None:
    first, second = check_out(Order(3, 100)), check_out(Order(3, 100))
    assert (first.created, second.created, second.id) == (True, False, first.id)
    work()
    assert first.result() == 100
    assert check_out(Order(3, 100)).created
    work()


def test_a_wrong_argument_is_refused_before_anything_is_sent(queue: JobQueue) -> None:
    before = queue.stats().totals
    with pytest.raises(InvalidJob, match="order"):
        charge.enqueue("no order")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert queue.stats().totals == before

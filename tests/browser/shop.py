"""The tasks of a web shop, for the browser tests and the pictures in the documentation."""

from __future__ import annotations

import threading
import time
from typing import Any

from queueport import Abort, JobQueue, Retry, Task, current_job, task

QUEUES = ("default", "emails", "payments", "reports")

released = threading.Event()
"""A report is written until a test sets this event."""
bank_answers = threading.Event()
"""Payments fail until a test sets this event."""


@task(name="shop.emails.send_welcome", queue="emails")
def send_welcome(user_id: int, template: str = "welcome") -> str:
    time.sleep(0.03)
    return f"{template} sent to user {user_id}"


@task(name="shop.payments.charge", queue="payments", retry=Retry(max_attempts=3, initial=0.05, jitter=0))
def charge(order: str, card: dict[str, str]) -> dict[str, str]:
    if not bank_answers.is_set():
        raise ConnectionResetError(f"the bank closed the connection while order {order} was charged")
    return {"order": order, "status": "paid", "token": "tok_4242"}


@task(name="shop.reports.write", queue="reports")
def write_report(month: str) -> str:
    for number in range(1, 7):
        current_job().progress(number, 12, f"page {number}")
    while not released.wait(0.05):
        pass
    current_job().progress(12, 12, "ready")
    return f"{month}.pdf"


@task(name="shop.import_catalog")
def import_catalog(path: str) -> None:
    raise Abort(f"{path}: row 17 has no price")


TASKS: list[Task[..., Any, Any]] = [send_welcome, charge, write_report, import_catalog]


def dead_payment(queue: JobQueue, order: str = "o-1007") -> str:
    """Enqueue a payment that will die; returns its id."""
    job = charge.using(key=f"order-{order}", headers={"tenant": "acme", "authorization": "Bearer s3cret"})
    return queue.enqueue(job, order, {"number": "4242 4242", "cvc_token": "123"}).id

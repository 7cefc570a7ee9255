"""Enqueueing when the database transaction has been committed: for one job, or as the default by a setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from queueport.connect import get_queue
from queueport.job import Job, JobHandle
from queueport.queue import JobQueue

__all__ = ["ON_COMMIT", "defer_to_commit", "enqueue_at_once", "enqueue_on_commit", "enqueues_on_commit"]

ON_COMMIT = "ENQUEUE_ON_COMMIT"

R = TypeVar("R")
_at_once: ContextVar[bool] = ContextVar("queueport_at_once", default=False)


def enqueue_on_commit(job: Job[R], *, queue: JobQueue | None = None, using: str | None = None) -> JobHandle[R]:
    """Enqueue the job when the present transaction is committed. After a rollback, the job is not enqueued.

        with transaction.atomic():
            order = Order.objects.create(...)
            handle = enqueue_on_commit(send_receipt.job(order.pk))

    Returns the job's handle at once; its `created` is False, and until the commit, its methods raise JobNotFound.
    Outside a transaction, the job is enqueued at once. `queue` is by default `get_queue()`, and `using` is the alias of
    the database, by default that of the default database. If another job holds the `key` of this job, no job is added,
    and the methods of the handle raise JobNotFound. Errors of `enqueue` are raised by the commit, and the transaction
    stays committed; outside a transaction, they are raised by this call.
    """
    target = get_queue() if queue is None else queue
    transaction.on_commit(lambda: target.enqueue(job), using=using)
    return JobHandle(job.id, target, job.task_ref)


def enqueues_on_commit() -> bool:
    """ENQUEUE_ON_COMMIT of the setting QUEUEPORT; False if it is not given.

    Raises ImproperlyConfigured if the value is not True or False.
    """
    chosen = getattr(settings, "QUEUEPORT", {}).get(ON_COMMIT, False)
    if not isinstance(chosen, bool):
        raise ImproperlyConfigured(f"{ON_COMMIT} in QUEUEPORT must be True or False, not {chosen!r}")
    return chosen


@contextmanager
def enqueue_at_once() -> Iterator[None]:
    """A context manager. Inside it, `enqueue` of a task or a queue does not wait for a commit, even if the setting
    ENQUEUE_ON_COMMIT is True. The same is true for Django's own tasks. `enqueue_on_commit` still waits for the commit.

        with enqueue_at_once():
            count_visit.enqueue(page)
    """
    before = _at_once.set(True)
    try:
        yield
    finally:
        _at_once.reset(before)


def defer_to_commit(send: Callable[[], object]) -> bool:
    """Call `send` when the present transaction of the default database is committed, and return True. Without such a
    transaction, and inside `enqueue_at_once`, returns False and does not call `send`.
    """
    if _at_once.get() or not transaction.get_connection().in_atomic_block:
        return False
    transaction.on_commit(send)
    return True

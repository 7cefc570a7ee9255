"""The checks of ENQUEUE_ON_COMMIT in `test_django.py`, which run in the Django project."""

import json
import os
import sys
from unittest import TestResult, TestSuite

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import transaction  # noqa: E402
from django.test import TestCase  # noqa: E402
from shop import tasks  # noqa: E402

from queueport import get_queue  # noqa: E402
from queueport.contrib.django import enqueue_at_once  # noqa: E402
from queueport.errors import InvalidJob, JobNotFound  # noqa: E402
from queueport.testing import fake  # noqa: E402


class Rollback(Exception):
    """Ends a transaction."""


call_command("migrate", run_syncdb=True, verbosity=0)
queue = get_queue()
names: dict[str, str] = {}


def enqueued() -> list[str]:
    """The names of the jobs in the queue, oldest first."""
    return [names[status.id] for status in reversed(queue.jobs())]


found: dict[str, object] = {}
with transaction.atomic():
    waiting = tasks.count_orders.enqueue()
    names[waiting.id] = "count_orders"
    names[queue.enqueue_many([tasks.count_orders.job()])[0].id] = "count_orders.many"
    names[tasks.add.enqueue(1).id] = "add.by_default"
    with enqueue_at_once():
        names[tasks.count_orders.enqueue().id] = "count_orders.at_once"
        names[tasks.add.enqueue(1).id] = "add.inside"
    names[tasks.add.using(backend="at_once").enqueue(1).id] = "add.at_once"
    found["in the transaction"] = enqueued()
    for error, call in ((JobNotFound, waiting.status), (InvalidJob, lambda: tasks.count_orders.enqueue("wrong"))):
        try:
            call()
        except error:
            continue
        raise AssertionError(f"{error.__name__} was not raised")
found["after the commit"] = sorted(enqueued())
waiting.status()
try:
    with transaction.atomic():
        tasks.count_orders.enqueue()
        raise Rollback
except Rollback:
    found["after a rollback"] = len(queue.jobs()) - len(names)
found["outside"] = tasks.count_orders.enqueue().created


class Case(TestCase):
    """A test of an application."""

    def test(self) -> None:
        with fake() as queue:
            with self.captureOnCommitCallbacks(execute=True):
                tasks.count_orders.enqueue()
                before = len(queue.enqueued)
            found["in a test"] = [before, len(queue.enqueued)]


result = TestResult()
TestSuite([Case("test")]).run(result)
assert result.wasSuccessful(), result.errors
json.dump(found, sys.stdout)

"""The checks of `test_django.py`, which run in the Django project: `python try_tasks.py enqueue|read`."""

import json
import os
import sys
from datetime import timedelta
from unittest.mock import patch

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import transaction  # noqa: E402
from django.utils import timezone  # noqa: E402
from shop import tasks  # noqa: E402
from shop.models import Order  # noqa: E402

from queueport import JobQueue, get_queue  # noqa: E402
from queueport.contrib.django import enqueue_on_commit  # noqa: E402
from queueport.errors import BackendMisconfigured  # noqa: E402


class Rollback(Exception):
    """Ends a transaction."""


def enqueue() -> dict[str, str]:
    """Enqueue jobs of all kinds; returns their ids by name."""
    call_command("migrate", run_syncdb=True, verbosity=0)
    ids = {
        "add": tasks.add.enqueue(2, b=3).id,
        "greet": tasks.greet.enqueue("ann").id,
        "fetch": tasks.fetch.enqueue(number=4).id,
        "fail": tasks.fail.enqueue().id,
        "fail_once": tasks.fail_once.enqueue().id,
        "plain": tasks.plain.enqueue("2026-01-01").id,
        "deferred": tasks.add.using(run_after=timezone.now() + timedelta(hours=1)).enqueue(1).id,
    }
    with transaction.atomic():
        Order.objects.create(name="x")
        handle = enqueue_on_commit(tasks.count_orders.job())
        ids["count_orders"] = handle.id
        result = tasks.late.enqueue()
        ids["late"] = result.id
        assert result.enqueued_at is None
        assert not get_queue().jobs(task="shop.tasks.late")
    assert result.enqueued_at is not None
    try:
        with transaction.atomic():
            ids["rolled_back"] = enqueue_on_commit(tasks.count_orders.job()).id
            raise Rollback
    except Rollback:
        pass
    for wrong in (tasks.add.enqueue, lambda: tasks.add.enqueue({1, 2})):
        try:
            wrong()
        except TypeError:
            continue
        raise AssertionError("wrong arguments were accepted")
    return ids


def read(ids: dict[str, str]) -> dict[str, object]:
    """The results of the jobs by name."""
    found: dict[str, object] = {}
    for name, job_id in ids.items():
        try:
            result = tasks.add.get_backend().get_result(job_id)
        except Exception as error:  # noqa: BLE001  # its class differs between Django 5 and 6
            found[name] = type(error).__name__
            continue
        shown = str(result.status)
        value = result.return_value if shown == "SUCCESSFUL" else [e.exception_class.__name__ for e in result.errors]
        found[name] = [shown, value, result.attempts]
    found["orders"] = get_queue().result(ids["count_orders"], timeout=0)
    refused = BackendMisconfigured("the file can only be read")
    with patch.object(JobQueue, "status", side_effect=refused):
        try:
            tasks.add.get_result(ids["add"])
        except BackendMisconfigured:
            pass
        else:
            raise AssertionError("a store that refuses calls was taken for a missing job")
    add = tasks.add.get_result(ids["add"])
    add.refresh()
    assert add.return_value == 5
    assert add.args == [2]
    assert add.kwargs == {"b": 3}
    return found


json.dump(enqueue() if sys.argv[1] == "enqueue" else read(json.loads(sys.argv[2])), sys.stdout)

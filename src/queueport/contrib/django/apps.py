"""The Django app: it copies the setting QUEUEPORT to the environment, and closes old connections around attempts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import close_old_connections

from queueport import hooks
from queueport.connect import get_queue
from queueport.context import CurrentJob
from queueport.contrib.django.transactions import ON_COMMIT, defer_to_commit, enqueues_on_commit
from queueport.errors import ConfigurationError, Unsupported

__all__ = ["QueueportConfig"]

TASKS = "queueport.contrib.django.autodiscover"
"""The module that workers import: it sets up Django and imports the task modules of all apps."""


class QueueportConfig(AppConfig):
    """The configuration of the app "queueport.contrib.django"."""

    name = "queueport.contrib.django"
    label = "queueport"
    verbose_name = "queueport"

    def ready(self) -> None:
        """Copy the setting QUEUEPORT to environment variables that are not set, and register the hook
        that closes database connections and the check for `manage.py check`.

        `get_queue` and the processes of a worker read the variables. ENQUEUE_ON_COMMIT is not copied: with True, a job
        that is enqueued in a transaction of the default database is sent when this transaction is committed, unless
        `enqueue_at_once` or the option `enqueue_on_commit` of `TasksBackend` prevents this.
        """
        given = getattr(settings, "QUEUEPORT", {})
        if not isinstance(given, Mapping):
            raise ImproperlyConfigured('QUEUEPORT must be a dict, such as {"URL": "sqlite:///jobs.db"}')
        if enqueues_on_commit():
            hooks.defer = defer_to_commit
        for name, value in {"TASKS": TASKS, **given}.items():
            if value is not None and name != ON_COMMIT:
                os.environ.setdefault(f"QUEUEPORT_{name.upper()}", str(value))
        hooks.around_job(_connections)
        checks.register(check_queue)


def check_queue(**_: Any) -> list[checks.CheckMessage]:
    """For `manage.py check`: return an error if the project's queue cannot be opened. Does not connect to a server."""
    try:
        get_queue()
    except (ConfigurationError, Unsupported) as error:
        return [checks.Error(str(error), id="queueport.E001")]
    return []


def _connections(_job: CurrentJob) -> Iterator[None]:
    """Before and after each attempt, close unusable and too old database connections, as Django does for requests."""
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()


# The child processes of a worker import the `__module__` of each hook. For this hook, `__module__` must name the module
# that sets up Django.
_connections.__module__ = TASKS

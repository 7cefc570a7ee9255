"""Django: a backend for Django's own tasks, a management command, and jobs that wait for a transaction's commit.

`pip install 'queueport[django]'`. In the settings:

    INSTALLED_APPS = [..., "queueport.contrib.django"]
    QUEUEPORT = {"URL": "sqlite:///jobs.db"}
    TASKS = {"default": {"BACKEND": "queueport.contrib.django.TasksBackend"}}       # for django.tasks

    $ python manage.py queueport worker

docs/django.md explains these lines. Workers that `manage.py queueport worker` starts import the module `tasks` of each
installed app, unless arguments, the environment (QUEUEPORT_TASKS) or the setting QUEUEPORT name other task modules.
"""

from typing import TYPE_CHECKING, Any

from queueport.errors import NeedsExtra

with NeedsExtra("django", __name__):
    import django as _  # noqa: F401  # the modules of this package import it

if TYPE_CHECKING:
    from queueport.contrib.django.backend import TasksBackend
    from queueport.contrib.django.transactions import enqueue_at_once, enqueue_on_commit

__all__ = ["TasksBackend", "enqueue_at_once", "enqueue_on_commit"]


def __getattr__(name: str) -> Any:
    """Import the module of a name when the name is first used.

    Django imports this package before the settings are ready, and these modules need the settings.
    """
    if name == "TasksBackend":
        with NeedsExtra("django", f"{__name__}.{name}"):  # django-tasks may be missing
            from queueport.contrib.django.backend import TasksBackend

        return TasksBackend
    if name in __all__:
        from queueport.contrib.django import transactions

        return getattr(transactions, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

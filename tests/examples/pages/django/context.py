"""What the page on Django assumes: a project with a database, a model, and tasks."""

from types import SimpleNamespace

import django
from django.conf import settings

from queueport import task

__all__ = ["Order", "count_visit", "page", "send_receipt"]

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["queueport.contrib.django"],
    QUEUEPORT={"URL": "sqlite:///jobs.db"},
)
django.setup()


@task
def send_receipt(order: int) -> None:
    pass


@task
def count_visit(page: str) -> None:
    pass


page = "/"
Order = SimpleNamespace(objects=SimpleNamespace(create=lambda *_: SimpleNamespace(pk=7)))

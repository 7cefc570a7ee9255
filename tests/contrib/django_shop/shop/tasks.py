"""Tasks of Django, and a task of queueport."""

from datetime import datetime

from queueport import task as queueport_task
from shop.models import Order

try:
    from django.tasks import TaskContext, task
except ImportError:
    from django_tasks import TaskContext, task


@task
def add(a: int, b: int = 1) -> int:
    return a + b


@task(queue_name="mail", takes_context=True)
def greet(context: TaskContext, name: str) -> list:
    return [name, context.attempt, str(context.task_result.status)]


@task
async def fetch(number: int) -> dict:
    return {"number": number}


@task
def fail() -> None:
    raise ZeroDivisionError("no")


@task(backend="retrying")
def fail_once() -> None:
    raise KeyError("no")


@task
def plain(when: datetime) -> str:
    return type(when).__name__


@task(backend="committing")
def late() -> int:
    return 1


@queueport_task
def count_orders() -> int:
    return Order.objects.count()

"""What the page on concepts assumes: a queue, a task that charges an order, and a job that sends a mail."""

from queueport import get_queue, task
from queueport.errors import BackendUnavailable

__all__ = ["BackendUnavailable", "charge", "job_id", "order", "queue", "remember"]


@task
def charge(order: int) -> None:
    pass


def remember(order: int) -> None:
    pass


@task
def send_mail(address: str, template: str) -> None:
    pass


queue = get_queue("memory://")
order = 42
job_id = queue.enqueue(send_mail, "ann@example.org", template="hello").id

"""What the page on concepts assumes: a queue, and a task that charges an order."""

from queueport import get_queue, task
from queueport.errors import BackendUnavailable

__all__ = ["BackendUnavailable", "charge", "order", "queue", "remember"]


@task
def charge(order: int) -> None:
    pass


def remember(order: int) -> None:
    pass


queue = get_queue("memory://")
order = 42

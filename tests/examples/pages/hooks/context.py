"""What the page on hooks assumes: a request id, and tasks of a shop."""

from contextvars import ContextVar

from queueport import Retry, task

request_id: ContextVar[str] = ContextVar("request_id", default="none")
messages: list[str] = []
tickets: list[int] = []


@task(name="shop.whose_request")
def whose_request() -> str:
    return request_id.get()


@task(name="shop.refund", retry=Retry(max_attempts=1))
def refund(order: int) -> None:
    raise LookupError("no such order")

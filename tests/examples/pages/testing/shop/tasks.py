"""The tasks of the app on the page on testing."""

from queueport import current_job, task


@task
def send_welcome(email: str) -> str:
    return "sent"


@task
def send_receipt(order: int) -> str:
    return "sent"


@task
def resize(number: int) -> int:
    assert (current_job().attempt, current_job().headers) == (3, {"user": "ann"})
    for percent in (10, 50, 90, 100):
        current_job().progress(percent, total=100)
    return 7


@task
def store(picture: bytes) -> None:
    pass


@task
def charge(order: int, cents: int) -> int:
    return cents

"""What the page on web frameworks assumes: a task."""

from queueport import task


@task
def send_welcome(email: str) -> None:
    pass

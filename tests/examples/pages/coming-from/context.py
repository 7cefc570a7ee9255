"""What the page for developers of other libraries assumes: a bank that always fails, downloads, and a sign-up."""

from typing import Any

from queueport import get_queue, task

__all__ = ["Busy", "NotFound", "bank", "download", "send_welcome", "sign_up", "support"]


class Busy(Exception):
    retry_after = 1.0


class NotFound(Exception):
    pass


class Bank:
    def charge(self, order: int) -> None:
        raise ConnectionError("the bank does not answer")


def download(url: str) -> str:
    return url


@task
def send_welcome(email: str) -> None:
    pass


def sign_up(email: str) -> None:
    get_queue().enqueue(send_welcome, email)


bank = Bank()
support: list[Any] = []

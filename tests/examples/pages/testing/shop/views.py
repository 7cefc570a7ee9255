"""The views of the app on the page on testing."""

from dataclasses import dataclass

from queueport import JobHandle
from shop.tasks import charge, send_receipt, send_welcome, store


@dataclass
class Order:
    number: int
    cents: int


def sign_up(email: str) -> None:
    send_welcome.using(delay=60).enqueue(email)


def pay(card: str) -> None:
    if card != "declined":
        send_receipt.enqueue(1)


def upload(picture: bytes) -> None:
    store.enqueue(picture)


def check_out(order: Order) -> JobHandle[int]:
    return charge.using(key=str(order.number)).enqueue(order.number, order.cents)

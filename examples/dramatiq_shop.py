"""The Dramatiq application of a shop, with nothing added. `07_join_dramatiq.py` joins it."""

import os
from collections.abc import Callable
from pathlib import Path

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker

URL = os.environ.get("SHOP_BROKER", "redis://localhost:6379/0")
QUEUE = os.environ.get("SHOP_QUEUE", "shop")

kind: Callable[..., dramatiq.Broker] = RabbitmqBroker if URL.startswith("amqp") else RedisBroker
broker = kind(url=URL)
dramatiq.set_broker(broker)


def note(line: str) -> None:
    """Write a line to the shop's journal."""
    with Path(os.environ["SHOP_JOURNAL"]).open("a") as journal:
        journal.write(f"{line}\n")


@dramatiq.actor(queue_name=QUEUE, max_retries=2, min_backoff=500, max_backoff=1000)
def charge(order: int, cents: int) -> str:
    """Ask the bank to charge an order. The bank never answers for more than 1000.00, so Dramatiq retries twice."""
    note(f"order {order}")
    if cents > 100_000:
        raise TimeoutError("the bank does not answer")
    receipt.send(order)
    return f"charged {cents} cents"


@dramatiq.actor(queue_name=QUEUE)
def receipt(order: int) -> None:
    """Send the customer a receipt."""
    note(f"receipt {order}")

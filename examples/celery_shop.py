"""The Celery application of a shop, with nothing added. `06_join_celery.py` joins it."""

import os
from pathlib import Path
from typing import Any

from celery import Celery, Task

REDIS = "redis://localhost:6379/0"
app = Celery("shop", broker=os.environ.get("SHOP_BROKER", REDIS), backend=os.environ.get("SHOP_RESULTS", REDIS))
app.conf.task_default_queue = os.environ.get("SHOP_QUEUE", "shop")
app.conf.broker_connection_retry_on_startup = True


@app.task(bind=True, max_retries=2, default_retry_delay=1)
def charge(self: Task[Any, Any], order: int, cents: int) -> str:
    """Ask the bank to charge an order; if it does not answer, Celery retries twice."""
    try:
        return ask_bank(order, cents)
    except TimeoutError as error:
        raise self.retry(exc=error) from error


def ask_bank(order: int, cents: int) -> str:
    """Write the request to the shop's journal. The bank never answers for more than 1000.00."""
    with Path(os.environ["SHOP_JOURNAL"]).open("a") as journal:
        journal.write(f"order {order}\n")
    if cents > 100_000:
        raise TimeoutError("the bank does not answer")
    return f"charged {cents} cents"

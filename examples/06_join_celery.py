"""Join an existing Celery application, `celery_shop.py`, and start its own worker.

It needs a Redis on this machine. With SHOP_BROKER=amqp://localhost, the broker is RabbitMQ. It prints:

order 1 through queueport: charged 4200 cents; succeeded after 1 attempt
order 2 through queueport: dead after 4 attempts; TimeoutError: the bank does not answer
dead letters: 1, and its order is 2
order 3 by .delay(), as before: charged 990 cents
order 4 by .delay(), as before: FAILURE; the bank does not answer
requests to the bank: order 1: 1, order 2: 4, order 3: 1, order 4: 3
"""

import os
import secrets
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import celery_shop
from queueport import JobState, Retry, Task, get_queue, task
from queueport.errors import JobFailed

NAMESPACE = os.environ.setdefault("QUEUEPORT_NAMESPACE", f"shop_{secrets.token_hex(4)}")  # a new namespace for each run
SHOP = celery_shop.app.conf.task_default_queue

# Joining begins here. The shop's workers import this module too.
os.environ["QUEUEPORT_URL"] = "celery://celery_shop:app"
os.environ.setdefault("QUEUEPORT_STORE", "redis://localhost:6379/0")
app = celery_shop.app
app.conf.imports = [*app.conf.imports, "queueport_celery.worker"]
WORKER = ["celery", "-A", "06_join_celery", "worker", "-Q", f"{SHOP},{NAMESPACE}.default"]
charge: Task[[int, int], str, str] = task.named("celery_shop.charge", retry=Retry(max_attempts=4, initial=0.2))
# Joining ends here.


def main() -> None:
    """Charge two orders through queueport and two by `.delay()`. The second of each pair fails every time."""
    with get_queue() as queue:
        good, bad = queue.enqueue(charge, 1, 4200), queue.enqueue(charge, 2, 1_000_000)
        answer = good.result(timeout=30)  # type checkers know that this is a str
        assert good.status().attempts == 1
        print(f"order 1 through queueport: {answer}; {good.status().state} after 1 attempt")

        try:
            bad.result(timeout=30)
        except JobFailed as failed:
            print(f"order 2 through queueport: {bad.status().state} after {bad.status().attempts} attempts", end="; ")
            print(f"{failed.error.type}: {failed.error.message}" if failed.error is not None else "")
        (letter,) = queue.dead_letters.list()
        assert (letter.id, letter.state, letter.failures) == (bad.id, JobState.DEAD, 4)
        print(f"dead letters: {queue.dead_letters.count()}, and its order is {letter.args[0]}")

        good3, bad4 = celery_shop.charge.delay(3, 990), celery_shop.charge.delay(4, 1_000_000)
        print(f"order 3 by .delay(), as before: {good3.get(timeout=30)}")
        error = bad4.get(timeout=30, propagate=False)
        print(f"order 4 by .delay(), as before: {bad4.state}; {error}")
        assert {status.id for status in queue.jobs()} == {good.id, bad.id}


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        journal = Path(folder, "journal")
        os.environ["SHOP_JOURNAL"] = str(journal)
        command, here = [sys.executable, "-m", *WORKER, "--concurrency", "2"], Path(__file__).parent
        with subprocess.Popen(command, cwd=here, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as worker:
            try:
                main()
            finally:
                worker.terminate()
        requests = Counter(journal.read_text().splitlines())
        assert requests == {"order 1": 1, "order 2": 4, "order 3": 1, "order 4": 3}  # queueport: 4 attempts, Celery: 3
        print("requests to the bank:", ", ".join(f"{order}: {count}" for order, count in sorted(requests.items())))

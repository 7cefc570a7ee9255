"""Join an existing Dramatiq application, `dramatiq_shop.py`, and start its own worker.

It needs a Redis on this machine. With SHOP_BROKER=amqp://localhost, the broker is RabbitMQ. It prints:

order 1 through queueport: charged 4200 cents; succeeded after 1 attempt
order 2 through queueport: dead after 4 attempts; TimeoutError: the bank does not answer
dead letters: 1, and its order is 2
order 3 and order 4 by .send(), as before: 1 and 3 attempts
in the shop's journal: order 1: 1, order 2: 4, order 3: 1, order 4: 3, receipt 1: 1, receipt 3: 1
"""

import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import dramatiq_shop
from queueport import JobState, Retry, Task, get_queue, task
from queueport.errors import JobFailed

SHOP = dramatiq_shop.QUEUE
os.environ.setdefault("QUEUEPORT_NAMESPACE", f"shop_{secrets.token_hex(4)}")  # each run has its own namespace

# Joining begins here. The worker is started by the shop's own command with one more module.
os.environ["QUEUEPORT_URL"] = "dramatiq://dramatiq_shop:broker"
os.environ.setdefault("QUEUEPORT_STORE", "redis://localhost:6379/0")
WORKER = ["dramatiq", "dramatiq_shop:broker", "queueport_dramatiq.worker"]
charge: Task[[int, int], str, str] = task.named("charge", queue=SHOP, retry=Retry(max_attempts=4, initial=0.2))
# Joining ends here.


def journal() -> Counter[str]:
    """The lines of the shop's journal, and how often each one occurs."""
    return Counter(Path(os.environ["SHOP_JOURNAL"]).read_text().splitlines())


def main() -> None:
    """Charge two orders through queueport and two by `.send()`. The second of each pair fails every time."""
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

        dramatiq_shop.charge.send(3, 990)
        dramatiq_shop.charge.send(4, 1_000_000)
        deadline = time.monotonic() + 30
        while journal()["order 4"] < 3 or journal()["receipt 3"] < 1:
            assert time.monotonic() < deadline, "Dramatiq has not run the orders within 30 s"
            time.sleep(0.05)
        print(f"order 3 and order 4 by .send(), as before: {journal()['order 3']} and {journal()['order 4']} attempts")
        assert {status.id for status in queue.jobs()} == {good.id, bad.id}


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        os.environ["SHOP_JOURNAL"] = str(Path(folder, "journal"))
        command, here = [sys.executable, "-m", *WORKER, "--processes", "1", "--threads", "2"], Path(__file__).parent
        with subprocess.Popen(command, cwd=here, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as worker:
            try:
                main()
            finally:
                worker.terminate()
        lines = journal()
        attempts = {"order 1": 1, "order 2": 4, "order 3": 1, "order 4": 3}  # queueport: 4 attempts, Dramatiq: 3
        assert lines == {**attempts, "receipt 1": 1, "receipt 3": 1}
        print("in the shop's journal:", ", ".join(f"{line}: {count}" for line, count in sorted(lines.items())))

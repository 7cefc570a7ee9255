"""Enqueue jobs, look at them, wait for their results. `python 01_enqueue_and_result.py` prints:

before a worker runs: queued, args [2, 3], attempts 0
its result: 5
of many jobs, in the order given: [0, 2, 4, 6, 8]
later: scheduled, and then 42
refused: task 'tasks.add': argument 'a': Input should be a valid integer, unable to parse string as an integer
"""

import json

from queueport import get_queue
from queueport.errors import InvalidJob
from tasks import add

with get_queue("memory://") as queue:
    handle = queue.enqueue(add, 2, 3)
    status = handle.status()
    print(f"before a worker runs: {status.state}, args {status.args}, attempts {status.attempts}")

    with queue.worker(threads=4):
        print("its result:", handle.result(timeout=10))

        handles = queue.enqueue_many(add.job(n, n) for n in range(5))
        print("of many jobs, in the order given:", [handle.result(timeout=10) for handle in handles])

        later = queue.enqueue(add.using(delay=0.5).job(40, 2))
        print(f"later: {later.status().state}, and then {later.result(timeout=10)}")

    untyped = json.loads('"two"')  # a type checker refuses add("two", 3), but cannot see what came from outside
    try:
        queue.enqueue(add, untyped, 3)
    except InvalidJob as error:
        print("refused:", error)

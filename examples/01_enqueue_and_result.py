"""Enqueue jobs, read their status and wait for their results. `python 01_enqueue_and_result.py` prints:

before a worker runs: queued, args [2, 3], attempts 0
result: 5
results in the order of the jobs: [0, 2, 4, 6, 8]
delayed: scheduled at first, then 42
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
        print("result:", handle.result(timeout=10))

        handles = queue.enqueue_many(add.job(n, n) for n in range(5))
        print("results in the order of the jobs:", [handle.result(timeout=10) for handle in handles])

        delayed = queue.enqueue(add.using(delay=0.5).job(40, 2))
        print(f"delayed: {delayed.status().state} at first, then {delayed.result(timeout=10)}")

    untyped = json.loads('"two"')  # a type checker would reject add("two", 3), but does not know this value
    try:
        queue.enqueue(add, untyped, 3)
    except InvalidJob as error:
        print("refused:", error)

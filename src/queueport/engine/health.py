"""Checks whether backend and store can do what `enqueue` needs. For `JobQueue.check`."""

from __future__ import annotations

import time
from contextlib import suppress

from queueport.engine.operations import Operations
from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.job import DEFAULT_QUEUE
from queueport.stats import Health
from queueport.status import WAITING
from queueport.tasks import registry

__all__ = ["check_health"]


def check_health(operations: Operations, *, workers: bool = False) -> Health:
    """Check the backend and the store, for `JobQueue.check`.

    With `workers`, jobs that wait without a live worker are a problem; otherwise, they are a warning.
    """
    from queueport.spi.settings import unknown_variables  # imported here, because pydantic is slow to import

    problems: list[str] = []
    warnings: list[str] = unknown_variables()
    if operations.signer is not None and operations.signer.accepts_unsigned:
        warnings.append(
            "workers accept messages without a signature: remove the word `unsigned` from signing_key when all "
            "processes have the key"
        )
    seconds: list[float | None] = []
    for part in (operations.driver, operations.store):
        started = time.perf_counter()
        try:
            warnings += part.check()
            seconds.append(time.perf_counter() - started)
        except (BackendUnavailable, ConfigurationError) as error:
            if str(error) not in problems:  # backend and store on one server may report the same error
                problems.append(str(error))
            seconds.append(None)
    if seconds[0] is not None:
        problems += _queue_problems(operations)
    if seconds[1] is not None:
        try:
            warnings += operations.warnings()
            warnings += _paused(operations)
            if not problems:
                (problems if workers else warnings).extend(_without_worker(operations))
        except BackendUnavailable as error:
            problems.append(str(error))
    return Health(not problems, seconds[0], seconds[1], problems, warnings)


def _paused(operations: Operations) -> list[str]:
    """One sentence for each paused queue."""
    return [
        f"queue {queue!r} has been paused since {pause.since:%Y-%m-%d %H:%M} UTC, so none of its jobs starts "
        f"(reason: {pause.reason or 'not given'}): `queueport resume {queue}` starts them again"
        for queue, pause in sorted(operations.pauses.read().items())
    ]


def _without_worker(operations: Operations) -> list[str]:
    """One sentence for each queue that has waiting jobs and no live worker."""
    store = operations.store
    waiting = {
        queue: sum(counts.states.get(state, 0) for state in WAITING)
        for queue, counts in sorted(store.stats().queues.items())
    }
    served = {queue for worker in store.workers() for queue in worker.queues} if any(waiting.values()) else set()
    return [
        f"{'1 job waits' if count == 1 else f'{count} jobs wait'} in queue {queue!r}, "
        "and no live worker takes jobs from it: start one"
        for queue, count in waiting.items()
        if count and queue not in served
    ]


def _queue_problems(operations: Operations) -> list[str]:
    """The problems that `check_queue` of the driver finds.

    Checks every queue that was ever used or that a registered task declares. If there is no such queue, checks the
    default queue. If the store does not answer, the used queues are not known and are not checked.
    """
    problems: list[str] = []
    names = {task.queue for task in registry.tasks()}
    with suppress(BackendUnavailable):  # `check_health` reports the errors of the store
        names.update(operations.store.stats().queues)
    for name in sorted(names) or [DEFAULT_QUEUE]:
        try:
            operations.driver.check_queue(name)
        except BackendUnavailable as error:
            problems.append(str(error))
    return problems

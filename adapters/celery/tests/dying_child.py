"""A module of tasks that kills the first process of Celery's pool before it begins a job. For `test_native_worker`."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from queueport.spi.runner import DeliveryResult
from queueport.testing.tasks import echo
from queueport_celery.prefork import PoolProcess

__all__ = ["KILLED", "echo"]

KILLED = "DYING_CHILD"
"""The environment variable with the path of a file that exists when a process was killed."""

deliver = PoolProcess.deliver


def dying(self: PoolProcess, body: bytes) -> DeliveryResult:
    file = Path(os.environ[KILLED])
    if not file.exists():
        file.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return deliver(self, body)


PoolProcess.deliver = dying  # type: ignore[method-assign]

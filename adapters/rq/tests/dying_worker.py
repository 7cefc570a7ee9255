"""An RQ worker whose first work horse is killed before it begins its job. For `test_native_worker`."""

from __future__ import annotations

import os
import signal
from typing import Any

from rq.job import Job

from queueport.spi.runner import DeliveryResult
from queueport_rq.worker import QueueportWorker

__all__ = ["DyingWorker"]


class DyingWorker(QueueportWorker):
    _killed = False

    def deliver(self, body: bytes) -> DeliveryResult:
        if not self._killed:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().deliver(body)

    def handle_work_horse_killed(self, job: Job, retpid: Any, ret_val: Any, rusage: Any) -> None:
        self._killed = True
        super().handle_work_horse_killed(job, retpid, ret_val, rusage)

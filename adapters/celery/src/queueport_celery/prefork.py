"""Stops a process of Celery's prefork pool gracefully when it receives SIGTERM directly. For `worker`.

systemd and other process managers send SIGTERM to all processes of a service, not only to the parent. Celery's own
handler in a pool process raises SystemExit in the running task, so the job of that task would fail.
"""

from __future__ import annotations

import os
import signal
import threading
from queue import SimpleQueue
from typing import Any

from queueport.spi.runner import DeliveryResult
from queueport.workers.native import STUCK_EXIT_CODE, NativeWorker

__all__ = ["PoolProcess"]


class PoolProcess:
    """Runs the jobs of one process of the pool, in its main thread. Each process of the pool needs its own instance.

    After SIGTERM, the running job gets the grace period to end, and is then interrupted. After that, Celery's own
    handler ends the process; if the job cannot be interrupted, the process exits with STUCK_EXIT_CODE. If the process
    runs one of the application's own Celery tasks instead of a job, Celery's handler is called at once.
    """

    def __init__(self, native: NativeWorker) -> None:
        self._native = native
        self._received: SimpleQueue[int] = SimpleQueue()
        self._handler: Any = None
        self._stopped = False

    def deliver(self, body: bytes) -> DeliveryResult:
        """Run the job of one message. The first call sets the signal handlers, after Celery has set its own."""
        if self._handler is None:
            self._handler = signal.signal(signal.SIGTERM, self._handle)
            signal.signal(signal.SIGINT, lambda *_: None)  # not SIG_IGN, which programs started by a task would inherit
            threading.Thread(target=self._stop, name="queueport-signals", daemon=True).start()
        return self._native.deliver(body)

    def _handle(self, number: int, frame: Any) -> None:
        """Give the first signal to the thread of `_stop`. When that thread repeats the signal, call Celery's handler.

        A signal handler must not stop the job itself: the code that the signal interrupts may hold a lock.
        """
        if self._stopped and callable(self._handler):
            self._handler(number, frame)
        else:
            self._received.put(number)

    def _stop(self) -> None:
        number = self._received.get()
        self._native.stop()
        self._stopped = True
        if not self._native.process.heartbeat.running():
            os.kill(os.getpid(), number)
        else:  # a task cannot be interrupted: the job may run again when its lease lapses
            os._exit(STUCK_EXIT_CODE)

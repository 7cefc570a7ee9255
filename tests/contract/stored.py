"""`StoredHarness`: for backends whose store is the queue. For the contract tests of SQLite and memory."""

from __future__ import annotations

from queueport.spi.runner import Work
from queueport.tasks import registry
from queueport.testing import Harness, tasks
from queueport.workers.attempt import Attempt
from queueport.workers.process import WorkerProcess

__all__ = ["StoredHarness"]


class StoredHarness(Harness):
    """A harness for a backend without messages. None can be lost or repeated, so `redeliver` tries to begin the job
    again.
    """

    def wipe(self, queue: str) -> None:
        """Do nothing, because there are no messages."""

    def inject(self, queue: str, body: bytes) -> None:
        """Pass the body to a runner, as a driver would."""
        self._process().deliver(body)

    def redeliver(self, job_id: str) -> None:
        """Try to begin the job once more."""
        process = self._process()
        found = process.receiver.begin([self.message_of(job_id)], process.given_up)[0]
        assert not isinstance(found, Attempt), "a job that has ended was begun again"

    def _process(self) -> WorkerProcess:
        return WorkerProcess(self.open().operations, registry.tasks(), Work((tasks.QUEUE,)))

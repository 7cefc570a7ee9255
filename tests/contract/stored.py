"""The harness of backends whose store is the queue: a record is the message. For their contract tests."""

from __future__ import annotations

from queueport.attempt import Attempt
from queueport.message import Message
from queueport.runner import Runner
from queueport.tasks import registry
from queueport.testing import Harness, tasks

__all__ = ["StoredHarness"]


class StoredHarness(Harness):
    """There is no server, and there are no messages that could be lost or come twice."""

    def wipe(self, queue: str) -> None:
        """Nothing to lose."""

    def inject(self, queue: str, body: bytes) -> None:
        """A driver of somebody's hands these bytes to a runner."""
        self._runner().deliver(body)

    def redeliver(self, job_id: str) -> None:
        """Somebody begins the job again."""
        queue = self.open()
        record = queue.operations.store.get([job_id])[0]
        body = b'{"v":1}' if record is None else Message.of(record, 0.0).body
        found = self._runner().begin([body])[0]
        assert not isinstance(found, Attempt), "a job that has ended began again"

    def _runner(self) -> Runner:
        known = {name: task for task in registry.tasks() for name in (task.name, *task.aliases)}
        return Runner(self.open().operations, known, (tasks.QUEUE,))

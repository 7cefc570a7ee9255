"""The names that queueport's queues and messages have in RQ. For the driver, the workers, and users of RQ's tools.

    queueport.emails              a queue                          NAMESPACE.QUEUE
    queueport-1f0c9a2e-order42    a message of the job order42     NAMESPACE-RANDOM-ID, new for each message
    queueport-dead_1-order42      the job's dead-letter copy       NAMESPACE-dead_LIFE-ID

Each message is a separate job in RQ. If all messages of a job shared one RQ job, publishing the job again would
overwrite that RQ job, and RQ would then write the end of the previous attempt to it. A namespace contains no dot and no
dash, so two namespaces never share a name.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

__all__ = ["Names", "is_copy"]

COPY = re.compile(r"[A-Za-z0-9_]+-dead_\d+-[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Names:
    """Makes the names of one namespace, and reads the names of its queues."""

    namespace: str

    def native(self, queue: str) -> str:
        """RQ's name of a queue."""
        return f"{self.namespace}.{queue}"

    def queue(self, native: str) -> str | None:
        """The queue that has this name in RQ; None if the name is not in this namespace."""
        namespace, _, queue = native.partition(".")
        return queue if namespace == self.namespace and queue else None

    def message(self, job_id: str) -> str:
        """A new RQ id for a message of a job."""
        return f"{self.namespace}-{secrets.token_hex(4)}-{job_id}"

    def copy(self, job_id: str, life: int) -> str:
        """The RQ id of the dead-letter copy of a job in one of its lives."""
        return f"{self.namespace}-dead_{life}-{job_id}"


def is_copy(rq_id: str) -> bool:
    """Whether `rq_id` is the id of a dead-letter copy. A copy keeps its id when it is redriven."""
    return COPY.fullmatch(rq_id) is not None

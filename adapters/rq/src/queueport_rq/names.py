"""How queues and messages are called in RQ, so that namespaces of one Redis stay apart. For the driver and the workers.

    queueport.emails              a queue                      NAMESPACE.QUEUE
    queueport-1f0c9a2e-order42    a message of job order42     NAMESPACE-RANDOM-ID, a new one each time it is sent
    queueport-dead_1-order42      its copy in the dead letters NAMESPACE-dead_LIFE-ID

RQ overwrites a job whose id comes again and runs it as often as it came, and it writes to a job after its end; so each
message is a job of its own to RQ. A namespace has neither a dot nor a dash, which keeps the parts apart.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from queueport.errors import ConfigurationError

__all__ = ["Names", "is_copy", "job_id"]

RQ_ID = re.compile(r"[A-Za-z0-9_]+-(?:[0-9a-f]{8}|(?P<copy>dead_\d+))-(?P<id>[A-Za-z0-9_-]+)")


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one namespace."""

    namespace: str

    def queue(self, name: str) -> str:
        """RQ's name of a queue."""
        return f"{self.namespace}.{name}"

    def own_queue(self, name: str) -> str:
        """The queue that RQ calls so. Raises ConfigurationError for one that is not of this namespace."""
        namespace, _, own = name.partition(".")
        if namespace != self.namespace or not own:
            raise ConfigurationError(
                f"{name!r} is no queue of namespace {self.namespace!r}: name it as RQ does, {self.queue('default')!r}"
            )
        return own

    def message(self, job_id: str) -> str:
        """A new id in RQ for a message of that job."""
        return f"{self.namespace}-{secrets.token_hex(4)}-{job_id}"

    def copy(self, job_id: str, life: int) -> str:
        """The id in RQ of that job's copy in the dead letters."""
        return f"{self.namespace}-dead_{life}-{job_id}"


def job_id(rq_id: str) -> str | None:
    """The job of a message; None where the id is none that queueport gives."""
    match = RQ_ID.fullmatch(rq_id)
    return match["id"] if match else None


def is_copy(rq_id: str) -> bool:
    """Whether it is a dead letter, in its place or sent back to its queue."""
    match = RQ_ID.fullmatch(rq_id)
    return match is not None and match["copy"] is not None

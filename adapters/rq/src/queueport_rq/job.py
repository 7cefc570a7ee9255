"""RQ's job as queueport's workers read it: it can name no code but queueport's own. For the workers and the driver."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from rq.exceptions import DeserializationError, NoSuchJobError
from rq.job import Job

from queueport_rq import entry

__all__ = ["QueueportJob"]

logger: logging.Logger = logging.getLogger("queueport")

KEPT = (
    b"data",
    b"origin",
    b"description",
    b"status",
    b"timeout",
    b"result_ttl",
    b"failure_ttl",
    b"ttl",
    b"created_at",
    b"enqueued_at",
    b"started_at",
    b"ended_at",
    b"last_heartbeat",
    b"worker_name",
)
"""Fields of a job's hash that are read. Others make RQ import, call or send something, or run the job again: callbacks,
webhooks, retries, repeats, rate limits, groups, dependencies. queueport writes none of them."""


class QueueportJob(Job):
    """Who may write to the Redis may put anything there: whatever is not queueport's is dropped or refused here."""

    _damaged = False

    def restore(self, raw_data: Mapping[bytes, bytes]) -> Any:
        """Read it without what could run code of somebody's choice; what RQ cannot read carries no message."""
        kept = {name: raw_data[name] for name in KEPT if name in raw_data}
        try:
            return super().restore(kept)
        except NoSuchJobError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever RQ's parsing says to rubbish
            logger.warning("RQ's job %s cannot be read: %s", self.id, error)
            self._damaged = True
            return super().restore({b"data": kept[b"data"]})

    @property
    def body(self) -> bytes | None:
        """The message of queueport's that it carries; None where it carries none."""
        if self._damaged:
            return None
        try:
            name, instance, args, kwargs = self.func_name, self.instance, self.args, self.kwargs
        except DeserializationError:
            return None
        if name != entry.ENTRY or instance is not None or kwargs or not isinstance(args, list):
            return None
        try:
            (text,) = args
            return text.encode() if isinstance(text, str) else None
        except ValueError:  # more than one, or text that has no bytes
            return None

    @property
    def func(self) -> Callable[[str], None]:
        """Queueport's entry. Raises PermissionError where the job names anything else."""
        if self.body is None:
            raise PermissionError(f"RQ's job {self.id} is no message of queueport's, and is not run")
        return entry.run

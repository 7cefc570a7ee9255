"""The RQ job class of queueport's workers, which runs only messages of queueport. For the driver and the workers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from rq.exceptions import DeserializationError, NoSuchJobError
from rq.job import Job

__all__ = ["ENTRY", "SERIALIZER", "QueueportJob", "run"]

logger: logging.Logger = logging.getLogger("queueport")

SERIALIZER = "json"
"""RQ's serializer. With its default, pickle, anybody who can write to the Redis could run any code."""
ENTRY = "queueport_rq.job.run"
"""The function that every message of queueport names, and the only one that queueport's workers accept."""

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
"""The fields of a job's hash in Redis that workers read. Workers ignore all other fields, which are missing or empty in
queueport's messages, and which could make RQ run other code or repeat the job (callbacks, webhooks, retries, repeats,
rate limits, groups, dependencies)."""


def run(_body: str) -> None:
    """Called only by RQ workers that are not queueport's. Raises RuntimeError, which tells operators what to change."""
    raise RuntimeError(
        "this RQ worker cannot run queueport's jobs: start it with -w queueport_rq.worker.QueueportWorker"
    )


class QueueportJob(Job):
    """An RQ job in queueport's workers. It runs only messages of queueport.

    Anybody who can write to the Redis can write any job there, with any function and any callback.
    """

    receive: Callable[[bytes], object] | None = None
    """A function that runs the job of a message. queueport's worker sets `receive` before it calls `perform`."""
    _damaged = False

    def restore(self, raw_data: Mapping[bytes, bytes]) -> Any:
        """Read the job, but only the fields in KEPT.

        If RQ cannot read these fields, `body` is None, so workers put the job aside.
        """
        kept = {name: raw_data[name] for name in KEPT if name in raw_data}
        try:
            return super().restore(kept)
        except NoSuchJobError:
            raise
        except Exception as error:  # noqa: BLE001  # RQ's parser may raise any error
            logger.warning("RQ's job %s cannot be read, so workers put it aside: %s", self.id, error)
            self._damaged = True
            return super().restore({b"data": kept[b"data"]})

    @property
    def body(self) -> bytes | None:
        """The message that queueport put into this job; None if the job contains anything else or cannot be read."""
        if self._damaged:
            return None
        try:
            name, instance, args, kwargs = self.func_name, self.instance, self.args, self.kwargs
            if name != ENTRY or instance is not None or kwargs or not isinstance(args, list):
                return None
            (text,) = args
            return text.encode() if isinstance(text, str) else None
        except (DeserializationError, ValueError):  # ValueError: not one argument, or not valid text
            return None

    @property
    def func(self) -> Callable[[str], object]:
        """The function that `perform` calls. Raises PermissionError if the job carries no message of queueport."""
        if self.body is None:
            raise PermissionError(f"RQ's job {self.id} does not carry a message of queueport, and is not run")
        receive = self.receive
        return run if receive is None else lambda text: receive(text.encode())

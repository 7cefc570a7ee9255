"""RQ as a backend of queueport, with one RQ queue for each queue. For `get_queue("rq+redis://...")`."""

from __future__ import annotations

from queueport_rq.driver import RQDriver
from queueport_rq.joining import join

__all__ = ["RQDriver", "join"]

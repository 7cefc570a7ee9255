"""RQ as a backend of queueport: one queue of RQ's for each queue. For `get_queue("rq+redis://...")`."""

from __future__ import annotations

from queueport_rq.driver import RQDriver

__all__ = ["RQDriver"]

"""Name as a backend of queueport: jobs travel in WHAT, one QUEUE-OR-TOPIC for each queue. For `get_queue`."""

from __future__ import annotations

from queueport.transport import Transport

__all__ = ["NameTransport"]


class NameTransport(Transport):
    """Carries messages over Name.

    Fill in the abstract methods; `queueport.transport` says what each must do. Translate, and decide nothing.
    """

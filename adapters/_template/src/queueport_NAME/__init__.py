"""Name as a backend of queueport: each message is a WHAT, and each queue is a QUEUE-OR-TOPIC. For `get_queue`."""

from __future__ import annotations

from queueport.spi.transport import Transport

__all__ = ["NameTransport"]


class NameTransport(Transport):
    """Sends and receives messages with Name.

    For a broker without workers. If Name has workers of its own, derive from `queueport.spi.driver.Driver`; if its client
    library is for asyncio only, from `queueport.spi.AsyncTransport`. Set `name`, `capabilities` and `call_timeout`, and
    implement the abstract methods; the docstrings of the base class say what each must be and do. Only translate:
    queueport decides what happens to a job.
    """

"""The stores that come with queueport: memory, SQLite and Redis. The memory store is the model for the others."""

from queueport.capability import Limits

__all__ = ["LIMITS"]

LIMITS = Limits(payload=16 * 2**20, result=16 * 2**20)
"""The maximum sizes of a payload and of a result in these stores. queueport checks them before it calls a store. A
store reads whole records, so larger values would slow down its calls."""

"""The stores that come with queueport: memory, the model of all stores, SQLite, and Redis."""

from queueport.capability import Limits

__all__ = ["LIMITS"]

LIMITS = Limits(payload=16 * 2**20, result=16 * 2**20)
"""What all of them take: a record is read and written whole, so a larger one would slow down all the others."""

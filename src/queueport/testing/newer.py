"""A task of a newer release, which the suite's other workers do not know. For D5."""

from __future__ import annotations

from queueport import task
from queueport.testing.trace import traced

__all__ = ["only_here"]


@task
@traced
def only_here(value: int) -> int:
    """Give back what came."""
    return value

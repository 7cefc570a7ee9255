"""A task that only one of two workers knows, as in a rolling deploy. For the contract line D5."""

from __future__ import annotations

from queueport import task
from queueport.testing.trace import traced

__all__ = ["only_here"]


@task
@traced
def only_here(value: int) -> int:
    """Return the argument."""
    return value

"""C: cancel and purge. For the contract suite."""

from __future__ import annotations

from queueport.testing.case import Case

__all__ = ["Cancelling"]


class Cancelling(Case):
    """The lines of group C."""

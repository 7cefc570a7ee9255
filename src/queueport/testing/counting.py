"""M: stats. For the contract suite."""

from __future__ import annotations

from queueport.testing.case import Case

__all__ = ["Counting"]


class Counting(Case):
    """The lines of group M."""

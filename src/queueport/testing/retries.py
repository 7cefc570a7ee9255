"""R: attempts, gaps, policies. For the contract suite."""

from __future__ import annotations

from queueport.testing.case import Case

__all__ = ["Retries"]


class Retries(Case):
    """The lines of group R."""

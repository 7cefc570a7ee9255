"""S: delays, times and expiry. For the contract suite."""

from __future__ import annotations

from queueport.testing.case import Case

__all__ = ["Timing"]


class Timing(Case):
    """The lines of group S."""

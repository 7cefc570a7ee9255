"""D: dead letters, their hooks, unknown tasks, garbage. For the contract suite."""

from __future__ import annotations

from queueport.testing.case import Case

__all__ = ["Dead"]


class Dead(Case):
    """The lines of group D."""

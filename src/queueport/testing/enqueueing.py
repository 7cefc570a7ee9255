"""E: what an application enqueues arrives, or is refused before anything is sent. For the contract suite."""

from __future__ import annotations

from queueport.testing.case import Case

__all__ = ["Enqueueing"]


class Enqueueing(Case):
    """The lines of group E."""

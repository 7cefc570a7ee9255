"""T: status, results, progress, listing, retention. For the contract suite."""

from __future__ import annotations

from queueport.testing.case import Case

__all__ = ["Results"]


class Results(Case):
    """The lines of group T."""

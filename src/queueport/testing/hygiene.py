"""H: closing, namespaces, secrets, bad input, older versions. For the contract suite."""

from __future__ import annotations

from queueport.testing.case import Case

__all__ = ["Hygiene"]


class Hygiene(Case):
    """The lines of group H."""

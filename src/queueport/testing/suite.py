"""`Contract`: all groups of the contract's lines in one class. For an adapter's test file."""

from __future__ import annotations

__all__ = ["Contract"]


class Contract:
    """Every line of the contract. Subclass it and give it a `harness` fixture."""

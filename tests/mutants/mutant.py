"""A mutant: a backend with one broken verb, which the contract suite must notice. For those who write mutants.

    @breaks("store.insert", "E7", on=STORED)
    def keys_are_not_stored(insert, inserts):
        return insert([replace(i, record=replace(i.record, key=None)) for i in inserts])

The function replaces the verb. Its first argument is the original verb. Its name is the name of the mutant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from queueport.spi.record import Change

__all__ = [
    "CARRYING",
    "MEMORY",
    "MUTANTS",
    "NONE",
    "SPOOL",
    "SQLITE",
    "STORED",
    "WIRE",
    "Mutant",
    "Verb",
    "breaks",
    "without",
]

Verb = Any
"""A bound method of a store or transport. `__self__` is the store or transport."""

MEMORY, SQLITE, WIRE, SPOOL = ("memory",), ("sqlite",), ("wire",), ("spool",)
STORED = MEMORY + SQLITE
"""The backends whose store is the queue."""
CARRYING = WIRE + SPOOL
"""The backends that carry messages: in this process with a memory store, or in files with SQLite."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A broken verb, the backends on which it is tried, and the line of the contract that must fail."""

    name: str
    verb: str
    line: str
    """An expression for `pytest -k` that begins with the id of the line, such as "X2 and first"."""
    on: tuple[str, ...]
    broken: Verb

    def install(self, **parts: Any) -> None:
        """Replace the verb, if it belongs to one of these parts: a store, a driver or a transport."""
        part, verb = self.verb.split(".")
        if part in parts:
            original = getattr(parts[part], verb)
            setattr(parts[part], verb, partial(self.broken, original))

    def namespace(self, name: str) -> str:
        """The namespace that the mutant uses in place of this one."""
        return str(self.broken(name)) if self.verb == "settings.namespace" else name


NONE = Mutant("none", "nothing.at_all", "", (), lambda verb: verb)
"""A mutant that breaks nothing, so that every line must pass."""

MUTANTS: dict[str, Mutant] = {}


def breaks(verb: str, line: str, *, on: Sequence[str]) -> Callable[[Verb], Verb]:
    """Register the function as a mutant of this verb, such as "store.swap"."""

    def register(broken: Verb) -> Verb:
        name: str = broken.__name__
        MUTANTS[name] = Mutant(name, verb, line, tuple(on), broken)
        return broken

    return register


def without(change: Change, *names: str) -> Change:
    """The change without these fields."""
    kept = {name: value for name, value in change.set.items() if name not in names}
    stamp = {name: value for name, value in change.stamp.items() if name not in names}
    return replace(change, set=kept, stamp=stamp)

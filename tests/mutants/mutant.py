"""A mutant: a backend with one verb broken, which the contract suite must notice. For those who write one.

    @breaks("store.insert", "E7", on=STORED)
    def a_key_is_held_by_nobody(insert, inserts):
        return insert([replace(i, record=replace(i.record, key=None)) for i in inserts])

The function stands in for the verb and is given the sound one first. Mutants are made and found by their names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from queueport.record import Change

__all__ = ["CARRYING", "MEMORY", "MUTANTS", "NONE", "SQLITE", "STORED", "WIRE", "Mutant", "Verb", "breaks", "without"]

Verb = Any
"""A bound method: what a mutant calls, and whose owner it may ask for."""

MEMORY, SQLITE, WIRE, SPOOL = ("memory",), ("sqlite",), ("wire",), ("spool",)
STORED = MEMORY + SQLITE
"""The store is the queue."""
CARRYING = WIRE + SPOOL
"""With messages: in this process over a memory store, and files over SQLite."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """What is broken, on which backends it is tried, and the line of the contract that must fail."""

    name: str
    verb: str
    line: str
    """The beginning of a test's name, and words in it: "X2 and first"."""
    on: tuple[str, ...]
    broken: Verb

    def infect(self, **parts: Any) -> None:
        """Break the verb, if it is one of these parts'."""
        part, verb = self.verb.split(".")
        if part in parts:
            sound = getattr(parts[part], verb)
            setattr(parts[part], verb, partial(self.broken, sound))

    def namespace(self, name: str) -> str:
        """The namespace that is used where this one is asked for."""
        return str(self.broken(name)) if self.verb == "settings.namespace" else name


NONE = Mutant("none", "nothing.at_all", "", (), lambda sound: sound)
"""Breaks nothing: on it every line must hold."""

MUTANTS: dict[str, Mutant] = {}


def breaks(verb: str, line: str, *, on: Sequence[str]) -> Callable[[Verb], Verb]:
    """Register a function as the broken verb ("store.swap") of a mutant of the function's name."""

    def register(broken: Verb) -> Verb:
        name: str = broken.__name__
        MUTANTS[name] = Mutant(name, verb, line, tuple(on), broken)
        return broken

    return register


def without(change: Change, *names: str) -> Change:
    """The change, these fields aside."""
    kept = {name: value for name, value in change.set.items() if name not in names}
    stamp = {name: value for name, value in change.stamp.items() if name not in names}
    return replace(change, set=kept, stamp=stamp)

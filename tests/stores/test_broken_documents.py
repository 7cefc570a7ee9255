"""Breaks each rule of documents in turn. The store suite must notice it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from queueport.spi.store import Document, Insert
from queueport.stores.memory.store import MemoryStore
from queueport.testing.stores import StoreHarness
from queueport.testing.stores.documents import DocumentTests

NUL = "\0"


class WritesWithAnyRev(MemoryStore):
    def put_document(self, document: Document, expected: str | None, insert: Insert | None = None) -> bool:
        return super().put_document(document, self._rev_of(document.kind, document.name), insert)


class DropsTheInsert(MemoryStore):
    def put_document(self, document: Document, expected: str | None, insert: Insert | None = None) -> bool:
        return super().put_document(document, expected)


class InsertsFirst(MemoryStore):
    """Inserts the record in a step of its own, whether the document is written or not."""

    def put_document(self, document: Document, expected: str | None, insert: Insert | None = None) -> bool:
        self.insert([] if insert is None else [insert])
        return super().put_document(document, expected)


class NeedsItsInsert(MemoryStore):
    """Does not write the document if the record cannot be inserted."""

    def put_document(self, document: Document, expected: str | None, insert: Insert | None = None) -> bool:
        if insert is not None and self._rev_of(document.kind, document.name) == expected:
            return self.insert([insert])[0].applied and super().put_document(document, expected)
        return super().put_document(document, expected)


class IgnoresTheKey(MemoryStore):
    def put_document(self, document: Document, expected: str | None, insert: Insert | None = None) -> bool:
        if insert is not None:
            insert = replace(insert, record=replace(insert.record, key=None))
        return super().put_document(document, expected, insert)


class RefusesARepeatedPut(MemoryStore):
    def put_document(self, document: Document, expected: str | None, insert: Insert | None = None) -> bool:
        mine = self._rev_of(document.kind, document.name) == document.rev
        return super().put_document(document, expected, insert) and not mine


class WritesARepeatedPut(MemoryStore):
    def put_document(self, document: Document, expected: str | None, insert: Insert | None = None) -> bool:
        mine = self._rev_of(document.kind, document.name) == document.rev
        return super().put_document(document, document.rev if mine else expected, insert)


class DeletesWithAnyRev(MemoryStore):
    def delete_document(self, kind: str, name: str, expected: str) -> bool:
        return super().delete_document(kind, name, self._rev_of(kind, name) or expected)


class DeletesNothing(MemoryStore):
    def delete_document(self, kind: str, name: str, expected: str) -> bool:
        return self._rev_of(kind, name) == expected


class MixesKinds(MemoryStore):
    def documents(self, kind: str) -> Sequence[Document]:
        return [one for name, one in sorted(self.records.documents.items())]


class SortsByNothing(MemoryStore):
    def documents(self, kind: str) -> Sequence[Document]:
        return [one for (its_kind, _), one in self.records.documents.items() if its_kind == kind]


class CutsTexts(MemoryStore):
    def documents(self, kind: str) -> Sequence[Document]:
        def cut(value: Any) -> Any:
            return value.partition(NUL)[0] if isinstance(value, str) else value

        return [
            replace(one, value={name: cut(value) for name, value in one.value.items()})
            for one in super().documents(kind)
        ]


class Harness(StoreHarness):
    def __init__(self, kind: type[MemoryStore]) -> None:
        self.stores: dict[str, MemoryStore] = {}
        self.kind = kind

    def open(self, namespace: str = "suite", clock: Callable[[], float] | None = None) -> MemoryStore:
        return self.stores.setdefault(namespace, self.kind())


def failing(kind: type[MemoryStore]) -> list[str]:
    """The names of the tests of documents that fail with this store."""
    found = []
    tests = [test for name, test in inspect.getmembers(DocumentTests, inspect.isfunction) if name.startswith("test_")]
    assert len(tests) > 8
    for test in tests:
        harness = Harness(kind)
        given: dict[str, Any] = {"store": harness.open(), "harness": harness, "expected": None}
        wanted = inspect.signature(test).parameters
        try:
            test(DocumentTests(), **{name: value for name, value in given.items() if name in wanted})
        except (AssertionError, ValueError):  # ValueError: not exactly one of several threads has won
            found.append(test.__name__)
    return found


def test_an_unbroken_store_passes() -> None:
    assert failing(MemoryStore) == []


BROKEN = [kind for kind in MemoryStore.__subclasses__() if kind.__module__ == __name__]


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_a_broken_store_is_noticed(kind: type[MemoryStore]) -> None:
    assert failing(kind), f"no test of documents notices {kind.__name__}"

"""The part of the store suite about documents."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from queueport.engine.lifecycle import Lifecycle
from queueport.spi.store import Document, Insert, JobStore, WriteOutcome
from queueport.testing.stores.harness import RULES, Case, StoreHarness, applied, bare, put, rev, succeeded
from queueport.testing.stores.sharing import THREADS, at_once

__all__ = ["DocumentTests"]

KIND = "pause"
WHOLE: dict[str, Any] = {
    "text": "ü \0 \udc80 {}",
    "none": None,
    "numbers": [0.1, 2**60, -1],
    "yes": True,
    "deep": {"": [[]]},
}


def document(name: str = "a", /, **value: Any) -> Document:
    """A new document of the kind KIND with a rev of its own."""
    return Document(KIND, name, value, rev())


def insert(job_id: str, **fields: object) -> Insert:
    """The insert of a new queued job."""
    return Insert(bare(job_id, **fields), Lifecycle(RULES).new(delay=None, expires=None), rev())


class DocumentTests(Case):
    """Tests of documents, put_document and delete_document."""

    def test_a_document_is_read_back_unchanged(self, store: JobStore) -> None:
        written = document(**WHOLE)
        assert store.documents(KIND) == []
        assert store.put_document(written, None)
        assert store.documents(KIND) == [written]

    def test_documents_are_sorted_by_name_and_kept_apart_by_kind_and_namespace(
        self, store: JobStore, harness: StoreHarness
    ) -> None:
        names = ["b", "B", "a:b#c d", "ä", "🔑", "a", "1"]
        for name in names:
            assert store.put_document(document(name), None)
        other = Document("other", "a", {"n": 1}, rev())
        assert store.put_document(other, None)
        elsewhere = harness.open("elsewhere")
        assert elsewhere.documents(KIND) == []
        assert not elsewhere.delete_document(KIND, "a", other.rev)
        elsewhere.close()
        assert [one.name for one in store.documents(KIND)] == sorted(names)
        assert store.documents("other") == [other]
        assert store.documents("oth") == []

    def test_put_writes_only_if_the_document_has_the_expected_rev(self, store: JobStore) -> None:
        first, second = document(n=1), document(n=2)
        assert not store.put_document(first, "absent")
        assert store.documents(KIND) == []
        assert store.put_document(first, None)
        assert not store.put_document(second, None)
        assert not store.put_document(second, "another")
        assert store.documents(KIND) == [first]
        assert store.put_document(second, first.rev)
        assert store.documents(KIND) == [second]
        assert not store.put_document(replace(first, rev=rev()), first.rev)

    def test_a_repeated_put_returns_true_and_writes_nothing(self, store: JobStore) -> None:
        first, second = document(n=1), document(n=2)
        assert store.put_document(first, None, insert("j1"))
        assert store.put_document(first, None, insert("j2"))
        assert store.put_document(second, first.rev)
        assert store.put_document(replace(second, value={"n": 3}), first.rev)
        assert store.documents(KIND) == [second]
        assert store.get(["j2"]) == [None]

    def test_delete_removes_only_a_document_with_the_expected_rev(self, store: JobStore) -> None:
        first, other = document(), document("b")
        assert not store.delete_document(KIND, "a", first.rev)
        assert store.put_document(first, None)
        assert store.put_document(other, None)
        assert not store.delete_document(KIND, "a", other.rev)
        assert store.documents(KIND) == [first, other]
        assert store.delete_document(KIND, "a", first.rev)
        assert not store.delete_document(KIND, "a", first.rev)
        assert store.documents(KIND) == [other]
        assert store.put_document(first, None)

    def test_put_inserts_a_record_as_insert_does(self, store: JobStore) -> None:
        one = insert("j1", key="k", queue="q", priority=3, headers={"a": "b"})
        assert store.put_document(document(), None, one)
        (record,) = store.get(["j1"])
        assert record is not None
        assert record == one.change.applied(one.record, one.rev, record.enqueued_at)
        (again,) = store.insert([insert("j1")])
        assert (again.outcome, again.record) == (WriteOutcome.REFUSED, record)
        (held,) = store.insert([insert("j2", key="k")])
        assert (held.outcome, held.record) == (WriteOutcome.KEY_HELD, record)
        assert store.stats().queues["q"].queued_by_priority == {3: 1}

    @pytest.mark.parametrize("expected", [None, "another"])
    def test_a_put_that_is_refused_inserts_nothing(self, store: JobStore, expected: str | None) -> None:
        first = document()
        assert store.put_document(first, None)
        assert not store.put_document(document(), expected, insert("j1", key="k"))
        assert store.get(["j1"]) == [None]
        assert store.documents(KIND) == [first]
        applied(store.insert([insert("j2", key="k")]))

    def test_the_document_is_written_although_its_record_exists(self, store: JobStore) -> None:
        record = put(store, "j1")
        first, second = document(), document(n=2)
        assert store.put_document(first, None, insert("j1"))
        ended = succeeded(store, record)
        assert store.put_document(second, first.rev, insert("j1"))
        assert store.get(["j1"]) == [ended]
        assert store.documents(KIND) == [second]

    def test_the_document_is_written_although_the_key_of_its_record_is_held(self, store: JobStore) -> None:
        holder = put(store, "holder", key="k")
        first, second = document(), document(n=2)
        assert store.put_document(first, None, insert("j1", key="k"))
        assert store.put_document(second, first.rev, insert("j2", key="k"))
        assert store.get(["holder", "j1", "j2"]) == [holder, None, None]
        assert store.documents(KIND) == [second]
        succeeded(store, holder)
        assert store.put_document(document(), second.rev, insert("j3", key="k"))
        assert [record and record.key for record in store.get(["j1", "j3"])] == [None, "k"]

    def test_only_one_of_eight_puts_with_the_same_expected_rev_is_applied(self, store: JobStore) -> None:
        known: str | None = None
        for turn in range(5):
            new = [Document(KIND, "a", {"n": n}, rev()) for n in range(THREADS)]
            done = at_once(partial(self._put, store, new, known, turn))
            (winner,) = [number for number, written in enumerate(done) if written]
            assert store.documents(KIND) == [new[winner]]
            found = store.get([f"j{turn}-{n}" for n in range(THREADS)])
            assert [record is not None for record in found] == done
            known = new[winner].rev

    @staticmethod
    def _put(store: JobStore, new: list[Document], known: str | None, turn: int, number: int) -> bool:
        return store.put_document(new[number], known, insert(f"j{turn}-{number}"))

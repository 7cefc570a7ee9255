"""Marks: published jobs are marked as sent behind the caller of `enqueue`, many in one call to the store."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence

import pytest

from queueport.engine.marks import Marks
from queueport.engine.runtime import Runtime
from queueport.errors import BackendUnavailable
from queueport.spi.record import Record
from queueport.status import JobState
from queueport.testing.waiting import eventually

RECORDS = [Record(f"job{number}", "task", "default", b"{}", JobState.QUEUED) for number in range(3)]


class Written:
    """A store that can be held up, or be down."""

    def __init__(self) -> None:
        self.calls: list[Sequence[Record]] = []
        self.answers = threading.Event()
        self.answers.set()
        self.down = False

    def __call__(self, records: Sequence[Record]) -> None:
        self.answers.wait(10)
        self.calls.append(records)
        if self.down:
            raise BackendUnavailable("the store is down")


@pytest.fixture
def store() -> Written:
    return Written()


@pytest.fixture
def marks(store: Written) -> Iterator[Marks]:
    marks = Marks(store, Runtime())
    yield marks
    store.answers.set()
    marks.close(10)


def test_marks_that_come_while_the_store_is_busy_are_written_in_one_call(marks: Marks, store: Written) -> None:
    store.answers.clear()
    for record in RECORDS:
        marks.add([record])  # returns, although the store does not answer
    assert store.calls == []
    store.answers.set()
    eventually(lambda: [record for call in store.calls for record in call] == RECORDS)
    assert len(store.calls) < len(RECORDS)


def test_marks_are_written_again_after_a_pause_without_marks(marks: Marks, store: Written) -> None:
    for count in (1, 2):
        marks.add(RECORDS[:1])
        eventually(lambda: len(store.calls) == count)  # noqa: B023  # called in this turn of the loop


def test_close_writes_what_is_left(marks: Marks, store: Written) -> None:
    marks.add(RECORDS)
    marks.close(10)
    assert store.calls == [RECORDS]


def test_a_store_that_is_down_is_logged_and_the_next_marks_are_written(
    marks: Marks, store: Written, caplog: pytest.LogCaptureFixture
) -> None:
    store.down = True
    marks.add(RECORDS)
    eventually(lambda: "3 published jobs could not be marked as sent" in caplog.text)
    store.down = False
    marks.add(RECORDS[:1])
    eventually(lambda: store.calls[1:] == [RECORDS[:1]])


def test_a_child_leaves_the_marks_to_its_parent_and_writes_its_own(marks: Marks, store: Written) -> None:
    store.answers.clear()
    marks.add(RECORDS[:1])
    child = os.fork()
    if child == 0:
        store.answers.set()
        marks.add(RECORDS[1:])
        marks.close(10)
        os._exit(0 if store.calls == [RECORDS[1:]] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    store.answers.set()
    eventually(lambda: store.calls == [RECORDS[:1]])

"""Objects made from drafts are equal to objects made by the frozen class, and as immutable."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from queueport.job import Job, JobDraft, draft_of, frozen
from queueport.spi.record import Record, RecordDraft
from queueport.status import JobState, Progress

JOB = {"id": "a", "task": "app.send", "payload": b'{"args":[],"kwargs":{}}'}
RECORD = {**JOB, "queue": "default", "state": JobState.QUEUED}


@pytest.mark.parametrize(("kind", "draft", "values"), [(Job, JobDraft, JOB), (Record, RecordDraft, RECORD)])
def test_an_object_made_from_a_draft_equals_one_made_by_its_class(
    kind: type[Any], draft: type[Any], values: dict[str, Any]
) -> None:
    made, expected = frozen(draft(**values), kind), kind(**values)
    assert type(made) is kind
    assert made == expected
    assert [field.name for field in fields(draft)] == [field.name for field in fields(kind)]
    with pytest.raises(FrozenInstanceError):
        made.id = "b"


def test_two_drafts_do_not_share_default_values() -> None:
    first, second = (frozen(RecordDraft(**RECORD), Record) for _ in range(2))
    assert first.headers == second.headers == {}
    assert first.headers is not second.headers


def test_a_draft_can_be_made_of_any_frozen_dataclass_with_slots() -> None:
    draft = draft_of(Progress)(1, 2.0)
    draft.message = "half"
    assert frozen(draft, Progress) == Progress(1, 2.0, "half")

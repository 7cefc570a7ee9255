"""Rows of the SQLite store that cannot be read, and rows of a newer queueport."""

import json
import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from queueport.record import RECORD_VERSION, Change, CorruptRecord, Record
from queueport.status import JobState
from queueport.store import Beat, Insert, Outcome, Query, Swap
from queueport.stores.sqlite import SqliteStore
from queueport.testing.stores.harness import TOKEN, Clock, bare, dead, put, run, succeeded

BEGIN = {"app.send": Change({"state": JobState.RUNNING})}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[SqliteStore]:
    store = SqliteStore(path, clock=clock)
    yield store
    store.close()


def edit(path: Path, statement: str, *parameters: Any) -> list[Any]:
    with closing(sqlite3.connect(path)) as db, db:
        return db.execute(statement, parameters).fetchall()


def counted(store: SqliteStore) -> dict[str, int]:
    return {state.value: n for state, n in store.stats().queues["default"].states.items() if n}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("errors", "["),
        ("progress", "[]"),
        ("payload", "text"),
        ("failures", "many"),
        ("queued_at", "noon"),
        ("headers", b"\xff{"),
        ("reason", b"\xff"),
        ("worker", b"\xff"),
    ],
)
def test_take_puts_a_damaged_row_aside_and_goes_on(
    store: SqliteStore, path: Path, column: str, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, "bad")
    put(store, "good")
    edit(path, f"UPDATE queueport_jobs SET {column} = CAST(? AS TEXT) WHERE id = 'bad'", value)
    taken = [job.id for _ in range(3) for job in store.take(["default"], BEGIN, 1, "r")]
    assert taken == ["good"]
    assert counted(store) == {"running": 1}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"job bad was put aside into the table queueport_aside: the record's {column}" in caplog.text


def test_the_whole_row_is_kept_with_the_reason_and_the_time(store: SqliteStore, path: Path, clock: Clock) -> None:
    put(store, "bad", payload=b"\0\xff", headers={"a": "ü"})
    edit(path, "UPDATE queueport_jobs SET state = 'bogus'")
    assert list(store.find(Query())) == []
    ((job_id, reason, at, row),) = edit(path, "SELECT id, reason, at, record FROM queueport_aside")
    assert (job_id, at) == ("bad", clock.now)
    assert "state" in reason
    kept = json.loads(row)
    assert (kept["state"], kept["payload"], json.loads(kept["headers"])) == ("bogus", "00ff", {"a": "ü"})
    assert counted(store) == {}


def test_counts_follow_a_row_that_is_changed_by_hand(store: SqliteStore, path: Path) -> None:
    for name in "abc":
        put(store, name)
    edit(path, "UPDATE queueport_jobs SET state = 'cancelled' WHERE id = 'a'")
    edit(path, "DELETE FROM queueport_jobs WHERE id = 'b'")
    assert counted(store) == {"cancelled": 1, "queued": 1}


SEARCHES: list[tuple[Callable[..., Record], Callable[[SqliteStore], Sequence[Record]]]] = [
    (dead, lambda store: store.find(Query(JobState.DEAD))),
    (dead, lambda store: store.find(Query(error="ValueError"))),
    (succeeded, lambda store: store.overflow(JobState.SUCCEEDED, 0, 10)),
    (put, lambda store: store.unreceived("default", 0, store.now() + 1, 10)),
    (put, lambda store: store.unknown(["default"], [], 10)),
]


@pytest.mark.parametrize(("make", "search"), SEARCHES, ids=["state", "error", "overflow", "unreceived", "unknown"])
def test_every_way_to_read_many_leaves_damaged_rows_behind(
    store: SqliteStore, path: Path, make: Callable[..., Record], search: Callable[[SqliteStore], Sequence[Record]]
) -> None:
    make(store, "bad")
    good = make(store, "good")
    edit(path, "UPDATE queueport_jobs SET headers = '' WHERE id = 'bad'")
    assert [job.id for job in search(store)] == [good.id]
    assert edit(path, "SELECT id FROM queueport_aside") == [("bad",)]


def test_waiting_passes_over_a_damaged_row(store: SqliteStore, path: Path) -> None:
    succeeded(store, "bad")
    good = succeeded(store, "good")
    edit(path, "UPDATE queueport_jobs SET headers = '' WHERE id = 'bad'")
    assert list(store.wait(["bad", "good"], 0.0)) == [good]
    with pytest.raises(CorruptRecord, match="job 'bad' is damaged: the record's headers cannot be read"):
        store.get(["bad"])


def test_a_damaged_holder_gives_up_its_key(store: SqliteStore, path: Path) -> None:
    ended = dead(store, "ended", key="k")
    for damaged in ("one", "two"):
        put(store, damaged, key="k")
        edit(path, "UPDATE queueport_jobs SET headers = '' WHERE id = ?", damaged)
        if damaged == "one":
            new = put(store, "new", key="k")
            store.swap([Swap(new.id, new.rev, Change(delete=True), "r")])
    (answer,) = store.swap([Swap("ended", ended.rev, Change({"state": JobState.QUEUED}), "r")])
    assert answer.applied
    assert counted(store) == {"queued": 1}


def test_a_damaged_row_gives_up_its_id(store: SqliteStore, path: Path) -> None:
    put(store, "bad")
    edit(path, "UPDATE queueport_jobs SET headers = ''")
    (answer,) = store.insert([Insert(bare("bad"), Change(), "r")])
    assert (answer.outcome, answer.record) == (Outcome.REFUSED, None)
    put(store, "bad")


def test_a_heartbeat_of_a_damaged_job_is_refused(store: SqliteStore, path: Path) -> None:
    run(store, put(store, "bad"))
    edit(path, "UPDATE queueport_jobs SET options = ''")
    (answer,) = store.heartbeat([Beat("bad", TOKEN, 9.0, "r")])
    assert (answer.outcome, answer.record) == (Outcome.REFUSED, None)


def test_a_newer_record_is_left_alone_with_one_line_in_the_log(
    store: SqliteStore, path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, "queued", v=RECORD_VERSION + 1)
    put(store, "due", v=RECORD_VERSION + 1, delay=1.0)
    edit(path, "UPDATE queueport_jobs SET options = 'in a way that is not yet known'")
    before = edit(path, "SELECT * FROM queueport_jobs")
    clock.advance(10)
    for _ in range(3):
        assert list(store.claim_due(10, 5.0, "r")) == []
        assert list(store.take(["default"], BEGIN, 10, "r")) == []
        assert list(store.unknown(["default"], [], 10)) == []
        assert list(store.unreceived("default", 0, clock.now, 10)) == []
        assert list(store.find(Query())) == []
    assert edit(path, "SELECT * FROM queueport_jobs") == before
    (line,) = caplog.messages
    assert "has version 2, of a newer queueport: such jobs are left alone here" in line

"""Damaged rows of the SQLite store, and rows of a newer version of queueport."""

import json
import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from queueport import get_queue, task
from queueport.errors import DuplicateJob, InvalidJob
from queueport.spi.record import RECORD_VERSION, Change, CorruptRecord, Record
from queueport.spi.storage import unreadable_holder
from queueport.spi.store import Insert, LeaseRenewal, Query, Swap, WriteOutcome
from queueport.status import JobState
from queueport.stores.sqlite.store import SqliteStore
from queueport.testing.stores.harness import TOKEN, Clock, bare, dead, put, run, succeeded

BEGIN = {"app.send": Change({"state": JobState.RUNNING})}
NESTED = b"[" * 100_000 + b"]" * 100_000


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
def test_take_moves_a_damaged_row_aside_and_takes_the_next_job(
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


def test_the_table_of_rows_put_aside_is_named_as_in_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "jobs.db"
    with closing(SqliteStore(path, namespace="Shop")) as store:
        put(store, "bad")
        edit(path, "UPDATE \"$shop_jobs\" SET payload = CAST('text' AS TEXT), failures = 'many'")
        store.find(Query())
        assert "put aside into the table $shop_aside" in caplog.text
        assert "are in the table $shop_aside" in " ".join(store.check())
    assert edit(path, 'SELECT id FROM "$shop_aside"') == [("bad",)]


def test_a_row_moved_aside_is_kept_whole_with_reason_and_time(store: SqliteStore, path: Path, clock: Clock) -> None:
    put(store, "bad", payload=b"\0\xff", headers={"a": "ü"})
    edit(path, "UPDATE queueport_jobs SET state = 'bogus'")
    assert list(store.find(Query())) == []
    ((job_id, reason, at, row),) = edit(path, "SELECT id, reason, at, record FROM queueport_aside")
    assert (job_id, at) == ("bad", clock.now)
    assert "state" in reason
    kept = json.loads(row)
    assert (kept["state"], kept["payload"], json.loads(kept["headers"])) == ("bogus", "00ff", {"a": "ü"})
    assert counted(store) == {}


def test_counts_are_right_after_a_row_was_changed_by_hand(store: SqliteStore, path: Path) -> None:
    for name in "abc":
        put(store, name)
    edit(path, "UPDATE queueport_jobs SET state = 'cancelled' WHERE id = 'a'")
    edit(path, "DELETE FROM queueport_jobs WHERE id = 'b'")
    assert counted(store) == {"cancelled": 1, "queued": 1}


SEARCHES: list[tuple[Callable[..., Record], Callable[[SqliteStore], Sequence[Record]]]] = [
    (dead, lambda store: store.find(Query(JobState.DEAD))),
    (dead, lambda store: store.find(Query(error="ValueError"))),
    (succeeded, lambda store: store.overflow(Query(JobState.SUCCEEDED), 0, 10)),
    (put, lambda store: store.unreceived("default", 0, store.now() + 1, 10)),
    (put, lambda store: store.unknown(["default"], [], 10)),
]


@pytest.mark.parametrize(("make", "search"), SEARCHES, ids=["state", "error", "overflow", "unreceived", "unknown"])
def test_searches_leave_out_damaged_rows(
    store: SqliteStore, path: Path, make: Callable[..., Record], search: Callable[[SqliteStore], Sequence[Record]]
) -> None:
    make(store, "bad")
    good = make(store, "good")
    edit(path, "UPDATE queueport_jobs SET headers = '' WHERE id = 'bad'")
    assert [job.id for job in search(store)] == [good.id]
    assert edit(path, "SELECT id FROM queueport_aside") == [("bad",)]


def test_wait_leaves_out_a_damaged_row(store: SqliteStore, path: Path) -> None:
    succeeded(store, "bad")
    good = succeeded(store, "good")
    edit(path, "UPDATE queueport_jobs SET headers = '' WHERE id = 'bad'")
    assert list(store.wait(["bad", "good"], 0.0)) == [good]
    with pytest.raises(CorruptRecord, match="job 'bad' is damaged: the record's headers cannot be read"):
        store.get(["bad"])


@pytest.mark.parametrize("number", ["9e999", "'1e999'"])
def test_a_number_that_does_not_fit_damages_only_its_row(store: SqliteStore, path: Path, number: str) -> None:
    put(store, "bad")
    good = put(store, "good")
    edit(path, f"UPDATE queueport_jobs SET life = {number} WHERE id = 'bad'")
    assert list(store.find(Query())) == [good]


def test_a_payload_and_a_result_that_are_nested_too_deeply_are_reported(store: SqliteStore, path: Path) -> None:
    succeeded(store, "bad")
    with get_queue(f"sqlite:///{path}") as queue:
        edit(path, "UPDATE queueport_jobs SET result = ?", NESTED)
        with pytest.raises(InvalidJob, match="the result is not valid JSON"):
            queue.result("bad")
        with pytest.raises(CorruptRecord, match="a part of the record of job bad cannot be read"):
            queue.status("bad")


@pytest.mark.parametrize("options", ['{"retry":{"max_attempts":0}}', '{"retry":7}'])
def test_damaged_options_are_reported_as_a_damaged_record(store: SqliteStore, path: Path, options: str) -> None:
    put(store, "bad", payload=b'{"args":[],"kwargs":{}}')
    with get_queue(f"sqlite:///{path}") as queue:
        edit(path, "UPDATE queueport_jobs SET options = ?", options)
        with pytest.raises(CorruptRecord, match="a part of the record of job bad cannot be read"):
            queue.status("bad")


def test_a_damaged_payload_of_the_holder_of_a_key_does_not_fail_the_enqueue(store: SqliteStore, path: Path) -> None:
    put(store, "bad", key="k")
    edit(path, "UPDATE queueport_jobs SET payload = ?, sent = 1", NESTED)
    with get_queue(f"sqlite:///{path}") as queue:
        assert queue.enqueue(task.named("app.send").using(key="k"), 1).id == "bad"


def test_a_damaged_job_no_longer_holds_its_key(store: SqliteStore, path: Path) -> None:
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


def test_the_id_of_a_damaged_row_can_be_used_again(store: SqliteStore, path: Path) -> None:
    put(store, "bad")
    edit(path, "UPDATE queueport_jobs SET headers = ''")
    (answer,) = store.insert([Insert(bare("bad"), Change(), "r")])
    assert (answer.outcome, answer.record) == (WriteOutcome.REFUSED, None)
    put(store, "bad")


def test_a_heartbeat_of_a_damaged_job_is_refused(store: SqliteStore, path: Path) -> None:
    run(store, put(store, "bad"))
    edit(path, "UPDATE queueport_jobs SET options = ''")
    (answer,) = store.heartbeat([LeaseRenewal("bad", TOKEN, 9.0, "r")])
    assert (answer.outcome, answer.record) == (WriteOutcome.REFUSED, None)


def test_a_newer_record_is_left_unchanged_and_logged_once(
    store: SqliteStore, path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, "queued", v=RECORD_VERSION + 1)
    put(store, "due", v=RECORD_VERSION + 1, delay=1.0)
    edit(path, "UPDATE queueport_jobs SET options = 'a format of a newer version'")
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
    assert "(version 2): this release does not run such jobs" in line


def test_a_newer_row_holds_its_key_although_it_cannot_be_read(store: SqliteStore, path: Path) -> None:
    ended = dead(store, "ended", key="k")
    put(store, "newer", key="k", v=RECORD_VERSION + 1)
    edit(path, "UPDATE queueport_jobs SET options = 'a format of a newer version' WHERE id = 'newer'")
    (inserted,) = store.insert([Insert(bare(key="k"), Change({"state": JobState.QUEUED}), "r")])
    (swapped,) = store.swap([Swap("ended", ended.rev, Change({"state": JobState.QUEUED}), "r")])
    for answer in (inserted, swapped):
        assert (answer.outcome, answer.record) == (WriteOutcome.KEY_HELD, unreadable_holder("newer"))
    with get_queue(f"sqlite:///{path}") as queue:
        handle = queue.enqueue(task.named("app.send").using(key="k"))
        assert (handle.id, handle.created) == ("newer", False)
        with pytest.raises(DuplicateJob, match="job newer holds its key 'k'"):
            queue.retry("ended")

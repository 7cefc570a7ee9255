"""The tables of the SQLite store: their columns, their migrations, and the plans of its statements."""

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import MISSING, fields
from datetime import UTC, datetime
from pathlib import Path

import pytest

from queueport.errors import BackendUnavailable
from queueport.spi.record import Change, Record
from queueport.spi.store import Begin, Insert, LeaseRenewal, Query, Swap
from queueport.stats import WorkerStats
from queueport.status import FINAL, JobState
from queueport.stores.sqlite import schema as sqlite_schema
from queueport.stores.sqlite.records import columns, record
from queueport.stores.sqlite.schema import FIELDS, WORDS
from queueport.stores.sqlite.store import SqliteStore
from queueport.testing.stores.harness import START, Clock, bare, dead, put, retrying, run, succeeded

SAMPLE = Path(__file__).parent / "samples" / "schema_1.sql"
"""A database of version 1, as printed by `tests.stores.sample`. This file must never change."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path, clock=Clock())
    yield store
    store.close()


def layout(path: Path) -> list[tuple[str, str]]:
    """The statements that made the tables, without comments, and without blanks that ALTER TABLE writes differently."""
    with closing(sqlite3.connect(path)) as db:
        statements = db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").fetchall()
    return [
        (name, re.sub(r"\s+", " ", re.sub(r"\s*([,()])\s*", r"\1 ", re.sub("--.*", "", sql))))
        for name, sql in statements
    ]


def test_the_table_has_a_column_for_every_field_with_the_same_default(store: SqliteStore) -> None:
    with store.database.read() as tables:
        found = {row[1]: row[4] for row in tables.rows("PRAGMA table_info(queueport_jobs)")}
    assert set(found) == {*FIELDS, "error", "error_name"}
    values = bare().values()
    plain = dict(zip(*columns(tuple(values), list(values.values())), strict=True))
    for field in fields(Record):
        given = field.default is not MISSING or field.default_factory is not MISSING
        if not given or field.name == "v":
            assert found[field.name] is None
        elif plain[field.name] is not None:
            assert found[field.name].strip("'") == str(plain[field.name])


def test_defaults_of_the_table_equal_those_of_the_record(store: SqliteStore) -> None:
    put(store, "a")
    written = put(store, "b", headers={"a": "b"}, group="g")
    with store.database.read() as tables:
        row = tables.rows("SELECT @COLUMNS FROM @jobs WHERE id = 'b'")[0]
    assert record(row) == written


def test_the_states_in_sql_are_those_that_are_not_final() -> None:
    assert set(re.findall("'(.*?)'", WORDS["ALIVE"])) == set(JobState) - FINAL


def call_every_verb(store: SqliteStore, clock: Clock) -> None:
    """Call each verb with each filter. Each call finds something."""
    known = [make(store, queue=q, key=f"{q}{make.__name__}") for make in (put, succeeded, dead, retrying) for q in "ab"]
    running = run(store, put(store))
    clock.advance(1e6)
    for state in (None, JobState.DEAD):
        for more in ({}, {"queue": "a"}, {"task": "app.send"}, {"queue": "a", "task": "app.send"}):
            for last in ({}, {"error": "ValueError"}, {"error": "builtins.ValueError"}, {"finished_before": clock.now}):
                query = Query(state, after=known[-1].id, **{**more, **last})  # type: ignore[arg-type]
                store.find(query)
                store.count(query)
    store.insert([Insert(bare(key="aput", queue="c"), Change(), "r"), Insert(bare(known[0].id), Change(), "r")])
    store.swap([Swap(known[0].id, known[0].rev, Change({"sends": 1}), "r"), Swap("x", "r", Change(delete=True), "r")])
    store.begin([Begin(running.id, running.task, Change(), "r")])
    store.heartbeat([LeaseRenewal(running.id, "t", 1.0, "r")])
    store.claim_due(10, 1.0, "r", leases=False)
    store.claim_due(10, 1.0, "r")
    store.take(["a", "b"], {"app.send": Change({"state": JobState.RUNNING})}, 1, "r")
    store.unknown(["a", "b"], [], 10)
    store.unreceived("a", 0, clock.now, 10)
    store.overflow(Query(JobState.SUCCEEDED), 0, 10)
    store.get([running.id])
    store.wait([running.id], 0.0)
    store.stats()
    store.announce(WorkerStats("w", (), (), datetime.fromtimestamp(0, UTC)), 1.0)
    store.workers()


def test_no_statement_scans_or_sorts_the_jobs(path: Path) -> None:
    clock = Clock()
    store = SqliteStore(path, clock=clock)
    store.setup()
    store.stats()
    statements: set[str] = set()
    for connection in store.database.connections:
        assert connection._tables is not None
        connection._tables.set_trace_callback(statements.add)
    call_every_verb(store, clock)
    asked = [text for text in statements if re.match(r"\s*(SELECT|UPDATE|DELETE|INSERT)", text)]
    assert len(asked) > 60
    for text in asked:
        with store.database.write() as tables:
            plan = "; ".join(row[3] for row in tables.execute(f"EXPLAIN QUERY PLAN {text}"))
        assert "SCAN queueport_jobs" not in plan, text
        assert "queueport_jobs" not in plan or "TEMP B-TREE" not in plan, text
    store.close()


def test_a_newer_version_of_the_tables_is_refused(path: Path, store: SqliteStore) -> None:
    put(store, "a")
    store.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE queueport_meta SET value = 99 WHERE name = 'schema'")
    for call in (store.stats, store.setup, store.check):
        with pytest.raises(
            BackendUnavailable, match=r"have version 99, and this queueport knows versions up to \d+: upgrade"
        ):
            call()
    with closing(sqlite3.connect(path)) as db, db:
        assert db.execute("SELECT count(*) FROM queueport_jobs").fetchone() == (1,)


@pytest.fixture
def sample(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(SAMPLE.read_text())
    return path


def test_jobs_of_a_database_of_version_1_can_be_read_and_taken(sample: Path) -> None:
    store = SqliteStore(sample, clock=Clock(START + 100))
    found = {job.id: job for job in store.find(Query())}
    assert {job_id: job.state.value for job_id, job in found.items()} == {
        "queued": "queued",
        "scheduled": "scheduled",
        "running": "running",
        "retrying": "retrying",
        "succeeded": "succeeded",
        "dead": "dead",
    }
    assert found["dead"].errors[-1].type == "builtins.ValueError"
    for name, number in (("ValueError", 2), ("builtins.ValueError", 2), ("app.ValueError", 0), ("Exception", 0)):
        assert store.count(Query(error=name)) == len(store.find(Query(error=name))) == number
    assert found["queued"].headers == {"trace": "ü"}
    assert found["queued"].options == {"timeout": 1.5}
    assert found["queued"].payload == b"\0\xff"
    (job,) = store.take(["default"], {"app.send": Change({"state": JobState.RUNNING})}, 1, "r")
    assert (job.id, job.attempts) == ("queued", 1)
    assert {job.id for job in store.claim_due(10, 5.0, "r")} == {"scheduled", "running", "retrying"}
    assert store.stats().processed == 2
    assert [worker.name for worker in store.workers()] == ["worker"]
    store.close()


def test_a_migrated_database_has_the_same_tables_as_a_new_one(sample: Path, tmp_path: Path) -> None:
    for path in (sample, tmp_path / "new.db"):
        store = SqliteStore(path)
        store.setup()
        store.close()
    assert layout(sample) == layout(tmp_path / "new.db"), "the tables were changed without a migration"


def test_jobs_of_an_older_release_are_found_by_the_new_filters(sample: Path) -> None:
    store = SqliteStore(sample)
    assert [record.id for record in store.find(Query(key="k"))] == ["queued"]
    assert len(store.find(Query(since=START - 60, until=START + 60))) == 6
    assert len(store.find(Query(text="args"))) == 5
    assert {record.tags for record in store.find(Query())} == {()}
    put(store, "new", tags=("vip",))
    assert [record.id for record in store.find(Query(tag="vip"))] == ["new"]
    store.close()


MORE: Mapping[int, Sequence[str]] = {
    1: ["ALTER TABLE @jobs ADD COLUMN colour TEXT NOT NULL DEFAULT 'red'", "CREATE INDEX @colour ON @jobs (colour)"],
    2: ["UPDATE @jobs SET colour = 'green'", *sqlite_schema.MIGRATIONS[2]],
}


def test_each_step_of_a_migration_is_applied_once_by_several_stores(
    sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_schema, "SCHEMA", 3)
    monkeypatch.setattr(sqlite_schema, "MIGRATIONS", MORE)
    stores = [SqliteStore(sample), SqliteStore(sample)]
    assert [store.count(Query()) for store in stores] == [6, 6]
    with stores[0].database.read() as tables:
        assert tables.rows("SELECT DISTINCT colour FROM @jobs") == [("green",)]
        assert tables.rows("SELECT value FROM @meta WHERE name = 'schema'") == [(3,)]
    put(stores[1], "new")
    for store in stores:
        store.close()


def test_a_migration_that_fails_leaves_the_old_version(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_schema, "SCHEMA", 2)
    monkeypatch.setattr(sqlite_schema, "MIGRATIONS", {1: [*MORE[1], "ALTER TABLE @absent ADD COLUMN x"]})
    before = layout(sample)
    with pytest.raises(BackendUnavailable, match="no such table"):
        SqliteStore(sample).setup()
    assert layout(sample) == before
    monkeypatch.undo()
    store = SqliteStore(sample)
    assert store.count(Query()) == 6
    store.close()

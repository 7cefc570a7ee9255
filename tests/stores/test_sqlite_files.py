"""What the SQLite store says about files, disks and locks, and how it lets go of them."""

import os
import re
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.record import Change
from queueport.status import JobState
from queueport.store import Insert, Query
from queueport.stores import sqlite_connection, sqlite_health
from queueport.stores.sqlite import SqliteStore
from queueport.testing.stores.harness import bare, put
from queueport.url import BackendURL

NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path, call_timeout=0.3)
    yield store
    store.close()


@pytest.fixture
def ordinary_folder() -> Iterator[Path]:
    """A folder used as an ordinary user, for root may write everywhere."""
    with tempfile.TemporaryDirectory() as folder:
        root = os.geteuid() == 0
        if root:
            Path(folder).chmod(0o755)
            os.chown(folder, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        try:
            yield Path(folder)
        finally:
            if root:
                os.seteuid(0)


def opened(url: str) -> SqliteStore:
    return SqliteStore.open(BackendURL.parse(url), namespace="queueport", call_timeout=5.0)


def refusal(store: SqliteStore, sentence: str) -> None:
    """Reading and writing both fail with that sentence, whose cause is SQLite's own error."""
    for call in (lambda: store.get(["a"]), lambda: put(store), store.setup, store.check):
        with pytest.raises(BackendUnavailable, match=sentence) as raised:
            call()
        assert isinstance(raised.value.__cause__, sqlite3.Error)


def pragma(store: SqliteStore, name: str) -> Any:
    with store.database.write() as tables:
        return tables.execute(f"PRAGMA {name}").fetchone()[0]


@pytest.mark.parametrize(
    "url", ["sqlite:///jobs.db", "sqlite:///./jobs.db", "sqlite:///{folder}/jobs.db", "sqlite:///jobs%2Edb"]
)
def test_a_url_names_a_file_and_nothing_is_opened_before_use(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = opened(url.format(folder=tmp_path))
    monkeypatch.chdir("/")
    assert list(tmp_path.iterdir()) == []
    put(store, "a")
    store.close()
    assert [file.name for file in tmp_path.iterdir()] == ["jobs.db"]


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite://jobs.db", "sqlite:///:memory:", "sqlite:///a%00b"]
)
def test_a_url_without_a_file_is_refused_with_the_line_to_write(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"write 'sqlite:///jobs\.db'"):
        opened(url)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [("synchronous=off", "synchronous='off' is wrong"), ("sychronous=full", "did you mean 'synchronous'")],
)
def test_a_wrong_option_is_refused(options: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        opened(f"sqlite:///jobs.db?{options}")


@pytest.mark.parametrize(("options", "level"), [("", 1), ("?synchronous=normal", 1), ("?synchronous=full", 2)])
def test_every_connection_is_as_durable_as_asked(path: Path, options: str, level: int) -> None:
    store = opened(f"sqlite:///{path}{options}")
    assert pragma(store, "synchronous") == level
    assert pragma(store, "journal_mode") == "wal"
    store.close()


def test_an_old_sqlite_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(ConfigurationError, match=r"needs 3\.35: use a newer Python"):
        SqliteStore(path)


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    refusal(SqliteStore(tmp_path), f"{tmp_path} is a folder: name a file in it")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    refusal(SqliteStore(tmp_path / "missing" / "jobs.db"), f"make the folder {tmp_path}/missing first")


@pytest.mark.parametrize("content", [b"hello", b"no database at all\n" * 1000])
def test_a_file_that_is_no_database_is_left_as_it_was(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    refusal(SqliteStore(path), f"{path} is not a database: name another file")
    assert path.read_bytes() == content


def test_a_read_only_file_is_told(ordinary_folder: Path) -> None:
    store = SqliteStore(ordinary_folder / "jobs.db")
    put(store, "a")
    store.close()
    (ordinary_folder / "jobs.db").chmod(0o444)
    with pytest.raises(
        BackendUnavailable, match="cannot be written: give this user the right to write it, what lies beside it as"
    ):
        put(store, "b")
    for file in ordinary_folder.iterdir():
        file.chmod(0o644)
    put(store, "b")
    assert store.count(Query()) == 2
    store.close()


def test_a_read_only_folder_is_told(ordinary_folder: Path) -> None:
    ordinary_folder.chmod(0o555)
    refusal(SqliteStore(ordinary_folder / "jobs.db"), "cannot be opened: give this user the right to read and write")
    ordinary_folder.chmod(0o755)


def test_a_full_disk_loses_nothing_and_the_store_goes_on_when_there_is_room(store: SqliteStore, path: Path) -> None:
    put(store, "before")
    pages = pragma(store, "page_count")
    pragma(store, f"max_page_count = {pages + 10}")
    batch = [Insert(bare(f"j{n}", payload=b"x" * 1000), Change(), "r") for n in range(100)]
    with pytest.raises(BackendUnavailable, match="the disk is full: free some space"):
        store.insert(batch)
    assert [record.id for record in store.find(Query())] == ["before"]
    pragma(store, "max_page_count = 100000")
    assert all(answer.applied for answer in store.insert(batch))
    assert store.stats().queues["default"].states[JobState.QUEUED] == 101


def test_a_locked_file_is_told_in_time_to_every_thread_and_can_be_read_meanwhile(
    store: SqliteStore, path: Path
) -> None:
    record = put(store, "a")

    def late(_: int) -> float:
        started = time.monotonic()
        with pytest.raises(BackendUnavailable, match=r"was (locked|kept busy) by .* for 0\.3 s"):
            put(store)
        return time.monotonic() - started

    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(8) as pool:
            assert max(pool.map(late, range(8))) < 0.3 + 1
        assert store.get(["a"]) == [record]
        other.execute("ROLLBACK")
    put(store, "b")


def test_a_thread_that_keeps_the_store_busy_is_told(store: SqliteStore) -> None:
    with store.database.write(), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(put, store)
        with pytest.raises(BackendUnavailable, match=r"kept busy by other threads of this process for 0\.3 s"):
            answer.result()


def test_a_call_that_fails_half_way_leaves_nothing_and_lets_go(store: SqliteStore) -> None:
    with pytest.raises(TypeError, match="nonsense"):
        store.insert([Insert(bare("a"), Change(), "r"), Insert(bare("b"), Change({"nonsense": 1}), "r")])
    assert store.count(Query()) == 0
    put(store, "a")


def test_the_last_to_close_leaves_only_the_database(path: Path) -> None:
    stores = [SqliteStore(path), SqliteStore(path)]
    for store in stores:
        put(store)
        store.stats()
    assert path.with_name("jobs.db-wal").exists()
    for store in stores:
        store.close()
    assert [file.name for file in path.parent.iterdir()] == ["jobs.db"]


def test_the_log_does_not_grow_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_connection, "CHECKPOINT", 20)
    store = SqliteStore(path)
    for _ in range(200):
        put(store, payload=b"x" * 4000)
        store.stats()
    assert path.stat().st_size > 200 * 4000
    assert path.with_name("jobs.db-wal").stat().st_size < 100 * 4096
    store.close()


def test_tables_that_vanished_are_told_once_and_made_anew(store: SqliteStore, path: Path) -> None:
    put(store, "a")
    store.stats()
    with closing(sqlite3.connect(path)) as other, other:
        for (name,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            other.execute(f'DROP TABLE "{name}"')
    with pytest.raises(BackendUnavailable, match="no such table"):
        store.get(["a"])
    assert store.get(["a"]) == [None]
    put(store, "a")


def test_a_damaged_file_is_told(store: SqliteStore, path: Path) -> None:
    for _ in range(50):
        put(store, payload=b"x" * 2000)
    store.close()
    content = bytearray(path.read_bytes())
    content[4096 : len(content)] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(BackendUnavailable, match=r"is damaged .*\.recover"):
        store.find(Query())


def test_a_connection_of_another_process_is_neither_used_nor_closed(store: SqliteStore) -> None:
    """As after a fork that Python did not hear of."""
    put(store, "a")
    connection = store.database.connections[1]
    inherited = connection._tables
    assert inherited is not None
    connection._pid = os.getpid() + 1
    put(store, "b")
    assert connection._tables is not inherited
    assert inherited.execute("SELECT 1").fetchone() == (1,)


def test_check_warns_of_records_put_aside_and_of_a_disk_that_is_nearly_full(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "a")
    assert list(store.check()) == []
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE queueport_jobs SET state = 'bogus'")
    assert list(store.find(Query())) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 50 * 2**20}))
    warnings = store.check()
    assert [
        bool(re.search(text, warning))
        for text, warning in zip(["50 MiB left", "1 jobs .*_aside"], warnings, strict=True)
    ]


def test_a_file_system_without_a_log_works_with_a_warning(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_connection, "_use_log", lambda *_: None)
    store = SqliteStore(path)
    put(store, "a")
    assert store.count(Query()) == 1
    (warning,) = store.check()
    assert "has no write-ahead log" in warning
    store.close()


def test_check_warns_of_a_network_file_system(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n")
    assert sqlite_health._file_system(tmp_path / "jobs.db", mounts) == "nfs4"
    assert sqlite_health._file_system(Path("/other/jobs.db"), mounts) == "ext4"
    assert sqlite_health._file_system(Path("/other/jobs.db"), tmp_path / "absent") is None
    monkeypatch.setattr(sqlite_health, "_file_system", lambda *_: "nfs4")
    (warning,) = store.check()
    assert "network file system (nfs4)" in warning


def test_waiting_threads_see_what_another_store_on_the_file_does(store: SqliteStore, path: Path) -> None:
    record = put(store, "a")
    other = SqliteStore(path)
    timer = threading.Timer(0.05, put, (other, "b"))
    assert list(store.take(["none"], {}, 1, "r")) == []
    started = time.monotonic()
    timer.start()
    store.wait_for_work(["default"], 20.0)
    timer.join()
    assert time.monotonic() - started < 10
    assert store.get(["a", "b"])[0] == record
    other.close()

"""Files, disks and locks: the errors and warnings of the SQLite store, and how it releases its files."""

import itertools
import os
import re
import resource
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
from queueport.spi.record import Change
from queueport.spi.store import Insert, Query
from queueport.spi.url import BackendURL
from queueport.status import JobState
from queueport.stores.sqlite import connection as sqlite_connection
from queueport.stores.sqlite import health as sqlite_health
from queueport.stores.sqlite import store as sqlite_store
from queueport.stores.sqlite.store import SqliteStore
from queueport.testing.stores.harness import bare, put
from tests.servers.health import no_descriptors

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
    """A folder of an ordinary user. This process becomes that user if it is root, because root may write everywhere."""
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
    """Assert that reads and writes fail with this error, and that its cause is SQLite's own error."""
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
def test_a_url_names_a_file_which_is_opened_on_first_use(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = opened(url.format(folder=tmp_path))
    monkeypatch.chdir("/")
    assert list(tmp_path.iterdir()) == []
    put(store, "a")
    store.close()
    assert [file.name for file in tmp_path.iterdir()] == ["jobs.db"]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite://jobs.db", "sqlite:///:memory:"])
def test_the_error_about_a_url_without_a_file_says_what_to_write(url: str) -> None:
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
def test_every_connection_has_the_durability_that_the_url_names(path: Path, options: str, level: int) -> None:
    store = opened(f"sqlite:///{path}{options}")
    assert pragma(store, "synchronous") == level
    assert pragma(store, "journal_mode") == "wal"
    store.close()


def test_an_old_sqlite_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(ConfigurationError, match=r"needs 3\.35 or newer: use a Python with a newer SQLite"):
        SqliteStore(path)


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    refusal(SqliteStore(tmp_path), f"{tmp_path} is a folder: name a file in it")


def test_the_error_names_a_missing_folder(tmp_path: Path) -> None:
    refusal(SqliteStore(tmp_path / "missing" / "jobs.db"), f"make the folder {tmp_path}/missing first")


@pytest.mark.parametrize("content", [b"hello", b"no database at all\n" * 1000])
def test_a_file_that_is_not_a_database_is_refused_and_not_changed(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    refusal(SqliteStore(path), f"{path} is not a database: name another file")
    assert path.read_bytes() == content


def test_a_read_only_file_is_reported(ordinary_folder: Path) -> None:
    store = SqliteStore(ordinary_folder / "jobs.db")
    put(store, "a")
    store.close()
    (ordinary_folder / "jobs.db").chmod(0o444)
    with pytest.raises(
        BackendUnavailable, match="cannot be written: give this user the right to write to the file, to"
    ):
        put(store, "b")
    for file in ordinary_folder.iterdir():
        file.chmod(0o644)
    put(store, "b")
    assert store.count(Query()) == 2
    store.close()


def test_a_read_only_folder_is_reported(ordinary_folder: Path) -> None:
    ordinary_folder.chmod(0o555)
    refusal(SqliteStore(ordinary_folder / "jobs.db"), "cannot be opened: give this user the right to read and write")
    ordinary_folder.chmod(0o755)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("a" * 300, "its name is too long: choose a shorter one"),
        (f"{'a' * 300}/jobs.db", "its name is too long: choose a shorter one"),
        ("loop/jobs.db", "its symbolic links are a loop: correct them"),
        ("file/jobs.db", "make the folder .*/file first"),
    ],
    ids=["long_file", "long_folder", "loop", "file_as_folder"],
)
def test_a_path_that_cannot_exist_is_reported(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    refusal(SqliteStore(tmp_path / name), sentence)


def test_a_folder_that_this_user_may_not_enter_is_reported(ordinary_folder: Path) -> None:
    folder = ordinary_folder / "closed" / "inner"
    folder.mkdir(parents=True)
    folder.parent.chmod(0)
    try:
        refusal(SqliteStore(folder / "jobs.db"), "cannot be opened: give this user the right to read and write")
    finally:
        folder.parent.chmod(0o755)


def test_the_error_says_that_no_file_descriptor_is_left(path: Path) -> None:
    store = SqliteStore(path)
    put(store)
    store.close()
    with no_descriptors():
        refusal(store, r"this process has no file descriptors left: close files, or raise the limit \(`ulimit -n`\)")
    put(store)
    store.close()


def test_a_relative_path_in_a_deleted_folder_and_a_name_that_cannot_be_encoded_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match="has a character that no file name can have: choose another"):
        opened("sqlite:////tmp/\ud800.db")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ConfigurationError, match="the working directory was deleted: write an absolute path"):
        opened("sqlite:///jobs.db")
    opened(f"sqlite:///{tmp_path}/jobs.db").close()


def test_check_fails_if_the_database_or_its_log_cannot_grow_and_leaves_nothing_behind(
    store: SqliteStore, path: Path
) -> None:
    put(store, "before")
    before = store.stats()
    assert list(store.check()) == list(store.check()) == []
    pragma(store, f"max_page_count = {pragma(store, 'page_count') - pragma(store, 'freelist_count')}")
    with store.database.write() as tables:
        tables.execute("CREATE TABLE filler (data)")

    def fill() -> None:
        while True:
            with store.database.write() as tables:
                tables.execute("INSERT INTO filler VALUES (zeroblob(4000))")

    with pytest.raises(BackendUnavailable, match="the disk is full: free some space"):
        fill()
    with pytest.raises(BackendUnavailable, match="the disk is full: free some space"):
        store.check()
    pragma(store, "max_page_count = 100000")
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.with_name("jobs.db-wal").stat().st_size, largest[1]))
    try:
        for call in (store.check, lambda: put(store, "after")):
            with pytest.raises(BackendUnavailable, match=r"disk I/O error.* check its disk"):
                call()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, largest)
    assert (store.stats().queues, store.stats().processed) == (before.queues, before.processed)
    assert list(store.check()) == []


def test_a_full_disk_loses_no_record_and_writes_work_again_when_there_is_space(store: SqliteStore, path: Path) -> None:
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


def test_writes_to_a_locked_file_fail_in_time_in_every_thread_and_reads_work(store: SqliteStore, path: Path) -> None:
    record = put(store, "a")

    def late(_: int) -> float:
        started = time.monotonic()
        with pytest.raises(BackendUnavailable, match=r"was (locked|used) by .* for 0\.3 s"):
            put(store)
        return time.monotonic() - started

    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(8) as pool:
            assert max(pool.map(late, range(8))) < 0.3 + 1
        assert store.get(["a"]) == [record]
        other.execute("ROLLBACK")
    put(store, "b")


def test_a_write_gets_its_turn_while_another_process_writes_all_the_time(store: SqliteStore, path: Path) -> None:
    put(store)
    written, stop = itertools.count(), threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            while not stop.wait(0.001):
                other.execute("BEGIN IMMEDIATE")
                time.sleep(0.005)
                other.execute("COMMIT")
                next(written)

    def transactions() -> int:
        """The number of transactions of the other one during one write."""
        before = next(written)
        put(store)
        return next(written) - before - 1

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            assert max(transactions() for _ in range(40)) <= 10
        finally:
            stop.set()
            writing.result()


def test_a_store_that_another_thread_keeps_busy_is_reported(store: SqliteStore) -> None:
    with store.database.write(), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(put, store)
        with pytest.raises(BackendUnavailable, match=r"used by other threads of this process for 0\.3 s"):
            answer.result()


def test_a_call_that_fails_half_way_writes_nothing_and_releases_the_lock(store: SqliteStore) -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        store.insert([Insert(bare("a"), Change(), "r"), Insert(bare("b"), Change({"nonsense": 1}), "r")])
    assert store.count(Query()) == 0
    put(store, "a")


def test_the_last_store_to_close_leaves_only_the_database_file(path: Path) -> None:
    stores = [SqliteStore(path), SqliteStore(path)]
    for store in stores:
        put(store)
        store.stats()
    assert path.with_name("jobs.db-wal").exists()
    for store in stores:
        store.close()
    assert [file.name for file in path.parent.iterdir()] == ["jobs.db"]


def test_the_write_ahead_log_stays_small(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_connection, "CHECKPOINT", 20)
    store = SqliteStore(path)
    for _ in range(200):
        put(store, payload=b"x" * 4000)
        store.stats()
    assert path.stat().st_size > 200 * 4000
    assert path.with_name("jobs.db-wal").stat().st_size < 100 * 4096
    store.close()


def test_dropped_tables_are_reported_once_and_created_again(store: SqliteStore, path: Path) -> None:
    put(store, "a")
    store.stats()
    with closing(sqlite3.connect(path)) as other, other:
        for (name,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            other.execute(f'DROP TABLE "{name}"')
    with pytest.raises(BackendUnavailable, match="no such table"):
        store.get(["a"])
    assert store.get(["a"]) == [None]
    put(store, "a")


def test_a_damaged_file_is_reported(store: SqliteStore, path: Path) -> None:
    for _ in range(50):
        put(store, payload=b"x" * 2000)
    store.close()
    content = bytearray(path.read_bytes())
    content[4096 : len(content)] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(BackendUnavailable, match=r"is damaged .*\.recover"):
        store.find(Query())


def test_a_connection_of_another_process_is_neither_used_nor_closed(store: SqliteStore) -> None:
    """A process inherits such a connection if C code forks, because C code does not run Python's fork handlers."""
    put(store, "a")
    connection = store.database.connections[1]
    inherited = connection._tables
    assert inherited is not None
    connection._pid = os.getpid() + 1
    put(store, "b")
    assert connection._tables is not inherited
    assert inherited.execute("SELECT 1").fetchone() == (1,)


def test_check_warns_of_records_moved_aside_and_of_a_disk_that_is_nearly_full(
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


def test_a_file_system_without_write_ahead_log_works_with_a_warning(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_wait_for_work_sees_a_job_of_another_store_on_the_same_file(store: SqliteStore, path: Path) -> None:
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


class Sleeper:
    """Stands for the module `time` in the store: `sleep` only moves the clock, and is noted."""

    def __init__(self) -> None:
        self.now, self.slept = time.monotonic(), list[float]()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


def test_a_worker_that_has_just_had_a_job_looks_for_the_next_one_more_often(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = Sleeper()
    monkeypatch.setattr(sqlite_store, "time", sleeper)

    def pauses(seconds: float) -> list[float]:
        sleeper.slept.clear()
        store.wait_for_work(["default"], seconds)
        return sleeper.slept[:-1]

    task = put(store, "a").task
    store.wait_for_work(["default"], 1.0)
    sleeper.now += 3600.0
    assert set(pauses(1.0)) == {sqlite_store.PAUSES[1]}
    assert list(store.take(["default"], {task: Change({"state": JobState.RUNNING})}, 1, "r"))
    store.wait_for_work(["default"], 1.0)
    assert set(pauses(1.0)) == {sqlite_store.PAUSES[0]}


def test_a_caller_that_waits_for_the_end_of_a_job_looks_less_and_less_often(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = Sleeper()
    put(store, "a")
    monkeypatch.setattr(sqlite_store, "time", sleeper)
    assert store.wait(["a"], 2.0) == []
    assert sleeper.slept[0] == sqlite_store.PAUSES[0]
    assert sleeper.slept[-2] == sqlite_store.PAUSES[1]
    assert sleeper.slept[:-1] == sorted(sleeper.slept[:-1])


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux shows the open files of a process")
def test_a_call_after_close_leaves_no_connection_open(tmp_path: Path) -> None:
    """A call in another thread may begin during `close`."""
    store = SqliteStore(f"{tmp_path}/jobs.db")
    store.close()
    assert store.stats().queues == {}
    opened = {path.resolve() for path in Path("/proc/self/fd").iterdir()}
    assert not {path for path in opened if path.is_relative_to(tmp_path)}

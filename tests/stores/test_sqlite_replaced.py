"""A database file that is deleted, replaced or moved while processes use it: who notices, and what is kept."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from queueport import JobQueue, JobState, get_queue
from queueport.errors import BackendUnavailable
from queueport.stores.sqlite import files
from queueport.stores.sqlite.files import identity
from queueport.stores.sqlite.store import SqliteStore
from queueport.testing.stores.harness import put
from queueport.testing.tasks import echo
from queueport.testing.waiting import eventually

NEW_PROCESS = """
import sys
from queueport import get_queue
with get_queue(sys.argv[1]) as queue:
    queue.enqueue("new")
    print(queue.stats().totals.queued)
"""
SIDE = ("-wal", "-shm")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def queue(path: Path) -> Iterator[JobQueue]:
    with get_queue(f"sqlite:///{path}") as queue:
        queue.enqueue("old")
        assert queued(queue) == 1
        yield queue


def queued(queue: JobQueue) -> int:
    return queue.stats().totals.queued


def queued_in_new_process(path: Path) -> int:
    """The number of queued jobs in the file that a new process opens, after it has added one."""
    done = subprocess.run(
        [sys.executable, "-c", NEW_PROCESS, f"sqlite:///{path}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def delete(path: Path, *endings: str) -> None:
    for ending in endings:
        beside(path, ending).unlink()


def test_after_a_deletion_no_job_is_accepted_and_every_call_and_check_say_so(queue: JobQueue, path: Path) -> None:
    delete(path, "")
    sentence = "was deleted while this process used it: put it back, or create an empty one with `queueport setup URL`"
    with pytest.raises(BackendUnavailable, match=sentence):
        queue.enqueue("lost")
    health = queue.check()
    assert not health.ok
    assert sentence in health.problems[0]
    eventually(lambda: reads_fail(queue), 2)
    assert not path.exists()


def test_a_deleted_file_is_not_created_again_after_a_fork(path: Path) -> None:
    store = SqliteStore(path)
    put(store)
    delete(path, "")
    store.database.before_fork()  # a fork closes the connections
    store.database.after_fork(child=False)
    with pytest.raises(BackendUnavailable, match="was deleted"):
        put(store)
    assert not path.exists()


def reads_fail(queue: JobQueue) -> bool:
    with suppress(BackendUnavailable):
        queue.stats()
        return False
    return True


def test_a_file_that_was_moved_away_is_used_again_when_it_is_back(queue: JobQueue, path: Path) -> None:
    path.rename(beside(path, ".moved"))
    with pytest.raises(BackendUnavailable, match="was deleted"):
        queue.enqueue("between")
    beside(path, ".moved").rename(path)
    queue.enqueue("after")
    assert queued(queue) == 2


def test_a_closed_queue_begins_again_with_a_new_file(queue: JobQueue, path: Path) -> None:
    delete(path, "")
    store = queue.operations.store
    store.close()
    assert store.stats().queues == {}


@pytest.mark.parametrize("deleted", [("", *SIDE), ("", "-shm")], ids=["all_files", "the_log_is_left"])
def test_after_a_deletion_all_processes_use_the_file_that_another_one_has_created(
    queue: JobQueue, path: Path, caplog: pytest.LogCaptureFixture, deleted: tuple[str, ...]
) -> None:
    delete(path, *deleted)
    assert queued_in_new_process(path) == 1
    with caplog.at_level(logging.WARNING):
        queue.enqueue("after")
    assert queued(queue) == 2
    assert queued_in_new_process(path) == 3
    (record,) = caplog.records
    assert "was replaced while this process used it: jobs of the old file are not in the new one" in record.message


def test_the_log_of_a_replaced_database_is_not_applied_to_the_new_one(
    queue: JobQueue, path: Path, tmp_path: Path
) -> None:
    with get_queue(f"sqlite:///{tmp_path}/backup.db") as backup:
        for number in range(5):
            backup.enqueue("backup", number)
    (tmp_path / "backup.db").rename(path)
    queue.enqueue("after")
    assert queued(queue) == 6
    assert queued_in_new_process(path) == 7
    assert queue.check().problems == []


def test_closing_a_queue_does_not_delete_the_log_of_the_file_that_replaced_its_own(queue: JobQueue, path: Path) -> None:
    delete(path, "", *SIDE)
    with get_queue(f"sqlite:///{path}") as other:
        other.enqueue("new")
        log = beside(path, "-wal").stat().st_ino
        queue.close()
        assert beside(path, "-wal").stat().st_ino == log
        assert queued_in_new_process(path) == 2
        assert queued(other) == 2


@pytest.mark.parametrize("ending", SIDE)
def test_a_log_or_index_that_was_deleted_is_reported(queue: JobQueue, path: Path, ending: str) -> None:
    delete(path, ending)
    with pytest.raises(BackendUnavailable, match=r"jobs\.db-wal or jobs\.db-shm was deleted or replaced .* stop all"):
        queue.enqueue("lost")
    assert not queue.check().ok


def test_a_worker_goes_on_with_the_file_that_replaced_its_own(queue: JobQueue, path: Path) -> None:
    with queue.worker(tasks=[echo]):
        assert queue.enqueue(echo, 1).result(10) == 1
        delete(path, "", *SIDE)
        with get_queue(f"sqlite:///{path}") as other:
            handle = other.enqueue(echo, 2)
            assert handle.result(10) == 2
            assert other.stats().totals.succeeded == 1
    assert queue.status(handle.id).state is JobState.SUCCEEDED


def test_a_deletion_is_noticed_after_the_files_were_not_compared(
    queue: JobQueue, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SETTLED", 0.05)
    found: list[str] = []

    def noted(name: str) -> tuple[int, int] | None:
        found.append(name)
        return identity(name)

    monkeypatch.setattr(files, "identity", noted)

    def compared() -> bool:
        found.clear()
        queue.enqueue("more")
        return bool(found)

    eventually(lambda: not compared(), 5)
    beside(path, "-another").touch()
    assert compared()
    eventually(lambda: not compared(), 5)
    delete(path, "")
    with pytest.raises(BackendUnavailable, match="was deleted"):
        queue.enqueue("lost")

"""The tests of the guide's programs, with the testing kit: recorded jobs, inline jobs, retries, moves to the dead jobs.

tests/examples/test_guide.py sends real HTTP requests, with a worker and real backends.
"""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from guide import outside
from guide.fastapi_app import app
from guide.tasks import UploadFailed, process_upload, push_to_dead_letter_queue, retry_with_backoff, send_email
from queueport import JobState, Retry, get_queue
from queueport.testing import FakeQueue, inline, run_task


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GUIDE_FOLDER", str(tmp_path))
    (tmp_path / "cat").write_bytes(b"meow")
    return tmp_path


async def post(path: str, body: dict[str, Any]) -> Any:
    """Send a request to the app in this process."""
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        return (await client.post(path, json=body)).json()


def test_an_async_client_creates_a_job(job_queue: FakeQueue) -> None:
    answer = asyncio.run(post("/upload", {"file_id": "cat"}))
    assert answer["status"] == "processing"
    (status,) = job_queue.assert_enqueued(process_upload, args=("cat",), queue="upload-processing", key="cat")
    assert status.id == answer["task_id"]


def test_signing_up_enqueues_a_mail_with_its_arguments(job_queue: FakeQueue) -> None:
    user = asyncio.run(post("/signup", {"email": "ann@example.org", "name": "Ann"}))
    assert user == {"id": 1, "email": "ann@example.org", "name": "Ann"}
    job_queue.assert_enqueued(send_email, args=(1, "welcome", {"name": "Ann"}), count=1)
    assert outside.entries("mails") == []
    job_queue.drain()
    assert [mail["to"] for mail in outside.entries("mails")] == [1]


def test_inline_jobs_run_at_once_and_raise_their_errors() -> None:
    with inline():
        assert process_upload.enqueue("cat").result()["bytes"] == "4"
        with pytest.raises(FileNotFoundError):
            process_upload.enqueue("dog")


def test_the_third_attempt_succeeds_after_growing_waits(job_queue: FakeQueue, folder: Path) -> None:
    handle = process_upload.enqueue("cat")
    for wait in (2.0, 4.0):
        (folder / "cat.busy").touch()
        job_queue.drain(retries=False)
        status = handle.status()
        assert status.state is JobState.RETRYING
        assert status.next_attempt_at is not None
        assert wait <= (status.next_attempt_at - job_queue.now).total_seconds() <= wait * 1.1
        job_queue.advance(wait * 1.1)
    job_queue.drain(retries=False)
    assert handle.result() == {"status": "completed", "file_id": "cat", "bytes": "4"}
    assert handle.status().attempts == 3


def test_a_job_that_fails_in_every_attempt_is_dead_and_its_data_are_kept(job_queue: FakeQueue) -> None:
    send_email.using(retry=Retry(max_attempts=2)).enqueue(1, "welcome", {"name": "Ann"})
    process_upload.enqueue("dog")
    outside.folder().joinpath("mails.jsonl").mkdir()  # every mail fails
    job_queue.drain()
    assert {status.task: status.attempts for status in job_queue.dead} == {
        send_email.name: 2,
        process_upload.name: 1,
    }
    lost = {entry["task"]: entry for entry in outside.entries("dead")}
    assert lost[send_email.name]["args"] == [1, "welcome", {"name": "Ann"}]
    assert "IsADirectoryError" in lost[send_email.name]["error"]
    assert "FileNotFoundError" in lost[process_upload.name]["error"]


def test_a_dead_letter_that_is_added_by_hand_keeps_its_data_too(job_queue: FakeQueue) -> None:
    handle = job_queue.dead_letters.add(process_upload.job("dog"), "refused by the scanner")
    push_to_dead_letter_queue(handle.status())
    assert [(entry["args"], entry["error"][-22:]) for entry in outside.entries("dead")] == [
        (["dog"], "refused by the scanner")
    ]


def test_a_job_reports_its_progress_and_wraps_the_cause_of_its_error(folder: Path) -> None:
    assert [report.current for report in run_task(process_upload, "cat").progress] == [10, 50, 90, 100]
    (folder / "dog.busy").touch()
    run = run_task(process_upload, "dog", attempt=3)
    assert isinstance(run.error, UploadFailed)
    assert isinstance(run.error.__cause__, ConnectionError)
    assert str(run.error) == "could not read dog: the storage is busy"


def test_a_second_run_returns_the_recorded_result(folder: Path) -> None:
    first = run_task(process_upload, "cat").result
    (folder / "cat").write_bytes(b"changed")
    again = run_task(process_upload, "cat")
    assert (again.result, again.progress) == (first, [])


@pytest.mark.job_queue(keep_succeeded="100 jobs per task")
def test_the_last_100_jobs_of_a_task_are_kept(job_queue: FakeQueue) -> None:
    for number in range(103):
        send_email.enqueue(number, "news", {})
    process_upload.enqueue("cat")
    job_queue.drain()
    job_queue.advance(10)
    kept = get_queue().jobs(task=send_email.name, limit=200)
    assert [status.args[0] for status in kept] == list(range(102, 2, -1))
    assert len(get_queue().jobs(task=process_upload.name)) == 1


def test_retries_within_an_attempt_wait_twice_as_long_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    answers: Iterator[int | Exception] = iter([ConnectionError("1"), ConnectionError("2"), 7])

    def call() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert retry_with_backoff(call) == 7
    assert waits == [1.0, 2.0]
    answers = iter([ConnectionError("1"), ConnectionError("2"), ConnectionError("3")])
    with pytest.raises(ConnectionError, match="3"):
        retry_with_backoff(call)

"""`queueport schedules`, run in this process on SQLite."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from queueport import JobQueue, get_queue, task
from queueport.cli.app import app
from queueport.engine.schedules import ScheduleDispatcher
from queueport.tasks import registry

Run = Callable[..., str]


@task(name="cli.recurring", queue="sums")
def add(a: int, b: int = 0) -> int:
    return a + b


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobQueue]:
    monkeypatch.setenv("QUEUEPORT_URL", f"sqlite:///{tmp_path}/jobs.db")
    monkeypatch.delenv("QUEUEPORT_TASKS", raising=False)
    with get_queue(f"sqlite:///{tmp_path}/jobs.db") as opened:
        yield opened


@pytest.fixture
def run(queue: JobQueue) -> Run:
    """Runs a command, checks its exit code, and returns its output and errors."""

    def command(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["schedules", *arguments])
        assert result.exit_code == code, result.output
        return result.output

    return command


def test_a_schedule_is_added_shown_and_removed(run: Run, queue: JobQueue) -> None:
    shown = run("add", "sum", "cli.recurring", "1", "--kw", "b=2", "--cron", "0 3 * * mon", "--timezone", "Asia/Tokyo")
    assert "0 3 * * mon (Asia/Tokyo)" in shown
    (added,) = queue.schedules.list()
    assert (added.task, added.queue, added.args, added.kwargs) == ("cli.recurring", "sums", [1], {"b": 2})
    assert json.loads(run("show", "sum", "--json")) == added.as_dict()
    assert json.loads(run("list", "--json")) == [added.as_dict()]
    assert run("remove", "sum") == "schedule sum removed\n"
    assert queue.schedules.list() == []


def test_a_schedule_of_a_task_that_is_not_declared_gets_a_note(run: Run) -> None:
    assert "note:" not in run("add", "sum", "cli.recurring", "1", "--every", "60")
    assert "note: 'cli.elsewhere' is not declared in a loaded module" in run(
        "add", "s", "cli.elsewhere", "--every", "60"
    )


def test_a_schedule_is_paused_resumed_and_run(run: Run, queue: JobQueue) -> None:
    queue.schedules.add("sum", add.job(1), every=3600, overlap=False)
    run("pause", "sum")
    assert queue.schedules.get("sum").paused
    assert "paused" in run("list")
    run("resume", "sum")
    assert not queue.schedules.get("sum").paused
    job_id = run("run", "sum").strip()
    assert queue.status(job_id).args == [1]
    assert f"no job was added, because job {job_id} of this schedule has not ended" in run("run", "sum")


def test_the_list_shows_the_latest_job(run: Run, queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.schedules.add("sum", add.job(1), every=60)
    later = queue.operations.store.now() + 61
    monkeypatch.setattr(queue.operations.store, "now", lambda: later)
    ScheduleDispatcher(queue.operations).make_due()
    assert run("list").splitlines()[1].split()[-1] == "queued"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("add", "sum", "cli.recurring", "1"), "give either --every SECONDS or --cron EXPRESSION"),
        (("add", "sum", "cli.recurring", "1", "--cron", "x"), "'x' is not a cron expression"),
        (("add", "sum", "cli.recurring", "x", "--every", "5"), "argument 'a'"),
        (("pause", "other"), "there is no schedule 'other'"),
        (("add", "sum", "cli.recurring", "1", "--every", "5", "--catch-up", "some"), "--catch-up must be one of"),
    ],
)
def test_bad_input_is_one_sentence(arguments: tuple[str, ...], sentence: str, run: Run, queue: JobQueue) -> None:
    result = CliRunner().invoke(app, ["schedules", *arguments])
    assert result.exit_code in (1, 2)
    assert sentence in result.output
    assert result.output.startswith("error: ")
    assert len(result.output.splitlines()) == 1
    assert queue.schedules.list() == []


def test_a_backend_without_another_scheduler_has_nothing_to_import(run: Run) -> None:
    assert json.loads(run("import", "--json")) == []
    assert "note: no schedules were found; this command reads those of an app: celery://MODULE:APP" in run("import")


def test_the_removal_of_a_declared_schedule_says_that_it_comes_back(run: Run, queue: JobQueue) -> None:
    with registry.isolated():

        @task(name="cli.declared", every=60)
        def declared() -> None: ...

        ScheduleDispatcher(queue.operations, [declared]).tick()
    assert "the next worker with this task adds it again" in run("remove", "cli.declared")
    run("add", "mine", "cli.recurring", "1", "--every", "60")
    assert run("remove", "mine") == "schedule mine removed\n"

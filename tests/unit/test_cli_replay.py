"""`queueport replay`, run in this process on SQLite."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from queueport import JobQueue, get_queue, task
from queueport.cli.app import app
from queueport.errors import BackendUnavailable


@task(name="cli.replayed", queue="sums")
def add(a: int, b: int = 0) -> int:
    return a + b


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobQueue]:
    monkeypatch.setenv("QUEUEPORT_URL", f"sqlite:///{tmp_path}/jobs.db")
    monkeypatch.delenv("QUEUEPORT_TASKS", raising=False)
    with get_queue(f"sqlite:///{tmp_path}/jobs.db") as opened:
        yield opened


def run(*arguments: str, code: int = 0) -> Any:
    """Run the command, and check its exit code."""
    result = CliRunner().invoke(app, ["replay", *arguments])
    assert result.exit_code == code, result.output
    return result


def test_a_replay_prints_the_id_of_the_new_job_and_shows_its_origin(queue: JobQueue) -> None:
    old = queue.enqueue(add, 1, b=2)
    same = run(old.id)
    new = queue.status(same.stdout.strip())
    assert (new.args, new.kwargs, new.queue, new.replay_of) == ([1], {"b": 2}, "sums", old.id)
    assert same.stderr == ""
    shown = CliRunner().invoke(app, ["status", new.id]).stdout
    assert f"replay of {old.id}" in " ".join(shown.split())
    edited = json.loads(run(old.id, "--args", "[40]", "--kwargs", "{}", "--id", "edited", "--json").stdout)
    assert edited == {"id": "edited", "replay_of": old.id}
    assert (queue.status("edited").args, queue.status("edited").kwargs) == ([40], {})


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--args", "[1"), 2, "--args '[1' is not valid JSON"),
        (("--args", "[NaN]"), 2, "--args '[NaN]' is not valid JSON"),
        (("--args", '{"a": 1}'), 2, "has the wrong form: write an array"),
        (("--kwargs", "[1]"), 2, "has the wrong form: write an object"),
        (("--args", '["x"]'), 2, "task 'cli.replayed': argument 'a': Input should be a valid integer"),
        (("--id", "a b"), 2, "id must be 1 to 64 letters"),
        (("--module", "nosuch"), 2, "nosuch"),
        (("--module", "json"), 2, "there is no task 'cli.elsewhere' in json"),
    ],
)
def test_wrong_input_is_refused_with_one_line(
    queue: JobQueue, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    elsewhere = arguments == ("--module", "json")
    old = queue.enqueue("cli.elsewhere") if elsewhere else queue.enqueue(add, 1)
    result = run(old.id, *arguments, code=code)
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert queue.stats().totals.total == 1


def test_a_missing_job_and_a_held_key_are_failures(queue: JobQueue) -> None:
    assert "there is no job 'nosuch'" in run("nosuch", code=1).stderr
    old = queue.enqueue(add.using(key="k"), 1)
    assert f"cannot be replayed while job {old.id} holds its key" in run(old.id, code=1).stderr


def test_arguments_of_an_unknown_task_are_not_checked_and_a_note_says_so(queue: JobQueue) -> None:
    result = run(queue.enqueue("cli.elsewhere", 1).id, "--args", '["any"]')
    assert queue.status(result.stdout.strip()).args == ["any"]
    assert "note: 'cli.elsewhere' is not declared in a loaded module" in result.stderr


def test_an_unknown_outcome_names_the_id_with_which_to_repeat_the_command(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = queue.enqueue(add, 1)

    def lost(*_: Any, **__: Any) -> None:
        raise BackendUnavailable("no answer", unknown=["new-1"])

    monkeypatch.setattr(JobQueue, "replay", lost)
    assert "no answer; to replay it again, repeat the command with --id new-1" in run(old.id, code=1).stderr

"""Commands accept a shortened id. For authors of commands."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from queueport import Abort, JobQueue, JobState, get_queue, task
from queueport.cli.app import app


@task(name="cli_ids.fail")
def fail() -> None:
    raise Abort("no")


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobQueue]:
    url = f"sqlite:///{tmp_path}/jobs.db"
    monkeypatch.setenv("QUEUEPORT_URL", url)
    with get_queue(url) as opened:
        yield opened


def dead(queue: JobQueue, *ids: str) -> None:
    for job_id in ids:
        queue.enqueue(fail.using(job_id=job_id))
    queue.worker(tasks=[fail], burst=True).run()


def run(*arguments: str) -> str:
    """Run a command that succeeds. Returns its standard output."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str) -> str:
    """Run a command that fails with exit code 1. Returns its standard error."""
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    return result.stderr


@pytest.mark.parametrize("command", [("status",), ("retry",), ("dead", "show"), ("dead", "retry"), ("dead", "discard")])
def test_a_command_completes_an_id_that_is_unique(queue: JobQueue, command: tuple[str, ...]) -> None:
    dead(queue, "0199aa-one", "0199ab-two")
    assert json.loads(run(*command, "0199ab", "--json"))["id"] == "0199ab-two"
    assert queue.status("0199aa-one").reason is None


def test_cancel_names_the_whole_id_of_the_job(queue: JobQueue) -> None:
    handle = queue.enqueue(fail)
    assert run("cancel", handle.id[:20]) == f"job {handle.id} is cancelled\n"


def test_the_next_page_may_begin_after_a_shortened_id(queue: JobQueue) -> None:
    for job_id in ("aaaa-1", "bbbb-2", "cccc-3"):
        queue.enqueue(fail.using(job_id=job_id))
    assert [job["id"] for job in json.loads(run("jobs", "--after", "cccc", "--json"))] == ["bbbb-2", "aaaa-1"]


def test_an_ambiguous_id_changes_nothing_and_lists_the_first_jobs(queue: JobQueue) -> None:
    dead(queue, "same-4", "same-2", "same-1", "same-3")
    assert refused("dead", "retry", "same") == (
        "error: 'same' is the beginning of several ids: write more characters of one of them: same-1, same-2, same-3, "
        "...\n"
    )
    assert len(queue.dead_letters.list()) == 4
    queue.enqueue(fail.using(job_id="pair-1"))
    queue.enqueue(fail.using(job_id="pair-2"))
    assert refused("cancel", "pair-").endswith(": pair-1, pair-2\n")


def test_a_whole_id_wins_over_longer_ids_that_begin_with_it(queue: JobQueue) -> None:
    dead(queue, "order-7", "order-77")
    assert json.loads(run("status", "order-7", "--json"))["id"] == "order-7"


def test_an_unknown_id_says_that_none_begins_with_it(queue: JobQueue) -> None:
    dead(queue, "0199aa-one")
    assert "there is no job '0199b' in this namespace, and no id begins with it" in refused("status", "0199b")
    assert "there is no job '019' in this namespace; a shortened id needs 4 characters" in refused("status", "019")
    wrong = "is not a job id: an id has 1 to 64 letters, digits, '_' and '-'"
    assert f"'not an id' {wrong}" in refused("status", "not an id")
    for command in (["status"], ["retry"], ["dead", "show"]):
        shown = refused(*command, "a" * 3000)
        assert wrong in shown
        assert len(shown) < 200
    assert queue.status("0199aa-one").state is JobState.DEAD

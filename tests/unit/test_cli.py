"""The commands that look at jobs and change them, in this process on SQLite. For those who change `queueport.cli`."""

import json
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from queueport import Abort, JobQueue, JobState, connect, get_queue, task
from queueport.cli.app import app

Run = Callable[..., str]


@task(name="cli.add", queue="sums")
def add(a: int, b: int = 0) -> int:
    return a + b


@task(name="cli.fail")
def fail(text: str = "no") -> None:
    raise Abort(text)


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("QUEUEPORT_URL", f"sqlite:///{tmp_path}/jobs.db")
    monkeypatch.delenv("QUEUEPORT_TASKS", raising=False)
    return f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture
def queue(url: str) -> Iterator[JobQueue]:
    with get_queue(url) as opened:
        yield opened


@pytest.fixture
def run(url: str) -> Run:
    """Run a command; what it printed on standard output, after its exit code was checked."""

    def command(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, words)
        assert result.exit_code == code, result.output
        return result.stdout

    return command


def work(queue: JobQueue) -> None:
    """Run what is due."""
    queue.worker(tasks=[add, fail], threads=2, burst=True).run()


def answer(text: str) -> Any:
    """The one JSON document on the one line."""
    assert text.count("\n") == 1
    assert text.isascii()
    return json.loads(text)


def test_enqueue_prints_the_id_and_reads_arguments_as_json_or_text(run: Run, queue: JobQueue) -> None:
    words = ("1", "-2.5", "true", "null", '{"a": [1]}', '"7"', "plain text", "NaN", "", "ü")
    job = queue.status(run("enqueue", "--kw", "n=3", "--kw", "s=x=y", "other.task", "--", *words).strip())
    assert job.args == [1, -2.5, True, None, {"a": [1]}, "7", "plain text", "NaN", "", "ü"]
    assert job.kwargs == {"n": 3, "s": "x=y"}
    assert (job.task, job.queue, job.state) == ("other.task", "default", JobState.QUEUED)


def test_enqueue_takes_the_options_of_a_job(run: Run, queue: JobQueue) -> None:
    options = ("--queue", "bulk", "--delay", "60", "--priority", "5", "--key", "k", "--id", "mine", "--json")
    assert answer(run("enqueue", "cli.elsewhere", *options)) == {"id": "mine"}
    job = queue.status("mine")
    assert (job.queue, job.state, job.key) == ("bulk", JobState.SCHEDULED, "k")
    assert run("enqueue", "cli.elsewhere", "--key", "k") == "mine\n"


def test_enqueue_uses_the_task_as_its_module_declares_it(
    run: Run, queue: JobQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cli_letters.py").write_text(
        "from queueport import task\n@task(queue='post')\ndef send(to: str) -> None: ...\n"
    )
    monkeypatch.chdir(tmp_path)
    assert queue.status(run("enqueue", "cli_letters.send", "Ada").strip()).queue == "default"
    monkeypatch.setenv("QUEUEPORT_TASKS", "cli_letters")
    assert queue.status(run("enqueue", "cli_letters.send", "Ada").strip()).queue == "post"
    assert queue.status(run("enqueue", "of.another.service").strip()).queue == "default"


def test_status_shows_one_job_for_people_and_for_scripts(run: Run, queue: JobQueue) -> None:
    done, dead = queue.enqueue(add, 1, b=2), queue.enqueue(fail, "[red]\x1b[31mred")
    work(queue)
    assert answer(run("status", done.id, "--json")) == done.status().as_dict()
    shown = run("status", done.id)
    assert [word in shown for word in (done.id, "cli.add", "succeeded", '{"b": 2}')] == [True] * 4
    shown = run("status", dead.id)
    assert "Abort: [red]\\x1b[31mred" in shown
    assert "Traceback (most recent call last)" in shown
    assert "\x1b" not in shown


def test_following_a_job_ends_with_it_and_tells_how(run: Run, queue: JobQueue) -> None:
    done, dead = queue.enqueue(add, 1), queue.enqueue(fail)
    work(queue)
    assert run("status", done.id, "--follow") == f"{done.id} succeeded\n"
    assert answer(run("status", dead.id, "--follow", "--json", code=1))["state"] == "dead"


def test_jobs_are_listed_by_filters_and_pages_newest_first_with_whole_ids(run: Run, queue: JobQueue) -> None:
    ids = [queue.enqueue(add.using(job_id=f"{i}-{'x' * 62}"), i).id for i in range(3)]
    other = queue.enqueue(fail.using(delay=60)).id
    assert [job["id"] for job in answer(run("jobs", "--json"))] == [other, *reversed(ids)]
    assert answer(run("jobs", "--json", "--state", "scheduled"))[0] == queue.status(other).as_dict()
    assert len(answer(run("jobs", "--json", "--queue", "sums"))) == 3
    assert len(answer(run("jobs", "--json", "--task", "cli.fail"))) == 1
    assert [job["id"] for job in answer(run("jobs", "--json", "--limit", "1", "--after", ids[1]))] == [ids[0]]
    table = run("jobs").splitlines()
    assert [line.split()[0] for line in table[1:]] == [other, *reversed(ids)]


def test_a_full_page_says_how_to_get_the_next_one(url: str, queue: JobQueue) -> None:
    handles = [queue.enqueue(add, i) for i in range(2)]
    assert f"--after {handles[0].id}" in CliRunner().invoke(app, ["jobs", "--limit", "2"]).stderr
    assert CliRunner().invoke(app, ["jobs", "--limit", "3"]).stderr == ""


def test_retry_and_cancel_change_one_job(run: Run, queue: JobQueue) -> None:
    job = queue.enqueue(add, 1)
    assert run("cancel", job.id) == f"job {job.id} is cancelled\n"
    assert job.status().state is JobState.CANCELLED
    assert answer(run("cancel", job.id, "--json", code=1)) == {"id": job.id, "outcome": "already_finished"}
    assert run("retry", job.id) == f"job {job.id} runs again\n"
    assert answer(run("cancel", job.id, "--no-interrupt", "--json")) == {"id": job.id, "outcome": "cancelled"}
    assert answer(run("retry", job.id, "--json")) == {"id": job.id}
    assert job.status().state is JobState.QUEUED


def test_purge_cancels_what_waits_in_one_queue(run: Run, queue: JobQueue) -> None:
    for i in range(3):
        queue.enqueue(add, i)
    kept = queue.enqueue(fail)
    assert run("purge", "sums") == "3 jobs cancelled\n"
    assert answer(run("purge", "sums", "--json")) == {"count": 0}
    assert kept.status().state is JobState.QUEUED


def test_dead_letters_are_listed_shown_and_retried(run: Run, queue: JobQueue) -> None:
    first, second = queue.enqueue(fail, f"one {'x' * 70}"), queue.enqueue(fail.using(queue="bulk"), "two")
    queue.worker("default", "bulk", tasks=[fail], burst=True).run()
    assert [job["id"] for job in answer(run("dead", "list", "--json"))] == [second.id, first.id]
    assert len(answer(run("dead", "list", "--json", "--queue", "bulk", "--error", "Abort"))) == 1
    assert answer(run("dead", "list", "--json", "--task", "cli.nothing")) == []
    assert f"Abort: one {'x' * 70}" in run("dead", "list")
    assert answer(run("dead", "show", first.id, "--json")) == first.status().as_dict()
    assert "Traceback" in run("dead", "show", first.id)
    assert answer(run("dead", "retry", first.id, "--json")) == {"id": first.id}
    assert run("dead", "retry-all", "--error", "KeyError") == "0 jobs run again\n"
    assert run("dead", "retry-all", "--queue", "bulk") == "1 job run again\n"
    assert {first.status().state, second.status().state} == {JobState.QUEUED}


def test_dead_letters_are_thrown_away(run: Run, queue: JobQueue) -> None:
    handles = [queue.enqueue(fail) for _ in range(3)]
    work(queue)
    assert answer(run("dead", "discard", handles[0].id, "--json")) == {"id": handles[0].id}
    assert handles[0].status().reason == "discarded"
    assert run("dead", "purge", "--older-than", "3600") == "0 jobs discarded\n"
    assert run("dead", "purge", "--queue", "sums") == "0 jobs discarded\n"
    assert answer(run("dead", "purge", "--json")) == {"count": 2}


def test_stats_count_by_queue_and_state(run: Run, queue: JobQueue) -> None:
    queue.enqueue(add, 1)
    work(queue)
    queue.enqueue(add, 1)
    seen = answer(run("stats", "--json"))
    assert seen == {**queue.stats().as_dict(), "queues": seen["queues"]}
    assert {name: seen["queues"]["sums"][name] for name in ("queued", "succeeded")} == {"queued": 1, "succeeded": 1}
    lines = [line.split() for line in run("stats").splitlines()]
    assert lines[0][:3] == ["queue", "scheduled", "queued"]
    assert [line[:6] for line in lines if line and line[0] == "sums"] == [["sums", "0", "1", "0", "0", "1"]]


def test_check_is_healthy_until_a_limit_is_passed(run: Run, queue: JobQueue) -> None:
    assert answer(run("check", "--json"))["ok"] is True
    queue.enqueue(add, 1)
    queue.enqueue(add, 2)
    assert answer(run("check", "--json", "--max-depth", "2", "--max-age", "3600"))["ok"] is True
    assert answer(run("check", "--json", "--max-depth", "1", code=1))["problems"] == [
        "queue sums has 2 queued jobs, more than 1"
    ]
    shown = run("check", "--max-age", "0", code=1)
    assert "is not healthy" in shown
    assert "problem: the oldest job of queue sums has waited" in shown


def test_setup_names_what_it_made(run: Run, url: str) -> None:
    assert answer(run("setup", "--queue", "a", "--queue", "b", "--json")) == {"queues": ["a", "b"]}
    assert run("setup", "--queue", "a") == f"{url} is set up for a\n"


def test_check_and_setup_take_the_url_as_their_first_word(run: Run, tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path}/other.db"
    assert run("setup", other, "--queue", "a") == f"{other} is set up for a\n"
    assert run("check", other).startswith(f"{other} is healthy\n")
    for words in (["setup", other, "no.such"], ["setup", "no.such"]):
        failed = CliRunner().invoke(app, words)
        assert (failed.exit_code, "no.such" in failed.stderr) == (2, True)


def test_backends_are_listed_with_capabilities_and_options(run: Run) -> None:
    found = answer(run("backends", "--json"))
    assert "persistent" in found["backends"]["sqlite"]["capabilities"]
    assert "persistent" not in found["backends"]["memory"]["capabilities"]
    assert found["backends"]["sqlite"]["options"]["synchronous"]["default"] == "normal"
    assert found["stores"]["sqlite"]["problem"] is None
    assert found["options"]["lease"]["default"] == 30
    assert "sqlite://" in run("backends")


def test_a_broken_adapter_is_listed_with_its_problem(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {name: EntryPoint(name, value, "queueport.backends") for name, value in BROKEN_ADAPTERS.items()}
    monkeypatch.setattr(connect, "backends", lambda: entries)
    found = answer(run("backends", "--json"))["backends"]
    assert found["lacking"]["problem"] == "ModuleNotFoundError: No module named 'no_such_package'"
    assert found["alien"]["problem"] == "TypeError: json:loads is no Driver or Transport"
    assert "no_such_package" in run("backends")


BROKEN_ADAPTERS = {"lacking": "no_such_package:Driver", "alien": "json:loads"}


def test_the_url_option_wins_over_the_environment(run: Run, tmp_path: Path) -> None:
    run("enqueue", "t", "--url", f"sqlite:///{tmp_path}/other.db", "--namespace", "n", "--id", "there")
    run("status", "there", code=1)
    run("status", "there", "--url", f"sqlite:///{tmp_path}/other.db?namespace=n")

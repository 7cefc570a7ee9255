"""The commands that inspect and change jobs, run in this process on SQLite. For authors of commands."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from queueport import Abort, JobQueue, JobState, Retry, connect, get_queue, task
from queueport.cli.app import app
from queueport.cli.output import brief
from queueport.errors import ConfigurationError
from queueport.job.limits import QueueLimit
from queueport.stats import WorkerStats
from queueport.tasks import registry

Run = Callable[..., str]


@task(name="cli.add", queue="sums")
def add(a: int, b: int = 0) -> int:
    return a + b


@task(name="cli.fail", retry=Retry(max_attempts=4))
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
    """Runs a command, checks its exit code, and returns its standard output."""

    def command(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == code, result.output
        return result.stdout

    return command


def work(queue: JobQueue) -> None:
    """Run all jobs that are due."""
    queue.worker(tasks=[add, fail], threads=2, burst=True).run()


def parsed(text: str) -> Any:
    """Assert that the text is one line of ASCII, and return the JSON document in it."""
    assert text.count("\n") == 1
    assert text.isascii()
    return json.loads(text)


def test_enqueue_prints_the_id_and_reads_arguments_as_json_or_text(run: Run, queue: JobQueue) -> None:
    arguments = ("1", "-2.5", "true", "null", '{"a": [1]}', '"7"', "plain text", "NaN", "", "ü")
    job = queue.status(run("enqueue", "--kw", "n=3", "--kw", "s=x=y", "other.task", "--", *arguments).strip())
    assert job.args == [1, -2.5, True, None, {"a": [1]}, "7", "plain text", "NaN", "", "ü"]
    assert job.kwargs == {"n": 3, "s": "x=y"}
    assert (job.task, job.queue, job.state) == ("other.task", "default", JobState.QUEUED)


def test_enqueue_passes_on_the_options_of_a_job(run: Run, queue: JobQueue) -> None:
    options = ("--queue", "bulk", "--delay", "60", "--priority", "5", "--key", "k", "--id", "mine", "--json")
    assert parsed(run("enqueue", "cli.elsewhere", *options)) == {"id": "mine", "created": True, "replaced": False}
    job = queue.status("mine")
    assert (job.queue, job.state, job.key) == ("bulk", JobState.SCHEDULED, "k")
    assert run("enqueue", "cli.elsewhere", "--key", "k") == "mine\n"
    assert parsed(run("enqueue", "cli.elsewhere", "--key", "k", "--json")) == {
        "id": "mine",
        "created": False,
        "replaced": False,
    }
    again = CliRunner().invoke(app, ["enqueue", "cli.elsewhere", "--key", "k"])
    assert "note: no job was added, because job mine holds the key 'k'\n" in again.stderr


def test_enqueue_passes_on_what_to_do_if_the_key_is_taken(run: Run, queue: JobQueue) -> None:
    key = ("cli.elsewhere", "--key", "k", "--delay", "60")
    first = run("enqueue", *key, "--unique-for", "5", "1").strip()
    assert queue.operations.read(first).options == {"unique_for": 5.0}
    replaced = CliRunner().invoke(app, ["enqueue", *key, "--key-mode", "replace", "--json", "2"])
    assert json.loads(replaced.stdout) == {"id": first, "created": False, "replaced": True}
    assert f"note: no job was added, but job {first} now has these arguments and options\n" in replaced.stderr
    assert queue.status(first).args == [2]
    rejected = CliRunner().invoke(app, ["enqueue", *key, "--key-mode", "reject"])
    assert (rejected.exit_code, first in rejected.stderr) == (1, True)


def test_enqueue_passes_on_time_timeout_and_headers(run: Run, queue: JobQueue) -> None:
    options = ("--run-at", "2050-01-31T09:00:00+01:00", "--timeout", "2.5", "--header", "user=ann", "--header", "a=b=c")
    job_id = run("enqueue", "cli.elsewhere", *options).strip()
    record = queue.operations.read(job_id)
    assert queue.status(job_id).run_at == datetime(2050, 1, 31, 8, tzinfo=UTC)
    assert (record.option("timeout", None), dict(record.headers)) == (2.5, {"user": "ann", "a": "b=c"})


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


def test_enqueue_says_that_it_does_not_know_the_task(
    url: str, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    for modules, where in ("", "a loaded module (name one by --module or QUEUEPORT_TASKS)"), ("json", "json"):
        monkeypatch.setenv("QUEUEPORT_TASKS", modules)
        result = CliRunner().invoke(app, ["enqueue", "of.another.service"])
        assert queue.status(result.stdout.strip()).task == "of.another.service"
        assert (
            result.stderr
            == f"note: 'of.another.service' is not declared in {where}, so its arguments were not checked, "
            "and the options `queue` and `expires` of its declaration are not used\n"
        )


def test_status_shows_one_job_for_people_and_for_scripts(run: Run, queue: JobQueue) -> None:
    done, dead = queue.enqueue(add, 1, b=2), queue.enqueue(fail, "[red]\x1b[31mred")
    work(queue)
    assert parsed(run("status", done.id, "--json")) == done.status().as_dict()
    shown = run("status", done.id)
    assert [word in shown for word in (done.id, "cli.add", "succeeded", '{"b": 2}')] == [True] * 4
    shown = run("status", dead.id)
    assert "Abort: [red]\\x1b[31mred" in shown
    assert "Traceback (most recent call last)" in shown
    assert "\x1b" not in shown


def test_a_limit_of_attempts_that_is_not_known_yet_is_not_shown(run: Run, queue: JobQueue) -> None:
    elsewhere = task.named("cli.elsewhere")
    unknown, given = queue.enqueue(elsewhere), queue.enqueue(elsewhere.using(retry=Retry(max_attempts=5)))
    declared = queue.enqueue(fail)
    assert [handle.status().max_attempts for handle in (unknown, given, declared)] == [None, 5, 4]
    assert parsed(run("status", unknown.id, "--json"))["max_attempts"] is None
    assert run("status", unknown.id).split("failures")[1].split()[0] == "0"
    assert " of " not in run("status", unknown.id)
    assert "0 of 5" in run("status", given.id)
    rows = {line.split()[0]: line.split()[4] for line in run("jobs").splitlines()[1:]}
    assert rows == {unknown.id: "0", given.id: "0/5", declared.id: "0/4"}


def test_a_job_that_has_begun_shows_the_limit_of_its_worker(queue: JobQueue) -> None:
    def moved() -> None: ...

    with registry.isolated():
        of_worker = task(name="cli.moved")(moved)
        handle = queue.enqueue(of_worker)
        queue.worker(tasks=[of_worker], burst=True).run()
    with registry.isolated():
        task(name="cli.moved", retry=Retry(max_attempts=9))(moved)
        assert handle.status().max_attempts == Retry().max_attempts


def test_follow_ends_with_the_job_and_reports_its_final_state(run: Run, queue: JobQueue) -> None:
    done, dead = queue.enqueue(add, 1), queue.enqueue(fail)
    work(queue)
    assert run("status", done.id, "--follow") == f"{done.id} succeeded\n"
    assert parsed(run("status", dead.id, "--follow", "--json", code=1))["state"] == "dead"


def test_jobs_are_listed_newest_first_by_filter_and_page_with_complete_ids(run: Run, queue: JobQueue) -> None:
    ids = [queue.enqueue(add.using(job_id=f"{i}-{'x' * 62}"), i).id for i in range(3)]
    other = queue.enqueue(fail.using(delay=60)).id
    assert [job["id"] for job in parsed(run("jobs", "--json"))] == [other, *reversed(ids)]
    assert parsed(run("jobs", "--json", "--state", "scheduled"))[0] == queue.status(other).as_dict()
    assert len(parsed(run("jobs", "--json", "--queue", "sums"))) == 3
    assert len(parsed(run("jobs", "--json", "--task", "cli.fail"))) == 1
    assert [job["id"] for job in parsed(run("jobs", "--json", "--limit", "1", "--after", ids[1]))] == [ids[0]]
    table = run("jobs").splitlines()
    assert [line.split()[0] for line in table[1:]] == [other, *reversed(ids)]


def test_a_full_page_names_the_option_for_the_next_page(url: str, queue: JobQueue) -> None:
    handles = [queue.enqueue(add, i) for i in range(2)]
    assert f"--after {handles[0].id}" in CliRunner().invoke(app, ["jobs", "--limit", "2"]).stderr
    assert CliRunner().invoke(app, ["jobs", "--limit", "3"]).stderr == ""


def test_retry_and_cancel_change_one_job(run: Run, queue: JobQueue) -> None:
    job = queue.enqueue(add, 1)
    assert run("cancel", job.id) == f"job {job.id} is cancelled\n"
    assert job.status().state is JobState.CANCELLED
    assert parsed(run("cancel", job.id, "--json", code=1)) == {"id": job.id, "outcome": "already_finished"}
    assert run("retry", job.id) == f"job {job.id} is queued\n"
    assert parsed(run("cancel", job.id, "--no-interrupt", "--json")) == {"id": job.id, "outcome": "cancelled"}
    assert parsed(run("retry", job.id, "--json")) == {"id": job.id}
    assert job.status().state is JobState.QUEUED


def test_purge_cancels_the_waiting_jobs_of_one_queue(run: Run, queue: JobQueue) -> None:
    for i in range(3):
        queue.enqueue(add, i)
    kept = queue.enqueue(fail)
    assert parsed(run("purge", "sums", "--dry-run", "--json"))["count"] == 3
    assert re.fullmatch(r"3 jobs would be cancelled: \w+, \w+, \w+\n", run("purge", "sums", "--dry-run"))
    assert run("purge", "sums") == "3 jobs cancelled\n"
    assert parsed(run("purge", "sums", "--json")) == {"count": 0}
    assert kept.status().state is JobState.QUEUED


def test_a_queue_is_limited_shown_and_let_free(run: Run, queue: JobQueue) -> None:
    assert run("limit", "sums", "--concurrency", "2", "--rate", "100/m", "--burst", "5") == "queue sums is limited\n"
    assert queue.queue_limits() == {"sums": QueueLimit(concurrency=2, rate="100/m", burst=5)}
    assert run("limits").split()[4:] == ["sums", "2", "100/m", "5"]
    assert "sums           2 at a time, 100/m, burst 5" in run("stats")
    given = {"concurrency": 2, "rate": "100/m", "burst": 5}
    assert parsed(run("stats", "--json"))["queues"]["sums"]["limit"] == given
    assert parsed(run("limits", "--json")) == [{"queue": "sums", "concurrency": 2, "rate": "100/m", "burst": 5}]
    assert run("limit", "sums", "--none") == "queue sums has no limit\n"
    assert queue.queue_limits() == {}
    assert "limited queue" not in run("stats")
    assert parsed(run("limits", "--json")) == []
    for words in (["limit", "sums"], ["limit", "sums", "--none", "--rate", "1/s"]):
        assert "give --concurrency or --rate" in CliRunner().invoke(app, words).stderr
    assert "write '100/m'" in CliRunner().invoke(app, ["limit", "sums", "--rate", "fast"]).stderr


def test_a_queue_is_paused_shown_and_resumed(run: Run, queue: JobQueue) -> None:
    assert run("pause", "sums") == "queue sums is paused; `queueport resume sums` starts its jobs again\n"
    assert "paused queue" in run("stats")
    given = {"queue": "sums", "paused": True, "reason": "by hand"}
    assert parsed(run("pause", "sums", "--reason", "by hand", "--json")) == given
    job = queue.enqueue(add, 1)
    work(queue)
    assert job.status().state is JobState.QUEUED
    shown = [line.split() for line in run("stats").splitlines()]
    assert any(line[:1] == ["sums"] and line[-2:] == ["by", "hand"] for line in shown)
    assert parsed(run("stats", "--json"))["queues"]["sums"]["paused"]["reason"] == "by hand"
    assert any("queue 'sums' has been paused since" in warning for warning in queue.check().warnings)
    assert run("resume", "sums") == "queue sums is resumed\n"
    work(queue)
    assert job.result(0) == 1
    assert run("resume", "sums") == "queue sums was not paused\n"
    assert parsed(run("resume", "sums", "--json")) == {"queue": "sums", "resumed": False}
    assert "paused" not in run("stats")
    assert "is not a queue name" in CliRunner().invoke(app, ["pause", "no name"]).stderr


def test_dead_letters_are_listed_shown_and_retried(run: Run, queue: JobQueue) -> None:
    first, second = queue.enqueue(fail, f"one {'x' * 70}"), queue.enqueue(fail.using(queue="bulk"), "two")
    queue.worker("default", "bulk", tasks=[fail], burst=True).run()
    assert [job["id"] for job in parsed(run("dead", "list", "--json"))] == [second.id, first.id]
    assert len(parsed(run("dead", "list", "--json", "--queue", "bulk", "--error", "Abort"))) == 1
    assert parsed(run("dead", "list", "--json", "--task", "cli.nothing")) == []
    assert f"Abort: one {'x' * 70}" in run("dead", "list")
    assert parsed(run("dead", "show", first.id, "--json")) == first.status().as_dict()
    assert "Traceback" in run("dead", "show", first.id)
    assert parsed(run("dead", "retry", first.id, "--json")) == {"id": first.id}
    assert run("dead", "retry-all", "--error", "KeyError") == "0 jobs queued again\n"
    assert run("dead", "retry-all", "--queue", "bulk") == "1 job queued again\n"
    assert {first.status().state, second.status().state} == {JobState.QUEUED}


def test_jobs_are_listed_by_filters(run: Run, queue: JobQueue) -> None:
    old, new = queue.enqueue(add.using(key="k", tags=["vip"]), 1), queue.enqueue(fail, "two")
    work(queue)
    assert "tags" in run("status", old.id)
    for filters, ids in {
        "--key k": [old.id],
        "--tag vip": [old.id],
        "--text two": [new.id],
        "--error Abort": [new.id],
        "--since 1h": [new.id, old.id],
        "--since 2020-01-31T08:00:00Z --until 0s": [new.id, old.id],
        "--until 2020-01-31": [],
    }.items():
        assert [job["id"] for job in parsed(run("jobs", "--json", *filters.split()))] == ids
        dead = [job["id"] for job in parsed(run("dead", "list", "--json", *filters.split()))]
        assert dead == [job_id for job_id in ids if job_id == new.id]
    assert "'yesterday' is not a time" in CliRunner().invoke(app, ["jobs", "--since", "yesterday"]).stderr


def test_a_job_is_enqueued_with_tags(run: Run, queue: JobQueue) -> None:
    job_id = run("enqueue", "cli.add", "1", "--tag", "vip", "--tag", "eu").strip()
    assert queue.status(job_id).tags == ["vip", "eu"]


def test_many_jobs_are_changed_by_filters(run: Run, queue: JobQueue) -> None:
    jobs = [queue.enqueue(fail.using(tags=["vip"], key=f"k{number}")) for number in range(12)]
    work(queue)
    newest = [job.id for job in reversed(jobs)][:10]
    for command, done in (("retry", "retried"), ("retry-all", "retried"), ("discard", "discarded")):
        shown = run("dead", command, "--tag", "vip", "--dry-run")
        assert shown == f"12 jobs would be {done}, such as {', '.join(newest)}\n"
    assert parsed(run("dead", "purge", "--dry-run", "--json", "--older-than", "3600")) == {"count": 0, "ids": []}
    assert parsed(run("dead", "retry", "--tag", "vip", "--dry-run", "--json")) == {"count": 12, "ids": newest}
    assert run("dead", "retry", "--key", "k0") == "1 job queued again\n"
    assert run("cancel", "--tag", "vip", "--dry-run") == f"1 job would be cancelled: {jobs[0].id}\n"
    assert run("cancel", "--tag", "vip") == "1 job cancelled or asked to stop\n"
    assert run("dead", "discard", "--key", "k1", "--yes") == "1 job discarded\n"
    assert parsed(run("dead", "purge", "--error", "Abort", "--tag", "vip", "--json")) == {"count": 10}


def test_a_batch_is_shown_retried_and_cancelled(run: Run, queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [add.job(1), fail.job(), fail.job()]
    batch = queue.batch(jobs, then=add.using(job_id="after").job(2), batch_id="night")
    work(queue)
    queue.enqueue(fail)  # belongs to no batch
    shown = run("batch", "show", "night")
    assert [line.split() for line in shown.splitlines()[:2]] == [["batch", "night"], ["ended", "no"]]
    assert ["dead", "2"] in [line.split() for line in shown.splitlines()]
    assert "after" in shown
    found = parsed(run("batch", "show", "night", "--json"))
    assert found["progress"] == batch.progress().as_dict()
    assert [job["id"] for job in found["follow_ups"]] == ["after"]
    dead = [jobs[2].id, jobs[1].id]
    assert [job["id"] for job in parsed(run("jobs", "--batch", "night", "--state", "dead", "--json"))] == dead
    assert run("batch", "retry", "night", "--dry-run") == f"2 jobs would be retried: {', '.join(dead)}\n"
    assert batch.progress().dead == 2
    assert run("batch", "retry", "night") == "2 jobs queued again\n"
    assert parsed(run("batch", "cancel", "night", "--dry-run", "--json")) == {"count": 2, "ids": dead}
    with monkeypatch.context() as patched:
        patched.setattr("queueport.cli.bulk._asks", lambda: True)
        refused = CliRunner().invoke(app, ["batch", "cancel", "night"], input="n\n")
    question = "cancel 2 jobs and 1 that follows the batch? [y/N]:"
    assert (refused.exit_code, refused.stderr) == (1, f"{question}error: nothing was changed\n")
    assert batch.progress().queued == 2
    assert run("batch", "cancel", "night") == "2 jobs cancelled or asked to stop\n"
    assert (batch.progress().cancelled, batch.follow_ups()[0].state) == (2, JobState.CANCELLED)


def test_cancelling_a_batch_with_dead_jobs_only_tells_of_the_job_that_follows(
    run: Run, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = queue.batch([fail.job()], then=add.job(2), batch_id="night")
    work(queue)
    assert run("batch", "cancel", "night", "--dry-run") == "0 jobs and 1 that follows the batch would be cancelled\n"
    with monkeypatch.context() as patched:
        patched.setattr("queueport.cli.bulk._asks", lambda: True)
        refused = CliRunner().invoke(app, ["batch", "cancel", "night"], input="n\n")
        assert "cancel 0 jobs and 1 that follows the batch? [y/N]" in refused.stderr
        assert batch.follow_ups()[0].state is JobState.SCHEDULED
        CliRunner().invoke(app, ["batch", "cancel", "night"], input="y\n")
    assert batch.follow_ups()[0].state is JobState.CANCELLED
    assert run("batch", "cancel", "night", "--dry-run") == "0 jobs would be cancelled\n"


@pytest.mark.parametrize("command", ["show", "retry", "cancel"])
def test_a_batch_that_does_not_exist_is_an_error(queue: JobQueue, command: str) -> None:
    result = CliRunner().invoke(app, ["batch", command, "night"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: no batch 'night' exists in this namespace")


def test_commands_that_change_many_jobs_ask_on_a_terminal(
    run: Run, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [queue.enqueue(add.using(tags=["vip"]), number) for number in range(2)]
    monkeypatch.setattr("queueport.cli.bulk._asks", lambda: True)

    def answer(text: str, *arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, arguments, input=text)
        return result.exit_code, result.stderr

    assert answer("n\n", "cancel", "--tag", "vip") == (1, "cancel 2 jobs? [y/N]:error: nothing was changed\n")
    assert {job.status().state for job in jobs} == {JobState.QUEUED}
    assert answer("", "dead", "purge")[0] == 0  # there are none, so there is nothing to ask
    assert answer("y\n", "cancel", "--tag", "vip") == (0, "cancel 2 jobs? [y/N]:")
    assert {job.status().state for job in jobs} == {JobState.CANCELLED}
    queue.dead_letters.add(fail.job(), "no")
    assert answer("", "dead", "purge", "--yes") == (0, "")
    job = queue.enqueue(add, 1)
    assert answer("n\n", "purge", "sums") == (1, "cancel 1 job? [y/N]:error: nothing was changed\n")
    assert job.status().state is JobState.QUEUED
    assert answer("", "purge", "sums", "--yes") == (0, "")
    assert job.status().state is JobState.CANCELLED


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("cancel", "give the id of a job, or at least one filter, such as --queue NAME"),
        ("cancel j1 --tag vip", "cannot be combined"),
        ("cancel --tag vip --state dead", "dead jobs have ended"),
        ("dead retry", "run `queueport dead retry-all`"),
        ("dead discard", "run `queueport dead purge`"),
        ("dead retry j1 --queue q", "cannot be combined"),
        ("dead discard j1 --since 1h", "cannot be combined"),
        ("dead retry j1 --dry-run", "cannot be combined"),
        ("cancel j1 --rate 5", "cannot be combined"),
        ("dead discard j1 --rate 5", "cannot be combined"),
        ("dead purge --rate 0", "is not a number of jobs a second"),
        ("purge default --rate nan", "is not a number of jobs a second"),
    ],
)
def test_an_id_or_filters_are_needed(queue: JobQueue, arguments: str, text: str) -> None:
    queue.enqueue(add.using(job_id="j1"), 1)
    result = CliRunner().invoke(app, arguments.split())
    assert result.exit_code == 2
    assert text in result.stderr
    assert result.stderr.count("\n") == 1


def test_dead_letters_are_discarded(run: Run, queue: JobQueue) -> None:
    handles = [queue.enqueue(fail) for _ in range(3)]
    work(queue)
    assert parsed(run("dead", "discard", handles[0].id, "--json")) == {"id": handles[0].id}
    assert handles[0].status().reason == "discarded"
    assert run("dead", "purge", "--older-than", "1h") == "0 jobs discarded\n"
    assert run("dead", "purge", "--queue", "sums") == "0 jobs discarded\n"
    assert parsed(run("dead", "purge", "--json")) == {"count": 2}


def test_stats_show_the_number_of_jobs_by_queue_and_state(run: Run, queue: JobQueue) -> None:
    queue.enqueue(add, 1)
    work(queue)
    queue.enqueue(add, 1)
    seen = parsed(run("stats", "--json"))
    moving = {name: seen[name] for name in ("queues", "last_minute", "last_hour")}
    assert seen == {**queue.stats().as_dict(), **moving}
    assert [moving[last]["succeeded"] for last in ("last_minute", "last_hour")] == [1, 1]
    assert {name: seen["queues"]["sums"][name] for name in ("queued", "succeeded")} == {"queued": 1, "succeeded": 1}
    lines = [line.split() for line in run("stats").splitlines()]
    assert lines[0][:3] == ["queue", "scheduled", "queued"]
    assert [line[:6] for line in lines if line and line[0] == "sums"] == [
        ["sums", "0", "1", "0", "0", "1"],
        ["sums", "minute", "2", "1", "0", "0"],
        ["sums", "hour", "2", "1", "0", "0"],
    ]
    assert max(map(len, run("stats").splitlines())) <= 80


def test_history_shows_points_with_percentiles(run: Run, queue: JobQueue) -> None:
    queue.enqueue(add, 1)
    queue.enqueue(fail)
    work(queue)
    seen = parsed(run("history", "--queue", "sums", "--since", "2h", "--step", "10m", "--json"))
    assert [sum(point[name] for point in seen) for name in ("enqueued", "succeeded", "dead")] == [1, 1, 0]
    assert len(seen) in (12, 13)
    assert {point["run"]["count"] for point in seen} == {0, 1}
    shown = run("history", "--task", "cli.fail", "--since", "1h", "--step", "1h").splitlines()
    assert shown[0].split()[:5] == ["time", "enqueued", "succeeded", "failed", "dead"]
    numbers = [line.split() for line in shown[1:]]
    assert [sum(int(line[place]) for line in numbers) for place in (1, 2, 3, 4)] == [1, 0, 1, 1]
    assert numbers[-1][-1] == "ms"
    assert max(map(len, shown)) <= 80
    assert "--step" in CliRunner().invoke(app, ["history", "--step", "soon"]).output
    assert CliRunner().invoke(app, ["history", "--step", "90s"]).exit_code == 2


def test_check_is_healthy_until_a_limit_is_exceeded(run: Run, queue: JobQueue) -> None:
    assert parsed(run("check", "--json"))["ok"] is True
    queue.enqueue(add, 1)
    queue.enqueue(add, 2)
    waiting = "2 jobs wait in queue 'sums', and no live worker takes jobs from it: start one"
    assert parsed(run("check", "--json", code=1))["problems"] == [waiting]
    health = queue.check()
    assert (health.ok, health.warnings) == (True, [waiting])
    live = WorkerStats("pod-1-4711-abcd", ("sums",), ("cli.add",), datetime.now(UTC))
    queue.operations.store.announce(live, 60.0)
    assert parsed(run("check", "--json", "--max-depth", "2", "--max-age", "3600"))["ok"] is True
    assert parsed(run("check", "--json", "--max-depth", "1", code=1))["problems"] == [
        "queue sums has 2 queued jobs, more than 1"
    ]
    shown = run("check", "--max-age", "0", code=1)
    assert "is not healthy" in shown
    assert "problem: the oldest job in queue sums has waited" in shown
    limits = ("--max-depth", "0", "--max-depth", "sums=2", "--max-dead", "0", "--min-workers", "sums=1")
    assert parsed(run("check", "--json", *limits))["ok"] is True
    queue.dead_letters.add(fail.job(), "no")
    queue.enqueue(fail.using(queue="bad"))
    queue.worker("bad", tasks=[fail], burst=True).run()
    assert parsed(run("check", "--json", "--max-failure-rate", "1"))["ok"] is True
    assert parsed(run("check", "--json", "--max-failure-rate", "bad=0.5", code=1))["problems"] == [
        "1 of 1 attempts in queue bad failed in the last hour, more than 50%"
    ]
    assert parsed(run("check", "--json", *limits, "--max-dead", "bad=1", "--min-workers", "2", code=1))["problems"] == [
        "queue default has 1 dead job, more than 0",
        "there is 1 live worker, fewer than 2",
    ]


def test_check_reports_exceeded_limits_together_with_other_problems(run: Run, queue: JobQueue) -> None:
    queue.enqueue(add, 1)
    queue.dead_letters.add(fail.job(), "no")
    found = parsed(run("check", "--json", "--max-dead", "0", "--min-workers", "1", code=1))
    assert found["problems"] == [
        "1 job waits in queue 'sums', and no live worker takes jobs from it: start one",
        "queue default has 1 dead job, more than 0",
        "there are no live workers, fewer than 1",
    ]


def test_the_name_of_a_queue_that_nothing_uses_is_reported(run: Run, queue: JobQueue) -> None:
    def note(*arguments: str) -> str:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.stderr
        return result.stderr

    assert note("pause", "later") == "note: queue 'later' has no jobs and no live worker\n"
    queue.enqueue(add, 1)
    queue.operations.store.announce(WorkerStats("w", ("sums", "mails"), ("t",), datetime.now(UTC)), 60.0)
    unused = "queue 'sumz' has no jobs and no live worker; did you mean 'sums'?"
    assert parsed(run("check", "--json", "--max-dead", "sumz=0"))["warnings"][-1] == unused
    assert parsed(run("check", "--json", "--max-dead", "sums=0", "--min-workers", "mails=1"))["warnings"] == [
        warning for warning in queue.check().warnings if "sumz" not in warning
    ]
    assert note("pause", "sumz") == note("purge", "sumz") == f"note: {unused}\n"
    assert note("pause", "sums") == note("purge", "mails") == ""


def test_lengths_of_time_may_have_a_unit(run: Run, queue: JobQueue) -> None:
    times = ["--delay", "2h", "--timeout", "1.5m", "--unique-for", "90s", "--key", "k"]
    job = queue.status(parsed(run("enqueue", "cli.add", "1", *times, "--json"))["id"])
    assert job.run_at is not None
    assert 7000 < (job.run_at - datetime.now(UTC)).total_seconds() <= 7200
    record = queue.operations.store.get([job.id])[0]
    assert record is not None
    assert (record.options["timeout"], record.options["unique_for"]) == (90, 90)
    assert parsed(run("check", "--json", "--max-age", "5m", "--max-age", "sums=1h", code=1))["ok"] is False
    failed = CliRunner().invoke(app, ["enqueue", "cli.add", "1", "--delay", "soon"])
    assert failed.exit_code == 2
    assert "such as 30s, 15m, 12h or 7d" in failed.stderr


def test_numbers_of_stats_are_written_for_people(run: Run, queue: JobQueue) -> None:
    job = queue.enqueue(fail)
    work(queue)
    job.retry()
    work(queue)
    live = WorkerStats("w", ("default",), ("cli.fail",), datetime.now(UTC))
    queue.operations.store.announce(live, 60.0)
    assert run("stats").splitlines()[-1] == "jobs ended 2 times, 2 attempts failed, 1 worker live"
    shown = [brief(seconds) for seconds in (None, 0.00123, 0.32, 0.9996, 1.34, 99.6, 100)]
    assert shown == ["", "1.2 ms", "320 ms", "1 s", "1.3 s", "100 s", "2 min"]


@pytest.mark.parametrize("limit", ["--max-depth=many", "--max-depth=sums=", "--max-age=a b=1", "--max-dead=-1"])
def test_a_wrong_limit_of_check_is_refused(url: str, limit: str) -> None:
    failed = CliRunner().invoke(app, ["check", limit])
    assert failed.exit_code == 2
    assert isinstance(failed.exception, SystemExit)


def test_check_finds_a_worker_by_its_name_or_host(run: Run, queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "pod-1")
    name = "pod-1-4711-abcd"
    assert run("check", "--this-host", code=1) == "no live worker runs on pod-1; alive: none\n"
    queue.operations.store.announce(WorkerStats(name, ("sums",), (), datetime.now(UTC)), 60.0)
    assert run("check", "--this-host") == f"alive: {name}\n"
    assert parsed(run("check", "--worker", name, "--json")) == {"ok": True, "workers": [name]}
    assert run("check", "--worker", "other", code=1) == f"no live worker is named other; alive: {name}\n"
    monkeypatch.setattr(socket, "gethostname", lambda: "pod")
    assert parsed(run("check", "--this-host", "--json", code=1)) == {"ok": False, "workers": []}
    run("check", "--this-host", "--max-depth", "1", code=2)


def test_setup_prints_the_queues_that_it_created(run: Run, url: str) -> None:
    assert parsed(run("setup", "--queue", "a", "--queue", "b", "--json")) == {"queues": ["a", "b"]}
    assert run("setup", "--queue", "a") == f"{url} is set up for a\n"


def test_check_and_setup_accept_the_url_as_first_argument(run: Run, tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path}/other.db"
    assert run("setup", other, "--queue", "a") == f"{other} is set up for a\n"
    assert run("check", other).startswith(f"{other} is healthy\n")
    for arguments in (["setup", other, "no.such"], ["setup", "no.such"]):
        failed = CliRunner().invoke(app, arguments)
        assert (failed.exit_code, "no.such" in failed.stderr) == (2, True)


def test_backends_are_listed_with_capabilities_and_options(run: Run) -> None:
    found = parsed(run("backends", "--json"))
    assert "persistent" in found["backends"]["sqlite"]["capabilities"]
    assert "persistent" not in found["backends"]["memory"]["capabilities"]
    assert found["backends"]["sqlite"]["options"]["synchronous"]["default"] == "normal"
    assert found["stores"]["sqlite"]["problem"] is None
    assert found["options"]["lease"]["default"] == 30
    assert "sqlite://" in run("backends")


def test_only_packages_that_are_missing_are_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def entries(**values: str) -> Callable[[], dict[str, EntryPoint]]:
        return lambda: {
            scheme: EntryPoint(scheme, values.get(scheme.replace("+", "_"), driver), "queueport.backends")
            for scheme in ("amqp", "celery+redis", "dramatiq+amqp", "dramatiq+redis", "nats", "rq+redis", "sqs")
        }

    driver = "queueport.stores.driver:MemoryDriver"

    def named() -> list[str]:
        return [line for line in run("backends").splitlines() if line.startswith("not installed")]

    monkeypatch.setattr(connect, "backends", entries())
    assert named() == []
    monkeypatch.setattr(connect, "backends", entries(dramatiq_amqp="no_such_package:Driver"))
    assert named() == ["not installed: pip install 'queueport-dramatiq[rabbitmq]'"]


def test_a_broken_adapter_is_listed_with_its_problem(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {name: EntryPoint(name, value, "queueport.backends") for name, value in BROKEN_ADAPTERS.items()}
    monkeypatch.setattr(connect, "backends", lambda: entries)
    found = parsed(run("backends", "--json"))["backends"]
    assert found["lacking"]["problem"] == "ModuleNotFoundError: No module named 'no_such_package'"
    assert found["alien"]["problem"] == "TypeError: json:loads is not a subclass of Driver"
    assert "no_such_package" in run("backends")
    with pytest.raises(ConfigurationError, match=r"install the package that provides no_such_package$"):
        connect.get_queue("lacking://")


BROKEN_ADAPTERS = {"lacking": "no_such_package:Driver", "alien": "json:loads"}


def test_the_url_option_wins_over_the_environment(run: Run, tmp_path: Path) -> None:
    run("enqueue", "t", "--url", f"sqlite:///{tmp_path}/other.db", "--namespace", "n", "--id", "there")
    run("status", "there", code=1)
    run("status", "there", "--url", f"sqlite:///{tmp_path}/other.db?namespace=n")

"""Errors of the command line: one line on standard error and the right exit code. For authors of commands."""

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.metadata import entry_points
from pathlib import Path
from unittest.mock import Mock

import pytest
from typer.testing import CliRunner

from queueport import connect, get_queue
from queueport.cli.app import app
from queueport.errors import BackendUnavailable
from queueport.stores.sqlite.store import SqliteStore

GROUPS = ("queueport.backends", "queueport.stores")

INVALID = [
    (("nothing",), "No such command 'nothing'; see `queueport --help`"),
    (("jobs", "--zzz"), "No such option: --zzz; see `queueport jobs --help`"),
    (("status",), "Missing argument 'ID'; see `queueport status --help`"),
    (("jobs", "--state", "lost"), "'scheduled', 'queued', 'running', 'retrying', 'succeeded', 'dead', 'cancelled'"),
    (("jobs", "--limit", "0"), "Invalid value for '--limit'"),
    (("enqueue", "t", "--delay", "soon"), "Invalid value for '--delay'"),
    (("enqueue", "t", "--delay", "-1"), "Invalid value for '--delay': '-1' is not a number of seconds, 0 or more"),
    (("enqueue", "t", "--priority", "11"), "priority must be"),
    (("enqueue", "t", "--id", "a b"), "--id must be 1 to 64 letters, digits, _ or -, not 'a b'"),
    (("enqueue", "t", "--queue", "a b"), "queue must be"),
    (("enqueue", "a task"), "a task's name must be"),
    (("enqueue", "t", '{"a":'), "the argument '{\"a\":' is not valid JSON"),
    (("enqueue", "t", "[" * 100_000), "is not valid JSON (maximum recursion depth exceeded"),
    (("enqueue", "t", "--kw", "a"), "--kw 'a' is not of the form NAME=VALUE: write for example --kw count=3"),
    (("enqueue", "t", "--kw", "1=2"), "--kw '1=2' is not of the form NAME=VALUE"),
    (("enqueue", "t", "1e999"), "argument"),
    (
        ("enqueue", "t", "--url", "memory://"),
        "memory keeps jobs in one process, and this process ends with the command",
    ),
    (("limit", "q", "--rate", "1/s", "--url", "memory://"), "memory keeps jobs in one process"),
    (("pause", "q", "--url", "memory://"), "memory keeps jobs in one process"),
    (("schedules", "add", "n", "t", "--every", "60", "--url", "memory://"), "memory keeps jobs in one process"),
    (("limit", "q", "--burst", "5"), "--burst has no effect without a rate: give --rate too, or leave it out"),
    (("schedules", "add", "n", "t"), "give either --every SECONDS or --cron EXPRESSION"),
    (("schedules", "add", "n", "t", "--every", "60", "--cron", "* * * * *"), "give either --every SECONDS or --cron"),
    (("worker", "--threads", "0", "m"), "Invalid value for '--threads'"),
    (("worker", "--grace", "nan", "queueport.testing.tasks"), "grace"),
    (("worker",), "no task module is given: write `queueport worker app.tasks`, or set QUEUEPORT_TASKS"),
    (("stats", "--url", "jobs.db"), "'jobs.db' is not a URL: write one such as 'sqlite:///jobs.db'"),
    (("stats", "--url", "nosuch://"), "no backend for nosuch:// is installed"),
    (("stats", "--url", "sqlite+file:///a"), "no backend for sqlite+file:// is installed: use sqlite://"),
    (("stats", "--url", "celery+redis://h"), "run `pip install queueport-celery`"),
    (("stats", "--url", "sqlite:///x.db?leese=3"), "has no option 'leese'; did you mean 'lease'?"),
    (("stats", "--url", "sqlite:///x.db?lease=long"), "option lease='long' is wrong"),
    (
        ("stats", "--url", "sqlite:///x.db", "--store", "memory://"),
        "sqlite keeps its own records: name no job store, neither in the URL nor by store= or --store",
    ),
    (
        ("stats", "--namespace", "a-b"),
        "namespace='a-b' is wrong: use 1 to 32 letters, digits and '_', and do not begin with a digit",
    ),
    (("jobs", "--state", "deaad"), "Invalid value for '--state': 'deaad' is not one of 'scheduled'"),
    (("enqueue", "t", "-1", "2"), "No such option: -1; write `--` before arguments that begin with a dash"),
    (("enqueue", "t", "--key-mode", "reject"), "--key-mode has no effect without a key: pass --key, or leave it out"),
    (("enqueue", "t", "--delay", "1d", "--run-at", "2030-01-01T00:00:00Z"), "--delay and --run-at cannot be combined"),
    (("jobs", "--text", ""), "--text '' cannot be searched for: pass text, or leave it out for jobs with any text"),
    (("history", "--since", "60d"), "--since 60d is not within the history: pass up to 30 days\n"),
    (("history", "--step", "90s"), "--step 90s cannot be used: pass a multiple of 60 seconds (minutes)"),
    (("check", "--max-depth=-1"), "--max-depth -1 is not a limit: pass an integer of 0 or more"),
    (("stats", "rq+redis://:secret@host"), "unexpected extra argument"),
]

FAILED = [
    (("status", "never"), "there is no job 'never'"),
    (("status", "never", "--follow"), "there is no job 'never'"),
    (("retry", "never"), "there is no job 'never'"),
    (("cancel", "never"), "there is no job 'never'"),
    (("dead", "show", "there"), "job 'there' is not in the dead letters"),
    (("dead", "retry", "there"), "job 'there' is not in the dead letters"),
    (("dead", "discard", "there"), "job 'there' is not in the dead letters"),
    (("retry", "there"), "job there is queued: retry() takes dead, cancelled, scheduled or retrying"),
    (("enqueue", "t", "--id", "there"), "a job with the id 'there' exists already: choose another --id, unless"),
    (("jobs", "--url", "sqlite:////nowhere/jobs.db"), "make the folder /nowhere first"),
    (("jobs", "--url", f"sqlite:///{'a' * 300}"), "its name is too long"),
]

BROKEN_MODULES = {
    "raise ValueError('no\\nway')": r"ValueError: no\nway (FILE:1)",
    "import json\njson.loads('x')": "JSONDecodeError: Expecting value: line 1 column 1 (char 0) (FILE:2)",
    "import no_such_package": "ModuleNotFoundError: No module named 'no_such_package' (FILE:1)",
    "from queueport import nothing": "ImportError: cannot import name 'nothing' from 'queueport'",
    "x = 1\ndef f(:": "SyntaxError: invalid syntax (FILE:2)",
    "import sys\nsys.exit(0)": "it called exit() (FILE:2)",
    "import sys\nsys.exit('set SECRET_KEY')": "it called exit(): set SECRET_KEY (FILE:2)",
    "from queueport import Retry\nRetry(max_attempts=0)": (
        "max_attempts must be a whole number of at least 1, not 0 (FILE:2)"
    ),
    "from queueport import task\n@task(quue='a')\ndef f() -> None: ...": "there is no option 'quue' here",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a queue of two jobs; no adapter is installed."""
    built_in = {group: [e for e in entry_points(group=group) if e.module.startswith("queueport.")] for group in GROUPS}
    monkeypatch.setattr(connect, "_installed", lambda group: {entry.name: entry for entry in built_in[group]})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # restore the path, because the command changes it
    monkeypatch.setenv("QUEUEPORT_URL", "sqlite:///jobs.db")
    monkeypatch.delenv("QUEUEPORT_TASKS", raising=False)
    with get_queue("sqlite:///jobs.db") as queue:
        queue.enqueue("t")
        CliRunner().invoke(app, ["enqueue", "t", "--id", "there"])
    return tmp_path


def refused(*arguments: str, code: int) -> str:
    """Run a command that must fail in this process; return its line on standard error."""
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    return sentence(result.stderr)


def sentence(text: str) -> str:
    """Assert that the text is one line with an error, without a traceback or password, and return the text."""
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    assert "Traceback" not in text
    assert "secret" not in text
    return text


def test_a_job_that_may_run_can_be_enqueued_again_by_the_id_in_the_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(SqliteStore, "insert", Mock(side_effect=BackendUnavailable("the disk did not answer")))
        text = refused("enqueue", "t", code=1)
    told = re.search(
        r"job (\w+) may or may not run: .*; to enqueue it again, repeat the command with --id (\w+)$", text.strip()
    )
    assert told is not None
    assert told[1] == told[2]
    assert CliRunner().invoke(app, ["enqueue", "t", "--id", told[2]]).stdout == f"{told[2]}\n"
    assert "exists already" in refused("enqueue", "t", "--id", told[2], code=1)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "queueport", *arguments], check=False, capture_output=True, text=True, timeout=30
    )


@pytest.mark.parametrize(("arguments", "message"), INVALID, ids=[" ".join(arguments) for arguments, _ in INVALID])
def test_invalid_input_has_exit_code_2(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(*arguments, code=2)


@pytest.mark.parametrize(("arguments", "message"), FAILED, ids=[" ".join(arguments) for arguments, _ in FAILED])
def test_a_failed_operation_has_exit_code_1(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(*arguments, code=1)


def test_the_error_for_a_missing_url_says_how_to_give_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUEPORT_URL", "")
    assert "use --url sqlite:///jobs.db, or set QUEUEPORT_URL" in refused("stats", code=2)


def test_passwords_are_never_printed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUEPORT_STORE", "redis+sentinel://:secret@host/service?sentinel_password=secret")
    assert "rq://:***@host" in refused("stats", "--url", "rq://:secret@host?lease=x", code=2)
    refused("stats", "--url", "://:secret@host", code=2)
    refused("worker", "--url", "dramatiq+amqp://user:secret@host", "t", code=2)


def test_invalid_utf8_is_refused_and_characters_that_the_terminal_lacks_are_escaped(folder: Path) -> None:
    for arguments in (("status", "\udcff"), ("jobs", "--queue", "\udcff"), ("enqueue", "t", "\udcff")):
        assert "the argument '\\udcff' is not valid UTF-8: encode it as UTF-8" in refused(*arguments, code=2)
    result = CliRunner(charset="ascii").invoke(app, ["enqueue", "t", "€", "--id", "euro"])
    assert result.exit_code == 0
    assert '["\\u20ac"]' in CliRunner(charset="ascii").invoke(app, ["status", "euro"]).stdout


def test_a_file_that_is_not_a_database_is_reported_in_one_line_and_not_changed(folder: Path) -> None:
    (folder / "notes.txt").write_text("not a database, but somebody's notes" * 100)
    for arguments in (("jobs",), ("stats",), ("enqueue", "t"), ("purge", "q"), ("setup",)):
        assert "notes.txt is not a database" in refused(*arguments, "--url", "sqlite:///notes.txt", code=1)
    checked = CliRunner().invoke(app, ["check", "--url", "sqlite:///notes.txt"])
    assert (checked.exit_code, checked.stderr) == (1, "")
    assert "problem: the SQLite database" in checked.stdout
    assert (folder / "notes.txt").read_text().startswith("not a database")


def test_a_damaged_row_is_reported_in_one_line(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "jobs.db")) as database:
        database.execute("UPDATE queueport_jobs SET payload = x'ff' WHERE id = 'there'")
        database.commit()
    assert "job there" in refused("status", "there", code=1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write to a read-only file")
def test_a_read_only_database_is_reported_in_one_line(folder: Path) -> None:
    (folder / "jobs.db").chmod(0o400)
    assert "cannot be written" in refused("enqueue", "t", code=1)


def test_commands_work_in_a_folder_that_was_deleted(folder: Path) -> None:
    command = 'mkdir gone && cd gone && rmdir ../gone && exec "$0" -m queueport "$@"'
    found = {}
    for url in (f"sqlite:///{folder}/jobs.db", "sqlite:///jobs.db"):
        done = ["sh", "-c", command, sys.executable, "worker", "json", "--url", url]
        found[url] = subprocess.run(done, check=False, capture_output=True, text=True, timeout=30, cwd=folder)
    first, second = found.values()
    assert "no task is declared in json" in sentence(first.stderr)
    assert "the working directory was deleted: write an absolute path" in sentence(second.stderr)


def test_a_huge_argument_is_reported_in_one_short_line(folder: Path) -> None:
    message = refused("enqueue", "t", "x" * (17 * 2**20), code=2)
    assert "the arguments of t have 178" in message
    assert len(message) < 300


def test_an_argument_of_the_wrong_type_is_named(folder: Path) -> None:
    (folder / "cli_typed.py").write_text("from queueport import task\n@task\ndef f(count: int) -> None: ...\n")
    message = refused("enqueue", "cli_typed.f", "many", "--module", "cli_typed", code=2)
    assert "task 'cli_typed.f': argument 'count'" in message
    assert "did you mean 'cli_typed.f'?" in refused("enqueue", "cli_typed.g", "1", "--module", "cli_typed", code=2)


@pytest.mark.parametrize(("code", "message"), BROKEN_MODULES.items(), ids=[c.splitlines()[-1] for c in BROKEN_MODULES])
def test_an_error_in_a_module_is_reported_with_module_reason_and_line(folder: Path, code: str, message: str) -> None:
    (folder / "broken.py").write_text(code)
    error = refused("worker", "broken", code=2)
    assert "error: module 'broken' cannot be imported: " in error
    assert message.replace("FILE", str(folder / "broken.py")) in error


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such", "there is no module 'no_such': change to its folder, or add the folder to PYTHONPATH"),
        ("no_such.tasks", "there is no module 'no_such.tasks', because there is no 'no_such'"),
        ("app/tasks.py", "'app/tasks.py' is not a valid module name: write it as in `import`, such as app.tasks"),
        ("tasks.py", "such as tasks"),
        ("tasks:send", "such as tasks"),
    ],
)
def test_a_missing_module_is_named(folder: Path, name: str, message: str) -> None:
    assert message in refused("worker", name, code=2)


def test_a_module_without_tasks_is_named(folder: Path) -> None:
    result = run("worker", "json")
    assert (result.returncode, result.stdout) == (2, "")
    assert "no task is declared in json: decorate a function with @task" in sentence(result.stderr)


def test_a_task_whose_annotation_is_unknown_is_named(folder: Path) -> None:
    (folder / "annotated.py").write_text("from queueport import task\n@task\ndef f(a: 'Nothing') -> int: ...\n")
    result = run("worker", "annotated")
    assert "the annotation 'Nothing' of parameter 'a'" in sentence(result.stderr.splitlines(keepends=True)[-1])
    assert result.returncode == 2

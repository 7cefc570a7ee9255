"""What the command line says to bad input: one sentence, the right exit code. For those who change `queueport.cli`."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from typer.testing import CliRunner

from queueport import connect, get_queue
from queueport.cli.app import app

GROUPS = ("queueport.backends", "queueport.stores")

WRONG_WORDS = [
    (("nothing",), "No such command 'nothing'; `queueport --help` tells more"),
    (("jobs", "--nothing"), "No such option: --nothing; `queueport jobs --help` tells more"),
    (("status",), "Missing argument 'ID'; `queueport status --help` tells more"),
    (("jobs", "--state", "lost"), "'scheduled', 'queued', 'running', 'retrying', 'succeeded', 'dead', 'cancelled'"),
    (("jobs", "--limit", "0"), "Invalid value for '--limit'"),
    (("enqueue", "t", "--delay", "soon"), "Invalid value for '--delay'"),
    (("enqueue", "t", "--delay", "-1"), "delay must be a number of seconds from 0 to a century, not -1.0"),
    (("enqueue", "t", "--priority", "11"), "priority must be"),
    (("enqueue", "t", "--id", "a b"), "job_id must be 1 to 64 letters, digits, _ or -, not 'a b'"),
    (("enqueue", "t", "--queue", "a b"), "queue must be"),
    (("enqueue", "a task"), "a task's name must be"),
    (("enqueue", "t", '{"a":'), "the argument '{\"a\":' is no JSON"),
    (("enqueue", "t", "--kw", "a"), "--kw 'a' is no NAME=VALUE: write it as --kw count=3"),
    (("enqueue", "t", "--kw", "1=2"), "--kw '1=2' is no NAME=VALUE"),
    (("enqueue", "t", "1e999"), "argument"),
    (("enqueue", "t", "--url", "memory://"), "memory lives in one process, and this one ends here"),
    (("worker", "--threads", "0", "m"), "Invalid value for '--threads'"),
    (("worker", "--grace", "nan", "queueport.testing.tasks"), "grace"),
    (("worker",), "no module is named: write `queueport worker app.tasks`, or set QUEUEPORT_TASKS"),
    (("stats", "--url", "jobs.db"), "'jobs.db' is not a URL: write one such as 'sqlite:///jobs.db'"),
    (("stats", "--url", "nosuch://"), "no backend for nosuch:// is installed"),
    (("stats", "--url", "sqlite+file:///a"), "no backend for sqlite+file:// is installed: there are sqlite://"),
    (("stats", "--url", "celery+redis://h"), "run `pip install queueport-celery`"),
    (("stats", "--url", "sqlite:///x.db?leese=3"), "has no option 'leese'; did you mean 'lease'?"),
    (("stats", "--url", "sqlite:///x.db?lease=long"), "option lease='long' is wrong"),
    (("stats", "--url", "sqlite:///x.db", "--store", "memory://"), "sqlite keeps its own records: leave out store="),
    (("stats", "--namespace", "a b"), "namespace='a b' is wrong"),
    (("stats", "rq+redis://:secret@host"), "unexpected extra argument"),
]

REFUSED = [
    (("status", "never"), "there is no job 'never'"),
    (("status", "never", "--follow"), "there is no job 'never'"),
    (("retry", "never"), "there is no job 'never'"),
    (("cancel", "never"), "there is no job 'never'"),
    (("dead", "show", "there"), "there is no dead job 'there'"),
    (("dead", "retry", "there"), "there is no dead job 'there'"),
    (("dead", "discard", "there"), "there is no dead job 'there'"),
    (("retry", "there"), "job there is queued: retry() takes dead, cancelled, scheduled or retrying"),
    (("enqueue", "t", "--id", "there"), "there"),
    (("jobs", "--url", "sqlite:////nowhere/jobs.db"), "make the folder /nowhere first"),
]

BROKEN_MODULES = {
    "raise ValueError('no\\nway')": r"ValueError: no\nway (FILE:1)",
    "import json\njson.loads('x')": "JSONDecodeError: Expecting value: line 1 column 1 (char 0) (FILE:2)",
    "import no_such_package": "ModuleNotFoundError: No module named 'no_such_package' (FILE:1)",
    "from queueport import nothing": "ImportError: cannot import name 'nothing' from 'queueport'",
    "x = 1\ndef f(:": "SyntaxError: invalid syntax (FILE:2)",
    "import sys\nsys.exit(0)": "it ended the process (FILE:2)",
    "from queueport import Retry\nRetry(max_attempts=0)": "max_attempts must be a whole number from 1, not 0 (FILE:2)",
    "from queueport import task\n@task(quue='a')\ndef f() -> None: ...": "there is no option 'quue' here",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a queue that has one job in it, where no adapter is installed."""
    built_in = {group: [e for e in entry_points(group=group) if e.module.startswith("queueport.")] for group in GROUPS}
    monkeypatch.setattr(connect, "_installed", lambda group: {entry.name: entry for entry in built_in[group]})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the command adds the working directory
    monkeypatch.setenv("QUEUEPORT_URL", "sqlite:///jobs.db")
    monkeypatch.delenv("QUEUEPORT_TASKS", raising=False)
    with get_queue("sqlite:///jobs.db") as queue:
        queue.enqueue("t")
        CliRunner().invoke(app, ["enqueue", "t", "--id", "there"])
    return tmp_path


def refused(*words: str, code: int) -> str:
    """Run a command in this process; the one sentence that it must say."""
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    return sentence(result.stderr)


def sentence(text: str) -> str:
    """The one line of standard error."""
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    assert "Traceback" not in text
    assert "secret" not in text
    return text


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "queueport", *words], check=False, capture_output=True, text=True, timeout=30
    )


@pytest.mark.parametrize(("words", "said"), WRONG_WORDS, ids=[" ".join(words) for words, _ in WRONG_WORDS])
def test_what_is_wrong_in_itself_is_exit_code_2(folder: Path, words: tuple[str, ...], said: str) -> None:
    assert said in refused(*words, code=2)


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_what_the_queue_refuses_is_exit_code_1(folder: Path, words: tuple[str, ...], said: str) -> None:
    assert said in refused(*words, code=1)


def test_without_a_url_the_line_to_write_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUEPORT_URL", "")
    assert "give --url sqlite:///jobs.db, or set QUEUEPORT_URL" in refused("stats", code=2)


def test_passwords_are_never_printed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUEPORT_STORE", "redis+sentinel://:secret@host/service?sentinel_password=secret")
    assert "rq://:***@host" in refused("stats", "--url", "rq://:secret@host?lease=x", code=2)
    refused("stats", "--url", "://:secret@host", code=2)
    refused("worker", "--url", "dramatiq+amqp://user:secret@host", "t", code=2)


def test_what_is_no_text_is_refused_and_what_a_terminal_lacks_is_escaped(folder: Path) -> None:
    for words in (("status", "\udcff"), ("jobs", "--queue", "\udcff"), ("enqueue", "t", "\udcff")):
        assert "the argument '\\udcff' is no text: write it in UTF-8" in refused(*words, code=2)
    result = CliRunner(charset="ascii").invoke(app, ["enqueue", "t", "€", "--id", "euro"])
    assert result.exit_code == 0
    assert '["\\u20ac"]' in CliRunner(charset="ascii").invoke(app, ["status", "euro"]).stdout


def test_a_file_that_is_no_database_is_a_sentence_and_stays_as_it_is(folder: Path) -> None:
    (folder / "notes.txt").write_text("not a database, but somebody's notes" * 100)
    for words in (("jobs",), ("stats",), ("enqueue", "t"), ("purge", "q"), ("setup",)):
        assert "notes.txt is not a database" in refused(*words, "--url", "sqlite:///notes.txt", code=1)
    checked = CliRunner().invoke(app, ["check", "--url", "sqlite:///notes.txt"])
    assert (checked.exit_code, checked.stderr) == (1, "")
    assert "problem: the SQLite database" in checked.stdout
    assert (folder / "notes.txt").read_text().startswith("not a database")


def test_a_damaged_row_is_a_sentence_where_it_is_asked_for_and_stays_out_of_lists(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "jobs.db")) as database:
        database.execute("UPDATE queueport_jobs SET payload = x'ff' WHERE id = 'there'")
        database.commit()
    assert "job there" in refused("status", "there", code=1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_database_is_a_sentence(folder: Path) -> None:
    (folder / "jobs.db").chmod(0o400)
    assert "cannot be written" in refused("enqueue", "t", code=1)


def test_a_huge_argument_is_a_sentence_and_nothing_is_kept(folder: Path) -> None:
    said = refused("enqueue", "t", "x" * (17 * 2**20), code=2)
    assert "the arguments of t have 178" in said
    assert len(said) < 300


def test_an_argument_of_the_wrong_type_is_named(folder: Path) -> None:
    (folder / "cli_typed.py").write_text("from queueport import task\n@task\ndef f(count: int) -> None: ...\n")
    said = refused("enqueue", "cli_typed.f", "many", "--module", "cli_typed", code=2)
    assert "task 'cli_typed.f': argument 'count'" in said
    assert "did you mean 'cli_typed.f'?" in refused("enqueue", "cli_typed.g", "1", "--module", "cli_typed", code=2)


@pytest.mark.parametrize(("code", "said"), BROKEN_MODULES.items(), ids=[c.splitlines()[-1] for c in BROKEN_MODULES])
def test_a_module_that_fails_is_named_with_reason_and_line(folder: Path, code: str, said: str) -> None:
    (folder / "broken.py").write_text(code)
    told = refused("worker", "broken", code=2)
    assert "error: module 'broken' cannot be imported: " in told
    assert said.replace("FILE", str(folder / "broken.py")) in told


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such", "there is no module 'no_such': go to the folder it is in, or add that to PYTHONPATH"),
        ("no_such.tasks", "there is no module 'no_such.tasks', for there is no 'no_such'"),
        ("app/tasks.py", "'app/tasks.py' is no module: write its name as in `import`, such as app.tasks"),
        ("tasks.py", "such as tasks"),
        ("tasks:send", "such as tasks"),
    ],
)
def test_a_module_that_cannot_be_found_is_named(folder: Path, name: str, said: str) -> None:
    assert said in refused("worker", name, code=2)


def test_a_module_without_tasks_is_named(folder: Path) -> None:
    result = run("worker", "json")
    assert (result.returncode, result.stdout) == (2, "")
    assert "no task is declared in json: decorate a function with @task" in sentence(result.stderr)


def test_a_task_whose_annotation_is_unknown_is_named(folder: Path) -> None:
    (folder / "annotated.py").write_text("from queueport import task\n@task\ndef f(a: 'Nothing') -> int: ...\n")
    result = run("worker", "annotated")
    assert "the annotation 'Nothing' of parameter 'a'" in sentence(result.stderr.splitlines(keepends=True)[-1])
    assert result.returncode == 2

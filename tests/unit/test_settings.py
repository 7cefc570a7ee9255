"""Settings from URLs, keywords and environment variables: units, spelling, white space, and hidden passwords."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from queueport import get_queue
from queueport.errors import ConfigurationError
from queueport.spi import settings
from queueport.spi.url import BackendURL, KeepByName, KeepCount, hidden
from queueport.testing import Harness, tasks
from queueport.workers.native import NativeWorker

FOLDER = Path(__file__).parents[2]
UNCLEAR = "is neither a number of seconds nor a number with a unit, such as 30s, 15m, 12h or 7d"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, and an environment without settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "warned", set())
    for name in os.environ:
        if name.startswith("QUEUEPORT_"):
            monkeypatch.delenv(name)
    return tmp_path


def opened(url: str | None = "sqlite:///jobs.db", **given: Any) -> Any:
    with get_queue(url, **given) as queue:
        return queue.settings


# -- white space and control characters ----------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", " ", "\t\n", "?lease=60\n", " ?lease=60"])
def test_white_space_around_a_url_does_not_make_another_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    def files() -> set[str]:
        return {path.name.partition("-")[0] for path in folder.iterdir()}

    with get_queue(f" sqlite:///jobs.db{end}") as queue:
        queue.enqueue(tasks.echo, 1)
        assert files() == {"jobs.db"}
        assert queue.url == "sqlite:///jobs.db"
    monkeypatch.setenv("QUEUEPORT_URL", f"sqlite:///jobs.db{end}")
    command = [sys.executable, "-m", "queueport", "stats", "--json"]
    assert '"queued":1' in subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    assert files() == {"jobs.db"}


def test_white_space_around_every_other_setting_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUEPORT_NAMESPACE", "shop\n")
    monkeypatch.setenv("QUEUEPORT_LEASE", " 60\n")
    monkeypatch.setenv("QUEUEPORT_STORE", " \n")
    found = opened(keep_succeeded="5 jobs\n")
    assert (found.namespace, found.lease, found.keep_succeeded, found.store) == ("shop", 60.0, KeepCount(5), None)
    assert opened(namespace=" other\n").namespace == opened("sqlite:///jobs.db?namespace=other+").namespace == "other"


@pytest.mark.parametrize("url", ["memory://?namespace=\udcff", "amqp://h?tls_ca=a\udcff&store=memory://"])
def test_an_option_that_is_not_utf_8_is_refused(url: str) -> None:
    """Python reads such bytes of the environment and of the command line as surrogates."""
    with pytest.raises(ConfigurationError, match="URL is not valid UTF-8: correct the URL"):
        get_queue(url)


@pytest.mark.parametrize(
    "url", ["sqlite:///jo\nbs.db", "sqlite:///jobs.db%0A", "sqlite:///jo%00bs.db", "rq+redis://:s3cret%0A@localhost"]
)
def test_a_control_character_in_a_url_is_refused(folder: Path, url: str) -> None:
    scheme = re.escape(url.partition("://")[0])
    with pytest.raises(ConfigurationError, match=rf"^the {scheme}:// URL contains a line break or another control"):
        opened(url)
    with pytest.raises(ConfigurationError, match="contains a line break"):
        BackendURL.parse(f"amqp://localhost?store={url}")
    assert list(folder.iterdir()) == []


# -- units ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30.0), ("0.5", 0.5), ("1e3", 1000.0), ("30s", 30.0), ("1.5 h", 5400.0), ("15m", 900.0), ("7d", 604_800.0)],
)
def test_a_duration_is_a_number_of_seconds_or_has_a_unit(
    monkeypatch: pytest.MonkeyPatch, text: str, seconds: float
) -> None:
    assert opened(lease=text).lease == seconds
    assert opened(f"sqlite:///jobs.db?keep_dead={text.replace(' ', '+')}").keep_dead == seconds
    monkeypatch.setenv("QUEUEPORT_LOST_AFTER", text)
    assert opened().lost_after == seconds


@pytest.mark.parametrize("text", ["long", "3x", "s", "1h30m", "30 seconds"])
def test_a_text_that_is_no_duration_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^lease='{text}' is wrong: it {UNCLEAR}"):
        opened(lease=text)
    monkeypatch.setenv("QUEUEPORT_GRACE", text)
    with get_queue("memory://") as queue, pytest.raises(ConfigurationError, match=r"^QUEUEPORT_GRACE must be"):
        NativeWorker.from_environment(queue, ["default"])


@pytest.mark.parametrize("given", ["nan", "inf", "101000d", 4e9])
def test_a_duration_that_no_clock_can_represent_is_refused(given: Any) -> None:
    for name in ("lease", "keep_dead", "call_timeout"):
        with pytest.raises(ConfigurationError, match=f"^{name}='.*' is wrong: input should be"):
            opened(**{name: given})
    with pytest.raises(ConfigurationError, match="call_timeout='2d' is wrong"):
        opened(call_timeout="2d")


@pytest.mark.parametrize("text", ["100", "0", "1e3", "-5", "2.5"])
def test_a_number_without_a_unit_does_not_say_whether_jobs_or_seconds_are_kept(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    sentence = re.escape(f"keep_succeeded='{text}' is wrong: it may mean jobs or seconds: write '{text} jobs'")
    with pytest.raises(ConfigurationError, match=f"^sqlite:///jobs.db: option {sentence}"):
        opened(f"sqlite:///jobs.db?keep_succeeded={text}")
    with pytest.raises(ConfigurationError, match=f"^{sentence}"):
        opened(keep_succeeded=text)
    monkeypatch.setenv("QUEUEPORT_KEEP_SUCCEEDED", text)
    with pytest.raises(ConfigurationError, match=r"^QUEUEPORT_KEEP_SUCCEEDED="):
        opened()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (100, 100.0),
        (0.5, 0.5),
        ("100s", 100.0),
        ("1d", 86_400.0),
        ("100 jobs", KeepCount(100)),
        ("1 job", KeepCount(1)),
        ("100 jobs per queue", KeepCount(100, "queue")),
        ("5 jobs per task", KeepCount(5, "task")),
        ("1h, queue:a=9 jobs,queue:b.c = 1d", KeepByName(3600.0, "queue", {"a": KeepCount(9), "b.c": 86_400.0})),
        ("queue:emails=1 job", KeepByName(86_400.0, "queue", {"emails": KeepCount(1)})),
        ("2 jobs per task, task:app.a=b=0s", KeepByName(KeepCount(2, "task"), "task", {"app.a=b": 0.0})),
    ],
)
def test_worker_processes_keep_as_many_succeeded_jobs(given: Any, kept: Any) -> None:
    with get_queue("sqlite:///jobs.db", keep_succeeded=given) as queue:
        assert queue.settings.keep_succeeded == kept
        spec = queue.spec()
    assert opened(spec["url"], **spec["settings"]).keep_succeeded == kept
    assert opened(**{name: str(value) for name, value in spec["settings"].items()}).keep_succeeded == kept


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("queue:emails", "write 'queue:NAME=100 jobs', 'task:NAME=7d' or the like instead of 'queue:emails'"),
        ("1d, queu:emails=5s, queue:a=1s", "write 'queue:NAME=100 jobs', 'task:NAME=7d' or the like instead of 'queu:"),
        ("queue:.a=5s", "write 'queue:NAME=100 jobs', 'task:NAME=7d' or the like instead of 'queue:.a=5s'"),
        ("queue:a=5", "it may mean jobs or seconds: write '5 jobs' or '5s'"),
        ("queue:a=soon", "it is neither a number of seconds nor a number with a unit"),
        ("queue:a=-5s", "'-5s' is not between 0 seconds and 100 years"),
        ("queue:a=101000d", "'101000d' is not between 0 seconds and 100 years"),
        ("queue:a=nans", "'nans' is not between 0 seconds and 100 years"),
        ("queue:a=5 jobs per queue", "leave out 'per queue' in 'queue:a=5 jobs per queue'"),
        ("queue:a=5s, queue:a=5s", "it contains queue:a twice: leave out one of them"),
        ("1d, queue:a=5s, 2d", "it contains two retentions that name no queue or task: leave out one of them"),
        ("queue:a=5s, task:a=5s", "it names queues and tasks: name one kind only"),
        ("100 jobs, queue:a=5s", "for all other queues, write '100 jobs per queue' or a time"),
        ("100 jobs per queue, task:a=5s", "for all other tasks, write '100 jobs per task' or a time"),
    ],
)
def test_a_wrong_retention_by_name_is_refused_with_what_to_write(text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^keep_succeeded=.* is wrong: {re.escape(sentence)}"):
        opened(keep_succeeded=text)


def test_a_worker_process_of_the_contract_keeps_as_many_succeeded_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = Harness("memory://")
    harness.settings = {"keep_succeeded": 2, "lease": 3}
    for name, value in harness.environment().items():
        monkeypatch.setenv(name, value)
    found = opened("memory://")
    assert (found.keep_succeeded, found.lease) == (2.0, 3.0)


# -- names ----------------------------------------------------------------------------------------------


def test_the_error_about_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUEPORT_LEASE", "abc")
    with pytest.raises(ConfigurationError, match=r"^QUEUEPORT_LEASE='abc' is wrong: it is neither a number of seconds"):
        opened()
    assert opened(lease=1).lease == 1
    monkeypatch.setenv("QUEUEPORT_URL", "jobs.db")
    with pytest.raises(ConfigurationError, match=r"^QUEUEPORT_URL: 'jobs.db' is not a URL"):
        opened(None, lease=1)
    ended = subprocess.run([sys.executable, "-m", "queueport", "stats"], capture_output=True, text=True, check=False)
    assert ended.stderr.startswith("error: QUEUEPORT_URL: 'jobs.db' is not a URL: ")


def test_the_error_about_a_wrong_store_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for url, sentence in (
        ("store.db", "'store.db' is not a URL"),
        ("nosuch://", "no job store for nosuch:// is installed"),
        ("redis://host?databse=1", "redis://host has no option 'databse'"),
    ):
        monkeypatch.setenv("QUEUEPORT_STORE", url)
        with pytest.raises(ConfigurationError, match=f"^QUEUEPORT_STORE: {sentence}"):
            opened("spool:///jobs")
        with pytest.raises(ConfigurationError, match=f"^{sentence}"):
            opened("spool:///jobs", store=url)
        assert opened().store is None


def test_an_unknown_variable_is_logged_once_and_reported_by_check(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("QUEUEPORT_LEESE", "3")
    monkeypatch.setenv("QUEUEPORT_CONTRACT_ANY", "for tests")
    sentence = "the environment variable QUEUEPORT_LEESE has no effect; did you mean 'QUEUEPORT_LEASE'?"
    with get_queue("sqlite:///jobs.db") as queue, get_queue("memory://"):
        assert queue.check().warnings == [sentence]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("WARNING", sentence)]


def test_a_worker_with_several_processes_logs_an_unknown_variable_once(folder: Path) -> None:
    command = [sys.executable, "-m", "queueport", "worker", tasks.__name__, "--processes=2", "--burst"]
    environment = {**os.environ, "QUEUEPORT_URL": "sqlite:///jobs.db", "QUEUEPORT_THREDS": "3"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert ended.stderr.count("QUEUEPORT_THREDS has no effect") == 1


@pytest.mark.parametrize(("options", "count"), [([], 1), (["--json"], 2)])
def test_the_command_check_shows_an_unknown_variable_once(folder: Path, options: list[str], count: int) -> None:
    """The log on standard error and the report are one text for a person. A program reads the report only."""
    command = [sys.executable, "-m", "queueport", "check", "--url", "sqlite:///jobs.db", *options]
    environment = {**os.environ, "QUEUEPORT_THREDS": "3"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert (ended.stdout + ended.stderr).count("QUEUEPORT_THREDS has no effect") == count


def test_every_variable_that_the_code_reads_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [*FOLDER.glob("src/**/*.py"), *FOLDER.glob("adapters/*/src/**/*.py")]
    read = {name for file in files for name in re.findall(r"\"(QUEUEPORT_[A-Z_]*[A-Z])\"", file.read_text())}
    assert "QUEUEPORT_TASKS" in read
    for name in read:
        monkeypatch.setenv(name, "1")
    assert settings.unknown_variables() == []


def test_an_unknown_keyword_is_refused_with_the_nearest_name(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigurationError, match=r"^get_queue has no option 'leese'; did you mean 'lease'"):
        opened(leese=3)
    with pytest.raises(
        ConfigurationError, match="option 'lease', which is a setting: write it into the URL of the queue"
    ):
        opened("spool:///jobs?store=sqlite:///jobs.db%3Flease=3")


def test_the_suggested_url_is_accepted() -> None:
    with pytest.raises(ConfigurationError) as raised:
        opened("jobs.db")
    (suggested,) = re.findall(r"'(\w+://[^']*)'", str(raised.value))
    assert opened(suggested).lease == 30.0


# -- passwords ------------------------------------------------------------------------------------------

AMBIGUOUS = [
    "redis://:p@ss/w#rd?x@host",
    "rq+redis://:p@ss/w#rd?x=y@host:6379/0",
    "amqp://user:p@ss/w#rd?x@host",
    "amqp://user:p/w@host",
    "amqp://user:12/34@host",
    "amqp://user:12?34=5@host",
    "amqp://user:p?w@host",
    "nats://user:p#w@host",
    "nats://to/ken@host",
    "celery+redis://:p/w@host",
    "dramatiq+amqp://user:p@s/s@host",
    "sqs://user:p?w=x@host",
    "amqp://localhost?store=redis://:p&w@host",
]


@pytest.mark.parametrize("url", AMBIGUOUS)
def test_a_password_that_is_not_encoded_is_refused_and_not_shown(url: str) -> None:
    for given in ({"url": url}, {"url": "amqp://localhost", "store": url}):
        with pytest.raises(ConfigurationError) as raised:
            opened(**given)
        text = str(raised.value)
        if "is installed" not in text:
            assert re.match(r"the [a-z+]+:// URL has an '@' after a '/', '\?' or '#', so its password", text)
            assert "write '@' as %40, '/' as %2F, '?' as %3F and '#' as %23" in text
        assert "host" not in text.replace("localhost", "")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///home/me@work/jobs.db", "sqlite:///home/me@work/jobs.db"),
        ("unix:///run/app@1/redis.sock?db=1", "unix:///run/app@1/redis.sock?db=1"),
        ("redis://me:p@ss@host/0", "redis://me:***@host/0"),
        ("redis://:p w@host", "redis://:***@host"),
        ("redis://:p'w\"x@host", "redis://:***@host"),
        ("nats://t0ken@host", "nats://***@host"),
        ("redis://host:6379/0?password=p@ss", "redis://host:6379/0?password=***"),
        ("redis://host?pwd=x&db=1", "redis://host?pwd=***&db=1"),
        ("nats://a:4222,b:4223?creds=/home/me@work/app.creds", "nats://a:4222,b:4223?creds=/home/me%40work/app.creds"),
        ("amqps://host:5671/?cacertfile=/me@work/ca.pem", "amqps://host:5671/?cacertfile=/me%40work/ca.pem"),
        ("amqp://me:p@host?store=redis://:p@s:6379/1", "amqp://me:***@host?store=redis://:***%40s:6379/1"),
        ("amqp://me:p@host?store=redis%3A%2F%2F%3Ap%20w%40s", "amqp://me:***@host?store=redis://:***%40s"),
        ("celery://shop.celery:app", "celery://shop.celery:app"),
    ],
)
def test_a_url_is_shown_without_its_passwords(url: str, shown: str) -> None:
    parsed = BackendURL.parse(url)
    assert str(parsed) == shown
    assert hidden(str(parsed)) == shown
    assert BackendURL.parse(parsed.full) == parsed
    assert parsed.shown == shown.partition("?")[0]


def test_passwords_in_any_text_are_hidden() -> None:
    text = "no redis://:p@ss/w#rd?x@host and amqp://me:p'w@b:5672, nats://t0ken@c, store=redis%3A%2F%2F%3Ap%40d&token=t"
    text += " ?store=redis%3A%2F%2Fhost%3Fpassword%3Dp%26db%3D1"
    assert hidden(text) == (
        "no redis://:***@host and amqp://me:***@b:5672, nats://***@c, store=redis%3A%2F%2F%3A***%40d&token=***"
        " ?store=redis%3A%2F%2Fhost%3Fpassword%3D***%26db%3D1"
    )


@pytest.mark.parametrize("part", ["%3A%2F%2F", "%3A%2F%2Fa%3A", "://a:", "&pass", "%3Fpass%3D"])
def test_passwords_in_a_long_hostile_text_are_hidden_in_linear_time(part: str) -> None:
    """In quadratic time, this test would need hours. The text ends with a password, so the whole of it is searched."""
    shown = hidden(part * 100_000 + " redis://:p@host")
    assert shown.endswith(" redis://:***@host")


def test_text_that_is_no_url_is_shown_without_what_may_be_a_password() -> None:
    for text, shown in (
        ("me:p/w@host", "***@host"),
        ("Redis://:p@host", "***@host"),
        ("host?password=p", "password=***"),
    ):
        with pytest.raises(ConfigurationError, match=rf"{re.escape(shown)}' is not a URL"):
            opened(text)


def test_an_unknown_capability_is_refused() -> None:
    unknown: Any = {"prioritys"}
    with pytest.raises(ConfigurationError, match="'prioritys' is not a capability; did you mean 'priority'"):
        get_queue("memory://", require=unknown)
    known: Any = {"priority"}
    get_queue("memory://", require=known).close()

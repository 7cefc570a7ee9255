"""URLs, settings, recurrences and command lines: whatever they contain, only the documented errors."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from queueport import Recurrence, Retry, get_queue
from queueport.cli.app import app
from queueport.errors import ConfigurationError, QueueportError
from queueport.spi.settings import Settings, options, read
from queueport.spi.url import BackendURL, hidden
from queueport.stores.redis.url import RedisOptions
from tests.fuzz.values import fuzzed, json_values, one_line, texts

SCHEMES = ["memory", "sqlite", "redis", "rediss", "redis+sentinel", "unix", "amqp", "nats", "sqs", "rq+redis"]
SCHEMES += ["dramatiq+amqp", "celery+redis", "dynamodb", "Sqlite", "x"]
PARTS = ["user:secret@", ":s%40@", "host", "[::1]", ":6379", ":0", ":x", "/", "/0", "?", "&", "=", "#", "%", "%00"]
PARTS += [*Settings.model_fields, "store=", "redis%3A%2F%2F", "memory://", "\n", "ü", ",", "db=", "password=", "@"]
urls = (
    st.builds(
        lambda scheme, parts: f"{scheme}://{''.join(parts)}",
        st.sampled_from(SCHEMES),
        st.lists(st.sampled_from(PARTS) | texts, max_size=6),
    )
    | texts
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, and an environment without settings."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("QUEUEPORT_") and not name.startswith("QUEUEPORT_TEST_"):
            monkeypatch.delenv(name)
    return tmp_path


@given(urls)
@fuzzed
def test_a_url_is_parsed_or_refused(url: str) -> None:
    hidden(url)
    try:
        parsed = BackendURL.parse(url)
    except ConfigurationError as error:
        one_line(error)
        return
    assert all(isinstance(text, str) for text in (str(parsed), repr(parsed), parsed.path, parsed.full, parsed.scheme))
    with suppress(ConfigurationError):
        options(parsed, RedisOptions)


@given(urls)
@fuzzed
def test_a_queue_is_opened_or_its_url_is_refused(url: str) -> None:
    try:
        get_queue(url, call_timeout=0.2).close()
    except QueueportError as error:
        one_line(error)


@given(urls)
@fuzzed
def test_a_store_is_opened_or_its_url_is_refused(url: str) -> None:
    pytest.importorskip("queueport_nats")
    try:
        get_queue("nats://localhost:1", store=url, call_timeout=0.2).close()
    except QueueportError as error:
        one_line(error)


@given(st.sampled_from([*Settings.model_fields, "leese", ""]), json_values, texts)
@fuzzed
def test_a_setting_is_read_or_refused(name: str, value: Any, text: str) -> None:
    for given_value in (value, text):
        try:
            _, settings = read("nats://localhost?store=redis://localhost", {name: given_value})
            assert isinstance(repr(settings), str)
        except ConfigurationError as error:
            one_line(error)


@given(json_values, texts)
@fuzzed
def test_a_recurrence_or_a_retry_policy_is_read_or_refused(value: Any, text: str) -> None:
    every_day: list[dict[str, Any]] = [{"cron": "* * * * *", "timezone": value}, {"every": value}]
    for given_options in [*every_day, {"cron": text}, {"cron": value}]:
        with suppress(QueueportError, TypeError, ValueError):
            Recurrence(**given_options)
    with suppress(QueueportError):
        Retry.from_dict(value)


COMMANDS = [
    *(["status"], ["jobs"], ["retry"], ["cancel"], ["purge"], ["dead", "list"], ["dead", "show"], ["dead", "retry"]),
    *(["dead", "retry-all"], ["dead", "discard"], ["dead", "purge"], ["schedules", "list"], ["schedules", "show"]),
    *(["schedules", "add"], ["schedules", "pause"], ["schedules", "run"], ["schedules", "remove"], ["stats"]),
    *(["pause"], ["resume"], ["history"], ["check"], ["setup"], ["backends"], ["enqueue"], ["contract", "--list"], []),
]
WORDS = ["--json", "--queue", "--task", "--state", "--limit", "--after", "--error", "--older-than", "--yes", "--kw"]
WORDS += ["--delay", "--every", "--cron", "--key", "--id", "--priority", "--url", "--namespace", "--", "-", "a", "1"]
WORDS += ["default", "dead", "1d", "--reason", "--last", "--max-depth", "--max-age", "--args", "--header", "{}", "[1]"]
WORDS += ["-h", "x=1"]


@given(st.sampled_from(COMMANDS), st.lists(st.sampled_from(WORDS) | texts | urls, max_size=5))
@example(["enqueue"], ["t", "\ud800"])
@fuzzed
def test_a_command_line_succeeds_or_ends_with_one_line(command: list[str], words: list[str]) -> None:
    done = CliRunner().invoke(app, [*command, *words], env={"QUEUEPORT_URL": "sqlite:///jobs.db"}, input="")
    assert done.exception is None or isinstance(done.exception, SystemExit), (done.exception, words)
    assert done.exit_code in (0, 1, 2)
    assert "Traceback" not in done.output

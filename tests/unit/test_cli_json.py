"""Each command's JSON matches its schema in `docs/json`. For authors of commands, and for scripts that rely on them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from jsonschema import Draft202012Validator, FormatChecker
from typer.core import TyperGroup
from typer.testing import CliRunner

from queueport import Abort, JobQueue, current_job, get_queue, task
from queueport.cli.app import app
from queueport.cli.documents import DOCUMENTS
from queueport.job.recurrence import Recurrence
from queueport.spi.driver import ForeignSchedule
from queueport.stats import WorkerStats
from queueport.stores.driver import SqliteDriver

FOLDER = Path(__file__).parents[2] / "docs" / "json"
PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"
SCHEMAS = {command: f"{document.name}.schema.json" for document in DOCUMENTS for command in document.commands}
"""The file of the schema of each command."""

formats: FormatChecker = FormatChecker(formats=())


@formats.checks("date-time", raises=ValueError)
def is_time(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).utcoffset() is not None


def closed(schema: Any) -> Any:
    """The schema, in which an object has no other properties than those that the schema lists."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: closed(item) for name, item in schema.items()}
    return {**made, "additionalProperties": False} if isinstance(schema.get("properties"), dict) else made


def check(command: str, text: str) -> Any:
    """Assert that the text is one line, and a document of this command. Returns the document."""
    assert text.count("\n") == 1
    assert text.isascii()
    schema = closed(json.loads((FOLDER / SCHEMAS[command]).read_text()))
    Draft202012Validator.check_schema(schema)
    document = json.loads(text)
    errors = [error.message for error in Draft202012Validator(schema, format_checker=formats).iter_errors(document)]
    assert errors == []
    return document


@task(name="cli_json.add", queue="sums")
def add(a: int, b: int = 0) -> dict[str, int]:
    current_job().progress(1, total=2, message="half")
    return {"sum": a + b}


@task(name="cli_json.fail")
def fail() -> None:
    raise Abort("no")


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobQueue]:
    url = f"sqlite:///{tmp_path}/jobs.db"
    monkeypatch.setenv("QUEUEPORT_URL", url)
    with get_queue(url) as opened:
        opened.enqueue(add.using(job_id="done", headers={"user": "ann"}, key="k"), 1, b=2)
        for job_id in ("dead-1", "dead-2", "dead-3"):
            opened.enqueue(fail.using(job_id=job_id))
        opened.worker(tasks=[add, fail], burst=True).run()
        opened.enqueue(add.using(job_id="later", delay=3600), 1)
        opened.enqueue(add.using(job_id="queued"), 1)
        opened.batch([add.job(1), add.job(2)], then=add.job(3), batch_id="night")
        opened.pause("sums", "by hand")
        opened.limit("sums", concurrency=3)
        opened.limit("mails", rate="10/s")
        opened.schedules.add("often", add.job(1), every=60)
        opened.schedules.add("nightly", add.job(1), cron="0 3 * * *", start=datetime(2026, 1, 1, tzinfo=UTC))
        opened.schedules.run_now("often")
        opened.operations.store.announce(WorkerStats("host-1-a", ("sums",), ("t",), datetime.now(UTC)), 60.0)
        yield opened


COMMANDS: dict[str, list[tuple[str, ...]]] = {
    "enqueue": [
        ("cli_json.add", "1", "--id", "new"),
        ("cli_json.add", "1", "--key", "k"),
        ("cli_json.add", "1", "--key", "k"),
    ],
    "status": [("done",), ("dead-1",), ("later",), ("queued",), ("done", "--follow")],
    "jobs": [(), ("--queue", "nothing")],
    "retry": [("dead-1",)],
    "replay": [("done",), ("dead-1", "--args", "[]")],
    "cancel": [("queued",), ("--queue", "nothing"), ("--queue", "default", "--dry-run")],
    "purge": [("sums", "--dry-run"), ("sums",)],
    "dead list": [(), ("--error", "KeyError")],
    "dead show": [("dead-1",)],
    "dead retry": [("dead-1",), ("--error", "Abort", "--dry-run"), ("--error", "KeyError")],
    "dead retry-all": [("--error", "KeyError"), ("--dry-run",)],
    "dead discard": [("dead-2",), ("--tag", "vip", "--dry-run"), ("--error", "KeyError")],
    "dead purge": [("--dry-run",), ()],
    "batch show": [("night",)],
    "batch retry": [("night", "--dry-run"), ("night",)],
    "batch cancel": [("night", "--dry-run"), ("night",)],
    "schedules list": [()],
    "schedules show": [("often",), ("nightly",)],
    "schedules add": [("new", "cli_json.add", "1", "--every", "5")],
    "schedules pause": [("often",)],
    "schedules resume": [("often",)],
    "schedules run": [("often",)],
    "schedules remove": [("often",)],
    "schedules import": [()],
    "stats": [()],
    "history": [("--since", "3m")],
    "workers": [()],
    "pause": [("bulk",), ("bulk", "--reason", "x")],
    "resume": [("sums",), ("sums",)],
    "limit": [("bulk", "--concurrency", "2"), ("bulk", "--rate", "100/m", "--burst", "5"), ("bulk", "--none")],
    "limits": [()],
    "check": [(), ("--this-host",), ("--worker", "host-1-a")],
    "setup": [("--queue", "a")],
    "backends": [()],
    "contract": [],
    "chaos": [],
}
"""The commands with `--json`, and the arguments with which the tests run them. `contract` and `chaos` have their own
tests."""


@pytest.mark.parametrize("command", COMMANDS)
def test_the_json_of_a_command_matches_its_schema(
    queue: JobQueue, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Recurrence(every=60)
    found = [
        ForeignSchedule("good", add.job(1), wanted, None),
        ForeignSchedule("bad", None, None, "it is a solar event"),
    ]
    monkeypatch.setattr(SqliteDriver, "recurring", lambda self: found)
    for arguments in COMMANDS[command]:
        result = CliRunner().invoke(app, [*command.split(), *arguments, "--json"])
        assert result.exit_code in (0, 1), result.output
        check(command, result.stdout)


def test_the_json_of_the_contract_matches_its_schema(tmp_path: Path) -> None:
    words = [f"sqlite:///{tmp_path}/contract.db", "-k", "_E1_", "--json"]
    command = [sys.executable, "-m", "queueport", "contract", *words]
    result = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert check("contract", result.stdout)["passed"] > 0


def test_the_json_of_chaos_matches_its_schema(tmp_path: Path) -> None:
    words = [f"sqlite:///{tmp_path}/chaos.db", "--jobs=5", "--faults=0", "--workers=2", "--json"]
    command = [sys.executable, "-m", "queueport", "chaos", *words]
    result = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert check("chaos", result.stdout)["accepted"] == 5


def test_a_schema_finds_a_missing_and_a_surplus_field(queue: JobQueue) -> None:
    job = queue.status("done").as_dict()
    for broken in ({**job, "more": 1}, {name: job[name] for name in job if name != "finished"}, {**job, "state": "?"}):
        with pytest.raises(AssertionError):
            check("status", json.dumps(broken) + "\n")


def test_every_command_with_json_has_a_documented_schema() -> None:
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    printing = set()
    for name, command in root.commands.items():
        inner = command.commands if isinstance(command, TyperGroup) else {"": command}
        for rest, one in inner.items():
            if any("--json" in parameter.opts for parameter in one.params):
                printing.add(f"{name} {rest}".strip())
    assert printing == {*COMMANDS} == {*SCHEMAS}
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    linked = {row[0].removeprefix("| `").split(" `")[0].rstrip("`"): row[-1] for row in rows if "](json/" in row[-1]}
    words = {name: " ".join(word for word in name.split() if word.strip("[].").islower()) for name in linked}
    assert {words[name]: text.split("](json/")[1].split(")")[0] for name, text in linked.items()} == SCHEMAS


def test_an_error_prints_a_sentence_on_standard_error_and_no_json(queue: JobQueue) -> None:
    failed = CliRunner().invoke(app, ["status", "missing", "--json"])
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert failed.stderr.startswith("error: there is no job 'missing'")

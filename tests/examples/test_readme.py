"""The example in the README is short, links exist, and each field and state has a row in its documentation."""

import dataclasses
import json
import re
from typing import Any

import pytest

from queueport import Retry, hooks, task
from queueport.spi.message import Message
from queueport.spi.record import Record
from queueport.spi.signing import SigningKeys
from queueport.status import JobError, JobState, utc
from queueport.testing import FakeQueue
from tests.examples.blocks import PAGES, ROOT, blocks_of

README = (ROOT / "README.md").read_text()
CONCEPTS = (ROOT / "docs" / "concepts.md").read_text()
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()


def documented(page: str, title: str) -> set[str]:
    """The names in the first column of the first table under that heading."""
    table = page.partition(f"\n## {title}\n")[2].partition("\n| ")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    return set(re.findall(r"`(\w+)`", " ".join(rows)))


def test_the_example_in_the_readme_has_at_most_twenty_lines() -> None:
    modules = {block.file: block.code for block in blocks_of(ROOT / "README.md") if block.file is not None}
    assert set(modules) == {"tasks.py", "app.py"}
    assert sum(len(code.splitlines()) for code in modules.values()) <= 20


def test_the_readme_has_the_commands_for_quickstart_and_tests() -> None:
    assert "$ pip install nox && nox -s quickstart\n$ nox -s tests\n" in README


@pytest.mark.parametrize("document", [page.relative_to(ROOT).as_posix() for page in PAGES])
def test_every_relative_link_exists(document: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / document).read_text())
    missing = [link for link in links if not (ROOT / document).parent.joinpath(link).exists()]
    assert missing == []


def test_every_field_of_the_record_is_documented() -> None:
    assert documented(PROTOCOL, "The record") == {field.name for field in dataclasses.fields(Record)}


def test_every_field_of_the_message_is_documented() -> None:
    now = utc(0.0)
    assert now is not None
    error = JobError("ValueError", "x", "", now, 1)
    record = Record("1", "t", "q", b'{"args":[],"kwargs":{}}', JobState.DEAD, errors=(error,))
    signer = SigningKeys.parse("k" * 32).signer("app")
    assert documented(PROTOCOL, "The message") == set(
        json.loads(Message.of(record, 0.0, buried=True, signer=signer).body)
    )


def test_every_state_is_documented() -> None:
    assert documented(CONCEPTS, "States") == documented(PROTOCOL, "States") == set(JobState)


@pytest.mark.filterwarnings("ignore")  # sentry_sdk imports eventlet, which warns that it is deprecated
def test_the_hook_for_sentry_reports_the_error_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    import sentry_sdk

    page = (ROOT / "docs" / "telemetry.md").read_text().partition("\n## Sentry\n")[2]
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.setattr(hooks, "_around", [])
    sent: list[dict[str, Any]] = []
    sentry_sdk.init("https://key@localhost/1", before_send=lambda event, _: sent.append(dict(event)))  # sends nothing
    try:
        exec(block, {"__name__": __name__})  # the page's own code
        with FakeQueue() as queue:
            handle = queue.enqueue(refuse.using(retry=Retry(max_attempts=1)).job())
            queue.drain()
    finally:
        sentry_sdk.init()
    (event,) = sent
    assert [error["value"] for error in event["exception"]["values"]] == ["no"]
    assert event["contexts"]["job"] == {"id": handle.id, "task": refuse.name, "attempt": 1}


@task(name="readme.refuse")
def refuse() -> None:
    """Raise an error."""
    raise ValueError("no")

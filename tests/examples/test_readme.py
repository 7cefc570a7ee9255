"""The README's example runs as it is printed, and the documents name what there is."""

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from queueport.message import Message
from queueport.record import Record
from queueport.status import JobError, JobState, utc

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONCEPTS = (ROOT / "docs" / "concepts.md").read_text()
CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)
MODULES = re.compile(r"```python\n(?=# (\w+\.py)\n)(.*?)```", re.DOTALL)


def documented(title: str) -> set[str]:
    """The names in the first column of the table under that heading."""
    rows = re.findall(r"^\| (`.*?) \|", CONCEPTS.partition(f"## {title}\n")[2].partition("\n## ")[0], re.MULTILINE)
    return set(re.findall(r"`(\w+)`", " ".join(rows)))


def test_the_example_runs_as_it_is_printed(tmp_path: Path) -> None:
    modules = dict(MODULES.findall(README))
    assert set(modules) == {"tasks.py", "app.py"}
    assert sum(len(text.splitlines()) for text in modules.values()) <= 20
    for name, text in modules.items():
        (tmp_path / name).write_text(text)
    worker, app, *printed = CONSOLE.findall(README)[0].splitlines()
    assert (worker[:18], worker[-2:], app) == ("$ queueport worker", " &", "$ python app.py")
    command = [sys.executable, "-m", "queueport", *shlex.split(worker[2:-2])[1:]]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        try:
            output = subprocess.check_output([sys.executable, "app.py"], cwd=tmp_path, text=True, timeout=40)
        finally:
            process.terminate()
    assert output.splitlines() == printed
    assert process.returncode == 0


def test_it_has_the_two_commands() -> None:
    assert "$ pip install nox && nox -s quickstart\n$ nox -s tests\n" in README


@pytest.mark.parametrize("document", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_every_link_leads_somewhere(document: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / document).read_text())
    missing = [link for link in links if not (ROOT / document).parent.joinpath(link).exists()]
    assert missing == []


def test_the_record_format_is_documented() -> None:
    assert documented("Record format") == {field.name for field in dataclasses.fields(Record)}


def test_the_message_format_is_documented() -> None:
    now = utc(0.0)
    assert now is not None
    error = JobError("ValueError", "x", "", now, 1)
    record = Record("1", "t", "q", b'{"args":[],"kwargs":{}}', JobState.DEAD, errors=(error,))
    assert documented("Message format") == set(json.loads(Message.of(record, 0.0, buried=True).body))


def test_the_states_are_documented() -> None:
    assert documented("States") == set(JobState)

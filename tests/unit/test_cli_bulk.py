"""The commands that change many jobs: the numbers on a terminal, `--rate`, Ctrl-C and errors."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from queueport import JobQueue, JobState, get_queue, task
from queueport.cli.app import app
from queueport.engine.operations import Changed
from queueport.errors import BackendUnavailable
from queueport.spi.store import Swap
from queueport.stores.sqlite.store import SqliteStore
from tests.unit.terminal import Terminal


@task(name="cli_bulk.noop")
def noop(number: int) -> int:
    return number


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobQueue]:
    url = f"sqlite:///{tmp_path}/jobs.db"
    monkeypatch.setenv("QUEUEPORT_URL", url)
    with get_queue(url) as opened:
        yield opened


def dead(queue: JobQueue, number: int, key: str | None = None) -> None:
    for each in range(number):
        queue.dead_letters.add(noop.using(key=key).job(each), "by hand")


def test_the_numbers_are_shown_on_a_terminal_until_ctrl_c_ends_the_command(queue: JobQueue) -> None:
    dead(queue, 400)
    with Terminal("dead", "retry-all", "--yes", "--rate", "2", width=100) as terminal:
        terminal.until(lambda text: "jobs queued again, " in text and "a second" in text)
        os.kill(terminal.process.pid, signal.SIGINT)
        code, text = terminal.end()
    last, error = text.splitlines()[-2:]
    assert code == 130
    assert error == "error: interrupted: the jobs of later pages were not changed; run the command again to change them"
    shown = re.fullmatch(r"(\d+) jobs? queued again", last.rpartition("a second")[2].strip())
    assert shown is not None
    number = int(shown[1])
    assert 0 < number < 400
    assert queue.count(JobState.QUEUED) == number


def test_the_numbers_are_of_the_jobs_that_were_counted_for_the_question(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead(queue, 3)
    with Terminal("dead", "purge", width=100) as terminal:
        terminal.until(lambda text: "discard 3 jobs? [y/N]" in text)
        terminal.write(b"y\n")
        code, text = terminal.end()
    assert code == 0
    assert "3 of 3 jobs discarded, " in text
    assert text.splitlines()[-1].endswith("3 jobs discarded")


def test_a_second_ctrl_c_ends_the_command_at_once(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    def pages(_: object, rate: float | None, stop: threading.Event) -> Iterator[Changed]:
        yield Changed()
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second signal did not end the command")

    monkeypatch.setattr("queueport.engine.bulk.BulkChange.pages", pages)
    before = signal.getsignal(signal.SIGINT)
    result = CliRunner().invoke(app, ["dead", "purge"])
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "")
    assert signal.getsignal(signal.SIGINT) is before


def test_skipped_jobs_are_printed(queue: JobQueue) -> None:
    dead(queue, 3, key="k")
    result = CliRunner().invoke(app, ["dead", "retry-all"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "1 job queued again, 2 skipped\n", "")


@pytest.mark.parametrize(
    "command",
    [
        "cancel --state queued",
        "purge default",
        "dead retry-all",
        "dead retry --task cli_bulk.noop",
        "dead purge",
        "dead discard --task cli_bulk.noop",
        "batch retry night",
        "batch cancel night",
    ],
)
def test_every_command_that_changes_many_jobs_has_a_rate(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    rates = list[float | None]()

    def pages(_: object, rate: float | None, stop: threading.Event) -> Iterator[Changed]:
        rates.append(rate)
        yield Changed()

    monkeypatch.setattr("queueport.engine.bulk.BulkChange.pages", pages)
    queue.batch([noop.job(1)], batch_id="night")
    result = CliRunner().invoke(app, [*command.split(), "--rate", "7.5"])
    assert result.exit_code == 0, result.stderr
    assert rates == [7.5]


def test_an_error_is_printed_with_the_number_of_changed_jobs(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queueport.engine.bulk.PAGE", 2)
    dead(queue, 5)
    swap, calls = SqliteStore.swap, list[Sequence[Swap]]()

    def failing(store: SqliteStore, swaps: Sequence[Swap]) -> Any:
        calls.append(swaps)
        if len(calls) > 1:
            raise BackendUnavailable("the disk is full")
        return swap(store, swaps)

    monkeypatch.setattr(SqliteStore, "swap", failing)
    result = CliRunner().invoke(app, ["dead", "retry-all"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "before the error: 2 jobs queued again\nerror: the disk is full\n"

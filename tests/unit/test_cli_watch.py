"""`--watch` shows the present state until Ctrl-C. For authors of commands."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from queueport import JobQueue, get_queue, task
from queueport.cli.app import app
from queueport.cli.options import completed
from queueport.stats import WorkerStats
from queueport.testing.process import WorkerProcess
from queueport.testing.waiting import eventually
from tests.unit.terminal import Terminal


@task(name="cli_watch.add")
def add(a: int) -> int:
    return a


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobQueue]:
    url = f"sqlite:///{tmp_path}/jobs.db"
    monkeypatch.setenv("QUEUEPORT_URL", url)
    with get_queue(url) as opened:
        yield opened


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Restore the default handling of SIGINT. A shell that runs the tests in the background makes them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


OUTAGE = """
import itertools
from queueport.cli.exit_codes import _exit_code
from queueport.cli.watching import show
from queueport.errors import BackendUnavailable
numbers = itertools.count()
def read():
    n = next(numbers)
    if 2 <= n <= 5:
        raise BackendUnavailable("Redis at localhost does not answer")
    return n
def run():
    show(read, lambda n: {"n": n}, lambda n: [f"the number is {n}"], as_json=AS_JSON, watch=0.1)
raise SystemExit(_exit_code(run))
"""
"""A program that watches a number. The second to the fifth refresh fail."""


@pytest.mark.parametrize(
    "command",
    [("jobs",), ("dead", "list"), ("stats",), ("workers",), ("history", "--since", "5m"), ("schedules", "list")],
    ids=" ".join,
)
def test_watch_with_json_prints_a_document_on_each_line(
    queue: JobQueue, tmp_path: Path, command: tuple[str, ...]
) -> None:
    log = tmp_path / "log"
    words = [sys.executable, "-m", "queueport", *command, "--watch", "0.1", "--json"]
    watcher = WorkerProcess(words, os.environ, log)
    try:
        eventually(lambda: watcher.log.count("\n") > 2, 20)
        os.kill(watcher.pid, signal.SIGINT)
        assert watcher.wait() == 130
        assert {type(json.loads(line)) for line in watcher.log.splitlines()} <= {dict, list}
    finally:
        watcher.clean()


def test_watch_redraws_a_terminal_in_place_and_ends_with_ctrl_c(queue: JobQueue) -> None:
    job = queue.enqueue(add, 1)
    with Terminal("status", job.id, "--watch", "0.1") as terminal:
        terminal.until(lambda text: "queued" in text)
        job.cancel()
        terminal.until(lambda text: "cancelled" in text)
        os.kill(terminal.process.pid, signal.SIGINT)
        code, _ = terminal.end()
        raw = terminal.raw.decode()
    assert code == 130
    assert "\x1b[1A" in raw  # the cursor has moved up, so that the next state replaces the shown one
    assert raw.rindex("\x1b[?25h") > raw.rindex("\x1b[?25l")  # the cursor is visible again
    assert "Traceback" not in raw


def test_a_watched_terminal_survives_an_outage_and_says_so() -> None:
    with Terminal(program=("-c", f"AS_JSON = False\n{OUTAGE}")) as terminal:
        terminal.until(lambda text: "error: Redis at localhost does not answer; this was read" in text)
        text = terminal.until(lambda text: "the number is 7" in text)
        os.kill(terminal.process.pid, signal.SIGINT)
        assert terminal.end()[0] == 130
    assert "the number is 6\n" in text
    assert "error" not in text[text.index("the number is 6") :]


def test_watched_json_reports_an_outage_once_and_goes_on(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        process = subprocess.Popen([sys.executable, "-c", f"AS_JSON = True\n{OUTAGE}"], stdout=out, stderr=err)
        eventually(lambda: '{"n":7}' in (tmp_path / "out").read_text(), 20)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    lines = (tmp_path / "out").read_text().splitlines()
    assert lines[:4] == ['{"n":0}', '{"n":1}', '{"n":6}', '{"n":7}']
    assert (tmp_path / "err").read_text() == ("error: Redis at localhost does not answer; trying again until Ctrl-C\n")


def test_an_error_of_the_first_read_ends_watch(queue: JobQueue) -> None:
    failed = CliRunner().invoke(app, ["status", "missing", "--watch"])
    assert (failed.exit_code, failed.stdout) == (1, "")
    both = CliRunner().invoke(app, ["status", queue.enqueue(add, 1).id, "--watch", "--follow"])
    assert (both.exit_code, both.stderr) == (2, "error: --follow and --watch exclude each other: give one of them\n")


def test_the_number_after_watch_may_be_left_out() -> None:
    assert completed(["stats", "--watch", "--json"]) == ["stats", "--watch=2", "--json"]
    assert completed(["stats", "--watch"]) == ["stats", "--watch=2"]
    assert completed(["stats", "--watch", "5s"]) == ["stats", "--watch", "5s"]
    assert completed(["enqueue", "--", "t", "--watch"]) == ["enqueue", "--", "t", "--watch"]
    refused = CliRunner().invoke(app, ["stats", "--watch=soon"])
    assert refused.exit_code == 2
    assert "'soon'" in refused.stderr


def test_workers_are_listed_with_their_queues(queue: JobQueue) -> None:
    now = datetime.now(UTC)
    queue.operations.store.announce(WorkerStats("host-1-2-b", ("sums", "bulk"), ("cli_watch.add",), now), 60.0)
    queue.operations.store.announce(WorkerStats("host-1-1-a", ("sums",), (), now), 60.0)
    result = CliRunner().invoke(app, ["workers"])
    header, *rows = (line.split() for line in result.stdout.splitlines())
    assert header[0] == "worker"
    assert [row[:4] for row in rows] == [["host-1-1-a", "sums", "0", "0"], ["host-1-2-b", "sums,", "bulk", "1"]]
    found = json.loads(CliRunner().invoke(app, ["workers", "--json"]).stdout)
    assert [(worker["name"], worker["queues"], worker["tasks"]) for worker in found] == [
        ("host-1-1-a", ["sums"], []),
        ("host-1-2-b", ["sums", "bulk"], ["cli_watch.add"]),
    ]


INTERRUPTED_IMPORT = """
import signal, sys
from queueport.cli import main
class Finder:
    def find_spec(self, name, *_):
        if name == "queueport.cli.jobs":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder())
main()
"""
"""A program that gets SIGINT while it imports the commands."""

INTERRUPTED_CLOSE = """
import atexit, signal
from queueport import JobQueue
from queueport.cli import main
def interrupt(*_):
    signal.raise_signal(signal.SIGINT)
close = JobQueue.close
def closing(queue):
    interrupt()
    close(queue)
    print("closed")
JobQueue.stats, JobQueue.close = interrupt, closing
atexit.register(interrupt)
main()
"""
"""A program that gets SIGINT while the command runs, and again while it closes and while Python exits."""


@pytest.mark.parametrize(
    ("program", "printed"),
    [(INTERRUPTED_IMPORT, ""), (INTERRUPTED_CLOSE, "closed\n")],
    ids=["during the imports", "while the command closes"],
)
def test_ctrl_c_ends_a_command_with_its_code_and_without_a_traceback(
    queue: JobQueue, program: str, printed: str
) -> None:
    command = [sys.executable, "-c", program, "stats", "--watch", "1"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, printed, "")

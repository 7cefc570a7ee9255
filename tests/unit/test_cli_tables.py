"""Tables of the command line fit the terminal, and nothing in them is lost. For authors of commands."""

import io
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from queueport import Abort, JobQueue, get_queue, task
from queueport.cli import output
from tests.unit.terminal import Terminal

ERROR = "could not connect to smtp.example.com:587, because the server did not answer; 接続できません"


@task(name="cli_tables.notifications.send_a_very_long_welcome_email_to_the_customer", queue="notifications-high")
def send(number: int) -> None:
    raise Abort(ERROR)


def rendered(made: object, width: int) -> list[str]:
    """The lines that this table has in a terminal of this width."""
    file = io.StringIO()
    Console(file=file, width=width, highlight=False, markup=False).print(made)
    return file.getvalue().splitlines()


texts = st.text(st.sampled_from("ab ._/-語ü"), max_size=90)


@settings(max_examples=200)
@given(data=st.data(), width=st.integers(40, 200))
def test_every_character_of_a_table_is_printed_within_the_width(data: st.DataObject, width: int) -> None:
    columns = data.draw(st.lists(st.sampled_from(["name", "long column", ">number", ">n"]), min_size=2, max_size=9))
    columns = ["key", *columns]
    cells = [st.integers(0, 10**8).map(str) if column.startswith(">") else texts for column in columns]
    rows = data.draw(st.lists(st.tuples(*cells), max_size=4))
    lines = rendered(output.table(columns, rows), width)
    assert max(map(cell_len, lines), default=0) <= width
    given_characters = Counter("".join("".join(row) for row in rows).replace(" ", ""))
    printed = Counter("".join(lines))
    assert all(printed[character] >= n for character, n in given_characters.items())


def test_a_table_that_fits_is_printed_on_one_line_for_each_row() -> None:
    rows = [("a", 1, "short"), ("bb", 20, "x" * 40)]
    assert rendered(output.table(("name", ">n", "note"), rows), 60) == [
        "name   n  note",
        "a      1  short",
        f"bb    20  {'x' * 40}",
    ]


def test_a_last_column_without_room_is_printed_below_its_row() -> None:
    made = output.table(("name", ">n", "note"), [("a" * 40, 1, "one two three four"), ("b", 2, "")])
    assert rendered(made, 50) == [
        f"name{' ' * 37} n",
        "    note",
        f"{'a' * 40}  1",
        "    one two three four",
        f"b{' ' * 40} 2",
    ]


def test_numbers_that_do_not_fit_continue_in_a_second_table() -> None:
    columns = ("queue", *(f">{name * 8}" for name in "abcdef"))
    lines = rendered(output.table(columns, [("q", *range(6))]), 40)
    assert lines == [
        "queue  aaaaaaaa  bbbbbbbb  cccccccc",
        "q             0         1         2",
        "",
        "queue  dddddddd  eeeeeeee  ffffffff",
        "q             3         4         5",
    ]


def test_ids_are_shortened_only_as_far_as_they_differ() -> None:
    rows = [("0123456789abcdef" * 2, "x" * 30, 1), ("0123456789ab" + "f" * 20, "y" * 30, 2)]
    wide, narrow = (rendered(output.table(("id", "task", ">n"), rows, ids="id"), width) for width in (70, 50))
    assert [line.split()[0] for line in wide[1:]] == [row[0] for row in rows]
    assert [line.split()[0] for line in narrow[1:]] == ["0123456789abc", "0123456789abf"]


def test_rows_without_columns_to_fold_are_not_lost_in_a_very_narrow_terminal() -> None:
    (made,) = rendered(output.table(("", ""), [("arguments", "1")]), 5)[:1]
    assert made.startswith("argum")


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobQueue]:
    monkeypatch.setenv("QUEUEPORT_URL", f"sqlite:///{tmp_path}/jobs.db")
    with get_queue(os.environ["QUEUEPORT_URL"]) as opened:
        yield opened


@pytest.fixture
def job(queue: JobQueue) -> str:
    """The id of a dead job with a long name and a long error."""
    handle = queue.enqueue(send, 1)
    queue.worker("notifications-high", tasks=[send], burst=True).run()
    return handle.id


COMMANDS = [
    ("dead", "list"),
    ("jobs",),
    ("stats",),
    ("history", "--since", "2m"),
    ("schedules", "list"),
    ("backends",),
    ("contract", "--list"),
]


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_prints_all_columns_in_a_terminal(job: str, command: tuple[str, ...], width: int) -> None:
    piped = [sys.executable, "-m", "queueport", *command]
    columns = subprocess.run(piped, capture_output=True, text=True, check=True).stdout.split("\n")[0].split()
    with Terminal(*command, width=width) as terminal:
        code, text = terminal.end()
    assert code == 0
    assert max(map(cell_len, text.splitlines())) <= width
    assert [column for column in columns if column not in text.split()] == []


def test_the_error_of_a_dead_job_is_shown_in_a_terminal_of_80_columns(job: str) -> None:
    with Terminal("dead", "list", width=80) as terminal:
        _, text = terminal.end()
    assert ERROR[:60] in " ".join(text.split())
    assert text.splitlines()[2].split()[0] == job[: len(text.splitlines()[2].split()[0])]


def test_columns_in_the_environment_is_the_width_of_a_terminal_but_not_of_a_pipe(job: str) -> None:
    with Terminal("dead", "list", width=80, environment={"COLUMNS": "300"}) as terminal:
        _, text = terminal.end()
    assert max(map(len, text.splitlines())) > 150
    piped = subprocess.run(
        [sys.executable, "-m", "queueport", "dead", "list"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "40"},
    )
    assert job in piped.stdout
    assert ERROR[:60] in piped.stdout

"""What the command line tells about itself: help, completion, its page in the docs. For those who add a command."""

import re
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from queueport.cli.app import app


def shown(*words: str) -> str:
    """What a command printed that must succeed."""
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize("words", [("--help",), ("worker", "--help"), ("dead", "--help"), ("dead", "purge", "--help")])
def test_every_command_has_help(words: tuple[str, ...]) -> None:
    assert "--help" in shown(*words)


def test_help_tells_the_exit_codes() -> None:
    assert "Exit codes: 0 done; 1 the queue said no" in " ".join(shown("--help").split())


def test_the_shell_can_complete_commands_and_states(monkeypatch: pytest.MonkeyPatch) -> None:
    def completed(words: str) -> set[str]:
        monkeypatch.setenv("_QUEUEPORT_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
        return set(shown().split())

    assert completed("queueport retr") == {"retry"}
    assert completed("queueport jobs --state s") == {"scheduled", "succeeded"}


def test_the_page_about_the_command_line_names_every_command() -> None:
    page = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()
    in_page = {re.sub(r" [^a-z].*", "", name) for name in re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)}
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    letters = root.commands["dead"]
    assert isinstance(letters, TyperGroup)
    assert in_page == {*root.commands} - {"dead"} | {f"dead {name}" for name in letters.commands}

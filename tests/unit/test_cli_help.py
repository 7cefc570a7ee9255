"""Help, shell completion and the documentation page of the command line. For those who add a command."""

import re
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from queueport.cli.app import app


def stdout(*arguments: str) -> str:
    """Run a command that must succeed; returns what it printed."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("worker", "--help"),
        ("dead", "--help"),
        ("dead", "purge", "--help"),
        ("-h",),
        ("dead", "purge", "-h"),
    ],
)
def test_every_command_has_help(arguments: tuple[str, ...]) -> None:
    assert "--help" in stdout(*arguments)


def test_help_lists_the_exit_codes() -> None:
    assert "Exit codes: 0 success; 1 the operation failed" in " ".join(stdout("--help").split())


def test_shell_completion_completes_commands_and_states(monkeypatch: pytest.MonkeyPatch) -> None:
    def completed(line: str) -> set[str]:
        monkeypatch.setenv("_QUEUEPORT_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
        return set(stdout().split())

    assert completed("queueport retr") == {"retry"}
    assert completed("queueport jobs --state s") == {"scheduled", "succeeded"}


def test_the_documentation_lists_every_command() -> None:
    page = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()
    in_page = {re.sub(r" [^a-z].*", "", name) for name in re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)}
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    groups = {name: command for name, command in root.commands.items() if isinstance(command, TyperGroup)}
    grouped = {f"{name} {command}" for name, group in groups.items() for command in group.commands}
    assert in_page == {*root.commands} - {*groups} | grouped

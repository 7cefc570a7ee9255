"""Help, shell completion and the documentation page of the command line. For those who add a command."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from queueport.cli.app import app

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"


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


COMPLETE = """
eval "$(_QUEUEPORT_COMPLETE=source_bash queueport)"
for line in "$@"; do
    read -ra COMP_WORDS <<< "$line"
    COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
    $(complete -p queueport | sed 's/.*-F //; s/ .*//') queueport
    echo "${COMPREPLY[*]}"
done
"""
"""A script that completes the last word of each line, as bash does after the Tab key."""


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_options_and_states(tmp_path: Path) -> None:
    (tmp_path / "queueport").write_text(f'#!/bin/sh\nexec {sys.executable} -m queueport "$@"\n')
    (tmp_path / "queueport").chmod(0o755)
    lines = ("queueport st", "queueport dead r", "queueport jobs --state s", "queueport stats --w")
    result = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE, "bash", *lines],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert result.stdout.splitlines() == ["status stats", "retry retry-all", "scheduled succeeded", "--watch"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_documented_line_prints_a_script_for_each_shell(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"_QUEUEPORT_COMPLETE=source_{shell} queueport" in PAGE.read_text()
    monkeypatch.setenv("_QUEUEPORT_COMPLETE", f"source_{shell}")
    assert f"_QUEUEPORT_COMPLETE=complete_{shell}" in stdout()


def test_the_documentation_lists_every_command() -> None:
    page = PAGE.read_text()
    in_page = {re.sub(r" [^a-z].*", "", name) for name in re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)}
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    groups = {name: command for name, command in root.commands.items() if isinstance(command, TyperGroup)}
    grouped = {f"{name} {command}" for name, group in groups.items() for command in group.commands}
    assert in_page == {*root.commands} - {*groups} | grouped

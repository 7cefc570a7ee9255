"""The code blocks of the documentation: how they are found in a page, and how they are run. For test_pages.py.

- A Python block whose first line is `# NAME.py` is a file. It is imported, unless a command of the page names it.
- The other Python blocks of a page are one program. It runs last, with pytest if it contains tests. What it needs, and
  readers need not see, is in the folder `pages/PAGE`: its files are copied next to those of the page, and the program
  begins with `from context import *` if there is a `context.py`.
- Console blocks run in one shell for each page. Their commands must succeed, and print the lines that are shown, if
  there are any. In these, the line `...` stands for any lines, and `…` for any characters.
- A block that cannot be run has the title `not run: REASON`, which readers of the site see above the block.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import typer
from typer.core import TyperGroup

from queueport.cli.app import app
from tests.examples.backends import redis

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    {
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/guide/README.md")),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("adapters/[!_]*/README.md"),
    }
)
LANGUAGES = ("python", "console", "text", "toml", "yaml", "ini", "json", "dockerfile", "js", "ruby", "php")
"""The languages of blocks. A block of plain text, such as a diagram or a log line, is `text`."""
FENCE = re.compile(r"^( *)```([^`\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INFO = re.compile(r'(\w+)(?: title="not run: ([^"]+)")?')
"""The text after a fence: the language, and why the block is not run."""
FILE = re.compile(r"# (\w+\.py)\n")
REDIS = "redis://localhost:6379/0"
"""In commands, this URL is replaced by that of the Redis of the tests."""


@dataclass(frozen=True)
class Block:
    """A fenced code block. `line` is the number of its first line of code, from 1; `info` is the text after the fence.

    `language` is None if `info` is not valid.
    """

    line: int
    info: str
    code: str

    @property
    def language(self) -> str | None:
        match = INFO.fullmatch(self.info)
        return match[1] if match is not None and match[1] in LANGUAGES else None

    @property
    def runs(self) -> bool:
        return self.info in ("python", "console")

    @property
    def file(self) -> str | None:
        """The name of the file that the block contains."""
        match = FILE.match(self.code)
        return None if match is None else match[1]

    @property
    def commands(self) -> list[tuple[str, str]]:
        """The commands of a console block, each with the output that is printed below it."""
        parts = re.split(r"^\$ ", self.code, flags=re.MULTILINE)
        assert parts[0] == "", f"line {self.line}: a console block begins with `$ `"
        commands = [re.fullmatch(r"((?:[^\n]*\\\n)*[^\n]*\n)(.*)", part, re.DOTALL) for part in parts[1:]]
        return [(match[1].strip(), match[2]) for match in commands if match]


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in their order."""
    text = page.read_text()
    return [
        Block(text.count("\n", 0, match.start(3)) + 1, match[2], textwrap.dedent(match[3]))
        for match in FENCE.finditer(text)
    ]


def queueport_calls(command: str) -> Iterator[list[str]]:
    """The arguments of each call of the command `queueport` in a line for a shell, also as `manage.py queueport`."""
    calls: list[list[str]] = [[]]
    for word in shlex.split(command, comments=True, posix=True):
        if word in ("&&", "||", "|", "&", ";", "then"):
            calls.append([])
        else:
            calls[-1].append(word)
    for words in calls:
        for place, word in enumerate(words):
            if Path(word).name == "queueport" and words[place - 1 : place] not in (["install"], ["-e"]):
                yield words[place + 1 :]
                break


def check_call(words: list[str]) -> None:
    """Raise an error of click if `queueport` has no such command, option or argument. Runs nothing."""
    command = typer.main.get_command(app)
    context = command.make_context("queueport", list(words))
    with suppress(typer.Exit):  # of options such as --help
        while isinstance(command, TyperGroup):
            name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            assert found is not None
            command, context = found, found.make_context(name, list(rest), parent=context)


class Shell:
    """A bash in a folder. Of queueport's settings, only the URL of a queue in this folder is set."""

    def __init__(self, folder: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("QUEUEPORT_")}
        programs = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        self.environment = {**kept, "PATH": programs, "COLUMNS": "160", "QUEUEPORT_URL": "sqlite:///jobs.db"}
        self._folder = folder
        self._errors = (folder / "stderr.txt").open("w+")

    def __enter__(self) -> Self:
        self._bash = subprocess.Popen(
            ["bash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=self._folder,
            env=self.environment,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.communicate()
        self._errors.close()

    def run(self, command: str) -> str:
        """Run a command that must succeed; returns what it printed to standard output."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        mark = uuid.uuid4().hex
        self._bash.stdin.write(f"{command}\necho {mark} $?\n")
        self._bash.stdin.flush()
        output = ""
        for line in self._bash.stdout:
            text, found, code = line.partition(mark)
            output += text
            if found:
                assert int(code) == 0, f"`{command}` failed:\n{output}{self.errors}"
                return output
        raise AssertionError(f"`{command}` has ended the shell:\n{output}{self.errors}")

    @property
    def errors(self) -> str:
        """What all commands have printed to standard error."""
        self._errors.seek(0)
        return self._errors.read()

    def stop_jobs(self) -> None:
        """Send SIGTERM to the commands in the background. Each must then exit with code 0."""
        self.run("for job in $(jobs -p); do kill $job; wait $job || exit 1; done")


def run_page(page: Path, folder: Path) -> None:
    """Run the blocks of a page in this empty folder. Raises AssertionError if one of them fails."""
    hidden = Path(__file__).parent / "pages" / (page.stem if page.stem != "README" else page.parent.name)
    if hidden.exists() and page.parent != ROOT:
        shutil.copytree(hidden, folder, dirs_exist_ok=True)
    blocks = [block for block in blocks_of(page) if block.runs]
    commands = "\n".join(block.code for block in blocks if block.language == "console")
    program = [""] * (page.read_text().count("\n") + 1)  # each line of code has the number that it has in the page
    with Shell(folder) as shell:
        for block in blocks:
            if block.language == "console":
                for command, printed in block.commands:
                    check_output(command, printed, shell.run(on_servers(command)))
            elif block.file is None:
                program[block.line - 1 : block.line - 1 + block.code.count("\n")] = block.code.splitlines()
            else:
                (folder / block.file).write_text(block.code)
                if Path(block.file).stem not in commands:
                    shell.run(run_file(block.file, block.code))
        shell.stop_jobs()
        if any(program):
            program[0] = "from context import *" if (folder / "context.py").exists() else ""
            code = "\n".join(program)
            (folder / "test_page.py").write_text(code)
            shell.run(run_file("test_page.py", code))


def on_servers(command: str) -> str:
    """The command with the URLs of the servers of the tests."""
    return command.replace(REDIS, redis().url) if REDIS in command else command


def run_file(name: str, code: str) -> str:
    """The command that runs a Python file: with pytest if it has tests, else as an import, as a worker would do it."""
    tests = re.search(r"^ *(?:async )?def test_", code, re.MULTILINE)
    return f"python -m pytest -q {name} 1>&2" if tests else f"python -c 'import {Path(name).stem}' 1>&2"


def check_output(command: str, printed: str, output: str) -> None:
    """Raise AssertionError if a command has not printed what the page shows."""
    if not printed:
        return
    lines = [re.escape(line).replace("…", ".*") for line in printed.rstrip().splitlines()]
    pattern = "\n".join("(?:.*\n)*.*" if line == re.escape("...") else line for line in lines)
    shown = "\n".join(line.rstrip() for line in output.rstrip().splitlines())
    assert re.fullmatch(pattern, shown), f"`{command}` printed\n{output}\nbut the page shows\n{printed}"

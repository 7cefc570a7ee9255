"""How a command ends: its exit code, and the one sentence on standard error where it failed. For the command line."""

import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from queueport.cli.logs import one_line
from queueport.errors import ConfigurationError, DuplicateJob, InvalidJob, QueueportError, Unsupported
from queueport.url import hidden

__all__ = ["CLOSED_PIPE", "FAILED", "INTERRUPTED", "WRONG", "CommandLine", "say"]

FAILED = 1
"""The queue said no: not found, wrong state, not reachable, not healthy."""
WRONG = 2
"""The command, a setting, a task module or a job's arguments are wrong: the same command fails again."""
INTERRUPTED = 130
"""Ctrl-C."""
CLOSED_PIPE = 141
"""Whoever read the output has closed it."""

WRONG_INPUT = (ConfigurationError, InvalidJob, Unsupported)
USAGE_ERROR: Any = typer.BadParameter.__base__  # typer exports its subclass only


class CommandLine(TyperGroup):
    """The root command. However a command ends, this makes one exit code and at most one sentence of it."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command and exit. The name is always `queueport`, as `python -m queueport` is the same command."""
        run, given = super().main, sys.argv[1:] if args is None else args
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack characters that a job has
        sys.exit(ending(lambda: run(_words(given), "queueport", complete_var, standalone_mode=False, **extra)))

    def invoke(self, ctx: Any) -> Any:
        """Run the command; whoever closed its output has seen enough, and that is no error."""
        try:
            answer = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            raise typer.Exit(_closed_pipe()) from None
        return answer


def ending(run: Callable[[], Any]) -> int:
    """The exit code of a command."""
    try:
        code = run()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except USAGE_ERROR as error:
        if error.format_message():  # else there were no words at all, and typer has printed the help
            command = "queueport" if error.ctx is None else error.ctx.command_path
            say(f"{error.format_message().rstrip('.')}; `{command} --help` tells more")
        return WRONG
    except QueueportError as error:
        say(str(error))
        return WRONG if isinstance(error, WRONG_INPUT) and not isinstance(error, DuplicateJob) else FAILED
    except Exception:  # noqa: BLE001  # nobody expected this one: it is shown whole, without passwords
        sys.stderr.write(hidden(traceback.format_exc()))
        return FAILED


def say(sentence: str) -> None:
    """One line on standard error, without passwords."""
    sys.stderr.write(f"error: {one_line(hidden(sentence))}\n")


def _words(given: Sequence[str]) -> list[str]:
    """The words of a command line, which must be text."""
    for word in given:
        if any("\ud800" <= c <= "\udfff" for c in word):
            raise ConfigurationError(f"the argument '{one_line(word)}' is no text: write it in UTF-8")
    return list(given)


def _closed_pipe() -> int:
    """Let the interpreter's last flush go nowhere, for it would complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return CLOSED_PIPE

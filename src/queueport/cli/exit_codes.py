"""The exit codes of the commands, and the line on standard error if a command fails. For the commands."""

import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from queueport.cli.options import completed
from queueport.cli.output import one_line
from queueport.errors import ConfigurationError, DuplicateJob, InvalidJob, QueueportError, Unsupported
from queueport.spi.url import hidden

FAILED = 1
"""The operation failed: a job is missing, in the wrong state or a duplicate, or (with --follow) ended without success,
the backend or the store did not answer, a check failed, or there was an unexpected error."""
INVALID = 2
"""The command line, a setting, a task module or a job's arguments are invalid, the backend lacks a feature, or the
backend or the store refuses the call until the URL or the server's configuration is changed. The same command then
fails again until the cause is corrected."""
INTERRUPTED = 130
"""The user pressed Ctrl-C."""
CLOSED_OUTPUT = 141
"""The program that reads the command's output, such as `head`, closed it before the command had written everything."""

INVALID_INPUT = (ConfigurationError, InvalidJob, Unsupported)
USAGE_ERROR: Any = typer.BadParameter.__base__  # the base of all usage errors, which typer does not export


class CommandLine(TyperGroup):
    """The root command: turns each outcome of a command into an exit code, and an expected error into one line."""

    def main(self, args: Sequence[str] | None = None, *_: Any, **given: Any) -> Any:
        """Run a command and exit. Help texts name the program `queueport`, also for `python -m queueport`."""
        run, arguments = super().main, sys.argv[1:] if args is None else args
        given.update(prog_name="queueport", standalone_mode=False)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # escape characters that the terminal cannot encode
        sys.exit(_exit_code(lambda: run(completed(_checked(arguments)), **given)))

    def invoke(self, ctx: Any) -> Any:
        """Run the command. If the reader closes the output (`| head`), exit without an error message."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            devnull = os.open(os.devnull, os.O_WRONLY)  # so that Python's flush at exit does not fail
            os.dup2(devnull, sys.stdout.fileno())
            os.close(devnull)
            raise typer.Exit(CLOSED_OUTPUT) from None
        return result


def _exit_code(run: Callable[[], Any]) -> int:
    """Run the command and return its exit code. Prints an expected error in one line, a bug with its traceback."""
    try:
        code = run()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except USAGE_ERROR as error:
        if error.format_message():  # the message is empty if typer has printed the help
            command = "queueport" if error.ctx is None else error.ctx.command_path
            message = error.format_message().rstrip(".").replace(": Value error, ", ": ")
            print_error(f"{message}{_before_dashes(error)}; see `{command} --help`")
        return INVALID
    except QueueportError as error:
        print_error(str(error))
        return INVALID if isinstance(error, INVALID_INPUT) and not isinstance(error, DuplicateJob) else FAILED
    except Exception:  # noqa: BLE001  # a bug: print the traceback, without passwords
        sys.stderr.write(hidden(traceback.format_exc()))
        return FAILED


def _before_dashes(error: Any) -> str:
    """What to write if an argument of a job was taken for an option."""
    takes_arguments = error.ctx is not None and any(each.name == "arguments" for each in error.ctx.command.params)
    if takes_arguments and hasattr(error, "option_name"):
        return "; write `--` before arguments that begin with a dash, as in `-- -1 2`"
    return ""


def print_error(sentence: str) -> None:
    """Print one line on standard error, without passwords."""
    sys.stderr.write(f"error: {one_line(hidden(sentence))}\n")


def _checked(arguments: Sequence[str]) -> list[str]:
    """Return these arguments. Raises ConfigurationError if an argument is not valid UTF-8."""
    for argument in arguments:
        if any("\ud800" <= c <= "\udfff" for c in argument):  # Python decodes invalid bytes to surrogates
            raise ConfigurationError(f"the argument '{one_line(argument)}' is not valid UTF-8: encode it as UTF-8")
    return list(arguments)

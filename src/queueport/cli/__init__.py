"""The command line `queueport`; `main` is its entry point. docs/command-line.md describes the commands to operators."""

import os
import signal
import sys
import threading
import time
from typing import NoReturn

__all__ = ["main"]

EXIT_TIMEOUT = 5.0
"""Maximum seconds that an exiting process waits, in all, for its threads and functions registered with `atexit`. For
the same time after Ctrl-C, another Ctrl-C is ignored."""
INTERRUPTED = 130


def main() -> None:
    """Run the command in `sys.argv`. Then exit within EXIT_TIMEOUT, even if threads of tasks still run."""
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else a shell has made the command ignore it
            signal.signal(signal.SIGINT, _interrupt)
        try:
            from queueport.cli.app import app

            app()
        except KeyboardInterrupt:  # during the imports
            sys.exit(INTERRUPTED)
    except SystemExit as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Python would print a traceback and exit with another code
        timer = threading.Timer(EXIT_TIMEOUT, os._exit, [error.code])
        timer.daemon = True
        timer.start()
        raise


def _interrupt(number: int, _: object) -> NoReturn:
    """Handle SIGINT: raise KeyboardInterrupt, and ignore the signal while the command closes."""
    ignored_until = time.monotonic() + EXIT_TIMEOUT

    def interrupt_again(number: int, frame: object) -> None:
        if time.monotonic() >= ignored_until:
            _interrupt(number, frame)

    signal.signal(number, interrupt_again)
    raise KeyboardInterrupt

"""The command line `queueport`; `main` is its entry point. docs/command-line.md describes the commands to operators."""

import os
import threading

__all__ = ["main"]

EXIT_TIMEOUT = 5.0
"""Maximum seconds that an exiting process waits, in all, for its threads and functions registered with `atexit`."""


def main() -> None:
    """Run the command in `sys.argv`. Then exit within EXIT_TIMEOUT, even if threads of tasks still run."""
    from queueport.cli.app import app

    try:
        app()
    except SystemExit as error:
        timer = threading.Timer(EXIT_TIMEOUT, os._exit, [error.code])
        timer.daemon = True
        timer.start()
        raise

"""The command line `queueport`; `main` is its entry point. For operators, who find it in docs/command-line.md."""

import os
import threading

__all__ = ["main"]

LAST_WORD = 5.0
"""Seconds that an exiting process has for what was registered with `atexit`."""


def main() -> None:
    """Run the command that `sys.argv` names, and exit, whatever threads its tasks have left behind."""
    from queueport.cli.app import app

    try:
        app()
    except SystemExit as ending:
        last = threading.Timer(LAST_WORD, os._exit, [ending.code])
        last.daemon = True
        last.start()
        raise

"""`Terminal`: runs a command in a terminal of a given width. For the tests in this folder."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

CODES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9])")
"""The control sequences for colours, the cursor and the like."""


class Terminal:
    """A process `queueport ARGUMENTS` in a terminal, or another program of Python.

    `text` is what it has printed, without control sequences.
    """

    def __init__(
        self,
        *arguments: str,
        width: int = 80,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "queueport"),
    ) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
        kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**kept, "TERM": "xterm-256color", **(environment or {})},
            start_new_session=True,
        )
        os.close(theirs)
        self.raw = b""

    @property
    def text(self) -> str:
        return CODES.sub("", self.raw.decode("utf-8", "replace")).replace("\r\n", "\n").replace("\r", "\n")

    def read(self, timeout: float) -> bool:
        """Read what the process has printed within `timeout` seconds. Returns False if the terminal was closed."""
        if select.select([self._ours], [], [], timeout)[0]:
            try:
                some = os.read(self._ours, 65_536)
            except OSError:  # Linux reports the end of a terminal as an error
                return False
            self.raw += some
            return bool(some)
        return True

    def write(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._ours, keys)

    def until(self, condition: Callable[[str], bool], timeout: float = 30.0) -> str:
        """Read until the text meets the condition, and return the text. Fails after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not condition(self.text):
            assert time.monotonic() < deadline, self.text
            assert self.read(0.1) or condition(self.text), self.text
        return self.text

    def end(self, timeout: float = 30.0) -> tuple[int, str]:
        """Read until the process ends. Returns its exit code and the text."""
        deadline = time.monotonic() + timeout
        while self.read(0.1):
            assert time.monotonic() < deadline, self.text
        return self.process.wait(timeout), self.text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

"""Code that cannot be interrupted ends only with its process, so a worker makes itself a fresh one. For `worker`.

The new process has the same pid, arguments and parent, so that whoever watches over the worker notices nothing. It
learns what it is to record through a pipe: no other process can read that, and nothing is left behind, which is not so
of a file; and the environment of a process can be read in /proc and by its children. The environment has the number of
the pipe only, and the pid that it is for, and loses both at once.
"""

import json
import logging
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["Legacy", "inherit", "replace_process"]

logger: logging.Logger = logging.getLogger("queueport")

VARIABLE = "QUEUEPORT_SUCCESSOR"
STARTED_IN = Path.cwd()
"""A task may change the folder; relative paths among the arguments mean this one."""


@dataclass(frozen=True, slots=True)
class Legacy:
    """What the process before this one left behind."""

    stuck: list[dict[str, Any]] = field(default_factory=list)
    """Attempts whose code ended with it."""
    stopping: bool = False
    """It had been stopped: nothing but recording them is left to do."""


def replace_process(legacy: Legacy) -> NoReturn:
    """Start this process anew, with what is to be recorded; does not return."""
    logger.warning("%d jobs cannot be interrupted: this process makes itself a fresh one", len(legacy.stuck))
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.set_inheritable(reading, True)
    for written, attempt in enumerate(legacy.stuck):
        try:
            os.write(writing, json.dumps(attempt).encode() + b"\n")
        except BlockingIOError:  # the pipe is full: hundreds at once
            logger.warning("%d of them wait for their leases to lapse", len(legacy.stuck) - written)
            break
    os.environ[VARIABLE] = f"{os.getpid()} {reading} {'stop' if legacy.stopping else 'go'}"
    logging.shutdown()
    sys.stdout.flush()
    try:
        os.chdir(STARTED_IN)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  # no shell is the point
    except OSError as error:
        sys.stderr.write(f"error: the worker cannot start itself anew: {error}\n")
        os._exit(1)


def inherit() -> Legacy:
    """What this process was started to record; nothing for most."""
    words = os.environ.pop(VARIABLE, "").split()
    if len(words) != 3 or words[0] != str(os.getpid()):
        return Legacy()
    with open(int(words[1]), "rb") as pipe:  # noqa: PTH123  # a descriptor is no path
        lines = pipe.read().splitlines(keepends=True)
    stuck = []
    for line in lines:
        with suppress(ValueError):  # the last one may have been cut off by a full pipe
            stuck.append(json.loads(line))
    return Legacy(stuck, stopping=words[2] == "stop")

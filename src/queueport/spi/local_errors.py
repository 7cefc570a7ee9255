"""Explains connection errors that are caused by this process or the URL. For authors of stores and adapters."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

__all__ = ["causes", "local_error"]

NO_DESCRIPTORS = (
    "cannot be used because this process has no file descriptors left: close files, or raise the limit (`ulimit -n`)"
)
WRONG_HOST = "has a host name that is not valid: correct it in the URL"


def local_error(error: BaseException) -> str | None:
    """The end of a sentence about a server, such as "has a host name that is not valid: correct it in the URL".

    The text says what happened and what to do. Recognises a host name that is not valid, and a process without free
    file descriptors; returns None if neither the error nor its causes show one of these.
    """
    for cause in causes(error):
        if isinstance(cause, UnicodeError) and "label" in str(cause):  # the codec "idna" refused the host name
            return WRONG_HOST
        if isinstance(cause, OSError) and (cause.errno in (errno.EMFILE, errno.ENFILE) or _unresolved(cause)):
            return NO_DESCRIPTORS
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error, then its cause (without a cause: its context), then the cause or context of that, and so on.

    Many libraries keep the operating system's error as the context of their own error.
    """
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _unresolved(error: OSError) -> bool:
    """True if a host name was not found and this process has no file descriptor left, which is probably the cause.

    The resolver's error does not show this cause, so this function tries to open a file.
    """
    if not isinstance(error, socket.gaierror):
        return False
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return True
    return False

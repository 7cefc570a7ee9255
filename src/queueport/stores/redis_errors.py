"""What went wrong with a Redis server, in one sentence that says what to do. For readers of the Redis store."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator

from redis import exceptions
from redis.sentinel import MasterNotFoundError

from queueport.errors import BackendUnavailable

__all__ = ["read_only", "unavailable"]

KINDS: tuple[tuple[type[BaseException], str], ...] = (
    (ConnectionRefusedError, "refuses connections: start it, or name another"),
    (FileNotFoundError, "has no socket at that path: start it, or name another"),
    (PermissionError, "cannot be opened: give this user the right to use its socket"),
    (socket.gaierror, "has a host name that cannot be resolved: correct it in the URL"),
    (ssl.SSLError, "cannot be reached over TLS: look at its port, the certificates and the ssl_ options"),
    (MasterNotFoundError, "has no primary that its sentinels know by that name: look at the service and the sentinels"),
    (exceptions.BusyLoadingError, "is still loading its data: try again in a while"),
    (exceptions.InvalidResponse, "does not speak as a Redis does: name the host and port of a Redis"),
)
"""By the type of the error, or of one that it came from."""
READ_ONLY = r"READONLY|ReadOnly|read only replica"
SAYINGS = (
    (READ_ONLY, "is a read-only replica: name the primary"),
    (r"OOM|OutOfMemory", "has no memory left: raise its maxmemory, or keep ended jobs for a shorter time"),
    (r"MISCONF", "accepts no writes, for it cannot save them: look at its log and its disk"),
    (r"DB index is out of range|SELECT is not allowed", "has no database of that number: name another, such as 0"),
    (r"NOPERM|NoPermission", "does not let this user do that: its ACL must allow the keys, channels and commands used"),
    (r"NOAUTH|Authentication required", "wants a password: write it into the URL, redis://:PASSWORD@host"),
    (r"Authentication|WRONGPASS", "does not accept this user and password: correct them in the URL"),
    (r"max number of clients", "has no connection left: raise its maxclients, or close some"),
    (r"BUSY ", "is busy with a script that does not end: look at it, and call SCRIPT KILL"),
    (r"CLUSTERDOWN|MASTERDOWN|NOREPLICAS", "takes no writes at present, for other servers of its group are missing"),
    (
        r"WRONGTYPE",
        "has something else where a queue should be: delete that, or take another database or namespace",
    ),
    (r"unknown command", "lacks a command: queueport needs Redis 6.2, or Valkey, or what does the same"),
    (r"[Cc]onnection closed|reset by peer|Broken pipe", "closed the connection: is a Redis listening there?"),
)
"""By what the library says, which keeps the server's own words."""


def unavailable(shown: str, error: Exception, call_timeout: float) -> BackendUnavailable:
    """The error for callers. `shown` is the URL without its password."""
    return BackendUnavailable(f"the Redis at {shown} {_explained(shown, error, call_timeout)}")


def read_only(error: object) -> bool:
    """Whether the server says that it is no primary (any more)."""
    return isinstance(error, Exception) and re.search(READ_ONLY, _said(error)) is not None


def _explained(shown: str, error: Exception, call_timeout: float) -> str:
    for cause in _causes(error):
        for kind, sentence in KINDS:
            if isinstance(cause, kind):
                return sentence
    if isinstance(error, exceptions.TimeoutError):
        look = "whether it speaks TLS, and at" if shown.startswith("rediss") else "at the server and"
        return f"did not answer within {call_timeout:g} s: look {look} the network, or raise call_timeout"
    for pattern, sentence in SAYINGS:
        if re.search(pattern, _said(error)):
            return sentence
    return f"failed ({error}): look at the server and its log"


def _said(error: Exception) -> str:
    return f"{type(error).__name__} {error}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came from: the library leaves the system's own error behind it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__

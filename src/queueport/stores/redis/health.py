"""Explains errors of Redis, and finds problems of a server. For the Redis store, and for adapters on Redis."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from redis import exceptions
from redis.sentinel import MasterNotFoundError

from queueport.errors import BackendMisconfigured, BackendUnavailable, ConfigurationError
from queueport.spi.local_errors import causes, local_error
from queueport.spi.url import hidden

__all__ = ["FAILURES", "NOT_SENT", "not_connected", "read_only", "refused", "unavailable", "warnings"]

FAILURES = (exceptions.RedisError, OSError, UnicodeError)
"""The exceptions that redis-py raises if a call to a server fails. UnicodeError: the host name is not valid."""

BY_TYPE: tuple[tuple[type[BaseException], str], ...] = (
    (ConnectionRefusedError, "refuses connections: start it, or correct the URL"),
    (socket.gaierror, "has a host name that cannot be resolved: correct it in the URL, or check the name server"),
    (ssl.SSLError, "cannot be reached over TLS ({}): check its port, the certificates and the ssl_ options"),
    (
        MasterNotFoundError,
        "has no primary that its sentinels have named ({}): check the service name in the URL, and that they run",
    ),
    (exceptions.BusyLoadingError, "is still loading its data ({}): try again later"),
    (exceptions.InvalidResponse, "does not speak the Redis protocol ({}): name the host and port of a Redis server"),
)
"""Pairs of an error type and an explanation. `_explained` uses the explanation if the error or one of its causes has
this type, unless the reason is in this process or a file cannot be opened: other texts explain these cases.

`{}` is replaced by the text of the error or cause that has the type.
"""
SOCKET: dict[type[BaseException], str] = {
    FileNotFoundError: "has no socket at that path: start it, or correct the URL",
    PermissionError: "cannot be opened: give this user the right to use its socket",
}
CERTIFICATE = "needs a certificate or key that cannot be read ({}): correct the path in the ssl_ option, or its rights"
SOCKET_OR_CERTIFICATE = "needs a file that cannot be opened ({}): check the paths of its socket and its certificates"
NO_FILE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
FAILED = "failed ({}): check the server and its log"
READ_ONLY = r"READONLY|ReadOnly|read only replica"
BY_TEXT = (
    (READ_ONLY, "is a read-only replica: name the primary"),
    (r"OOM|OutOfMemory", "has no memory left ({}): raise its maxmemory, or keep ended jobs for a shorter time"),
    (r"MISCONF", "rejects writes because it cannot save them ({}): check its log and its disk"),
    (r"DB index is out of range|SELECT is not allowed", "has no database of that number ({}): name another, such as 0"),
    (
        r"NOPERM|NoPermission|user executing the script can't",
        "denies this user permission ({}): its ACL must allow the keys, channels and commands used",
    ),
    (
        r"NOAUTH|Authentication required",
        "requires a password ({}): write it into the URL before the host, :PASSWORD@host",
    ),
    (r"Authentication|WRONGPASS", "does not accept this user and password ({}): correct them in the URL"),
    (r"max number of clients", "has no connection left ({}): raise its maxclients, or close some"),
    (r"BUSY ", "is busy with a script that does not end ({}): find the script, and call SCRIPT KILL"),
    (
        r"CLUSTERDOWN|MASTERDOWN|NOREPLICAS",
        "accepts no writes because other servers of its group are down ({}): check them",
    ),
    (r"path too long", "has a path that is too long for a socket: use a shorter one"),
    (
        r"WRONGTYPE",
        "has a key of another type where queueport keeps data ({}): delete it, or use another database or namespace",
    ),
    (
        r"unknown command",
        "lacks a command ({}): queueport needs Redis 6.2 or newer, or a compatible server such as Valkey",
    ),
    (
        r"[Cc]onnection closed|reset by peer|Broken pipe",
        "closed the connection: check that a Redis is listening there, with or without TLS as in the URL, and its log",
    ),
)
"""Pairs of a pattern and an explanation, for errors that BY_TYPE does not explain and that are not timeouts.

The first pair whose pattern is found in the name of the error's type or in its text applies. `{}` is replaced by this
text.
"""
PERMANENT = (
    r"DB index is out of range|SELECT is not allowed|NOPERM|NoPermission|user executing the script can't|NOAUTH"
    r"|Authentication|WRONGPASS|WRONGTYPE|unknown command|path too long"
)
"""A pattern. If it is found in the type or text of an error, the error lasts until somebody changes the server, its
data or the URL."""
NO_WRITES = rf"{READ_ONLY}|OOM|OutOfMemory|MISCONF|NOREPLICAS|NoReplicas"
"""A pattern. If it is found in the type or text of the answer to a script, the server has refused the script's first
write."""
NOT_SENT = "No command was sent to the Redis."
"""The note that `Redis` adds to the error of a call that cannot have had an effect: no connection could be opened, and
the server has not run the commands over an earlier connection."""
OLDEST_REDIS = (6, 2)
"""The oldest supported version of Redis."""
FULL = 0.9
"""`check` warns if the server uses more than this fraction of its `maxmemory`."""


def unavailable(shown: str, error: Exception, call_timeout: float) -> BackendUnavailable:
    """Turn one of the FAILURES into a `BackendUnavailable` that says what to do.

    `shown` is the URL without its password. If PERMANENT is found in the error, so that a repeated call would fail too,
    the result is a BackendMisconfigured, which is a BackendUnavailable.
    """
    kind = BackendMisconfigured if re.search(PERMANENT, _text(error)) else BackendUnavailable
    return kind(f"the Redis at {shown} {_explained(shown, error, call_timeout)}")


def read_only(error: object) -> bool:
    """True if `error`, which may be any answer of a server, says that the server is a read-only replica."""
    return isinstance(error, Exception) and re.search(READ_ONLY, _text(error)) is not None


def not_connected(error: BaseException) -> bool:
    """True if the call of `Redis` that raised the error certainly had no effect: the error or a cause has NOT_SENT."""
    return any(NOT_SENT in getattr(cause, "__notes__", ()) for cause in causes(error))


def refused(error: BaseException) -> bool:
    """True if the server has answered a script that it accepts no writes. The script has then written nothing."""
    cause = error.__cause__
    return isinstance(cause, exceptions.ResponseError) and re.search(NO_WRITES, _text(cause)) is not None


def _explained(shown: str, error: Exception, call_timeout: float) -> str:
    local = local_error(error)
    if local is not None:
        return local
    for cause in causes(error):
        if isinstance(cause, NO_FILE):
            return _unreadable(shown, cause)
        for kind, sentence in BY_TYPE:
            if isinstance(cause, kind):
                return sentence.format(_told(cause))
    if isinstance(error, exceptions.TimeoutError):
        check = "whether it uses TLS, and" if shown.startswith("rediss") else "the server and"
        return f"did not answer within {call_timeout:g} s: check {check} the network, or raise call_timeout"
    for pattern, sentence in BY_TEXT:
        if re.search(pattern, _text(error)):
            return sentence.format(_told(error))
    return FAILED.format(_told(error))


def _unreadable(shown: str, error: BaseException) -> str:
    """Explain that a file cannot be opened. Only the URL's scheme may show whether it is a socket or a certificate."""
    scheme = shown.partition("://")[0]
    if scheme == "unix":
        return SOCKET.get(type(error), SOCKET[FileNotFoundError])
    if scheme.startswith("redis"):
        return (CERTIFICATE if scheme.startswith("rediss") else FAILED).format(_told(error))
    return SOCKET_OR_CERTIFICATE.format(_told(error))  # the URL of a framework, which may name a socket or use TLS


def _told(error: BaseException) -> str:
    """The first line of the server's or operating system's text in an error, without passwords.

    If the error has no text, the name of its type.
    """
    text = error.strerror if isinstance(error, NO_FILE) else _said(error)
    return hidden((text or type(error).__name__).partition("\n")[0].strip().rstrip("."))


def _text(error: Exception) -> str:
    return f"{type(error).__name__} {_said(error)}"


def _said(error: BaseException) -> str:
    """The text of an error, without the command and arguments that redis-py writes before it."""
    return str(error).rpartition(" of pipeline caused error: ")[2]


def warnings(shown: str, ask: Callable[[Sequence[Sequence[bytes]]], list[Any]], aside: bytes) -> list[str]:
    """Return one sentence for each problem that an operator should know about. `aside` is the key of the sorted
    set that contains the ids of the jobs whose records were put aside.

    `ask` sends commands and returns their answers. Most facts are read from INFO, because many managed servers forbid
    CONFIG; without CONFIG, the function cannot find out whether the server keeps data on disk. If the server forbids
    INFO, the function returns only a sentence that says so. Raises ConfigurationError if the server is too old or may
    evict jobs, and BackendUnavailable if the server is a read-only replica or does not answer.
    """
    answers = ask([(b"INFO",), (b"CONFIG", b"GET", b"save"), (b"ZCARD", aside)])
    if isinstance(answers[0], Exception):
        return [f"the Redis at {shown} does not allow INFO ({answers[0]}): make sure that it never evicts keys"]
    lines = answers[0].decode("utf-8", "replace").splitlines()
    info = {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}
    _refuse(shown, info)
    found = []
    if info.get("aof_enabled") == "0" and isinstance(answers[1], list) and answers[1][1:] == [b""]:
        found.append(
            f"the Redis at {shown} keeps nothing on disk: a restart loses every job; set appendonly yes, which loses "
            "one second at most"
        )
    limit, used = int(info.get("maxmemory", "0")), int(info.get("used_memory", "0"))
    if limit and used > FULL * limit:
        found.append(f"the Redis at {shown} has used {used / limit:.0%} of its memory: raise its maxmemory")
    if isinstance(answers[2], int) and answers[2]:
        found.append(f"{answers[2]} jobs in the Redis at {shown} could not be read; their ids are in {aside.decode()}")
    return found


def _refuse(shown: str, info: Mapping[str, str]) -> None:
    version = info.get("valkey_version") or info.get("redis_version", "")
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if numbers and numbers < OLDEST_REDIS:
        raise ConfigurationError(
            f"the Redis at {shown} has version {version}, and queueport needs 6.2 or newer: upgrade it"
        )
    if info.get("role") == "slave":
        raise BackendUnavailable(f"the Redis at {shown} is a read-only replica: name the primary")
    policy = info.get("maxmemory_policy", "")
    if policy.startswith("allkeys"):  # volatile policies evict only keys with a time to live; the store sets none
        raise ConfigurationError(
            f"the Redis at {shown} deletes jobs when its memory is full (maxmemory-policy {policy}): set noeviction"
        )

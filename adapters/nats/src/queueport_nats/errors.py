"""Turns errors of nats-py into sentences for users: what failed, where, and what to do. For the transport."""

from __future__ import annotations

import re
import socket
import ssl

from nats.errors import (
    AuthorizationError,
    ConnectionClosedError,
    InvalidUserCredentialsError,
    SecureConnWantedError,
)
from nats.js.errors import APIError, NoStreamResponseError, ServiceUnavailableError
from nkeys import NkeysError  # type: ignore[import-untyped]

from queueport.spi.local_errors import local_error
from queueport_nats.server import Server
from queueport_nats.topology import WrongStream

__all__ = ["explain", "misconfigured"]

NO_FILE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""The errors of the operating system for a wrong path. If OpenSSL raises such an error, its `filename` is None."""
LOGIN_REFUSED = re.compile("authorization violation|authentication", re.IGNORECASE)
"""Matches what the server says about a login that is wrong, expired, revoked or too slow."""

ADVICE = {
    10039: "enable JetStream for the account",
    10076: "enable JetStream for the account",
    10065: "another stream takes the subjects of queueport: delete it, or choose another prefix= or namespace",
    10074: "leave out replicas=, or use a cluster",
    10005: "lower replicas=, or add servers to the cluster",
    10023: "raise the JetStream limits of the server or of the account",
    10047: "raise the JetStream limits of the server or of the account",
    10077: "raise the limits of the stream, or let workers empty it",
}
"""What a user should do, by JetStream's error code: https://github.com/nats-io/nats-server/blob/main/server/errors.json"""
PERMANENT = frozenset({10039, 10076, 10065, 10074})
"""The codes in ADVICE of errors that last until somebody changes the server, its streams or the URL. The other errors
in ADVICE may also end without such a change, for example when workers have emptied a stream."""
DENIED = re.compile(r"permissions violation for (\w+) to \"?([^\s\"]+)", re.IGNORECASE)
"""Matches what the server reports about a missing permission. A call without the permission gets no answer."""


def misconfigured(error: BaseException, reported: Exception | None = None) -> bool:
    """Whether the error is known to last until somebody changes the server, its streams or the URL.

    False does not mean that the error ends without a change. For example, the result for a wrong host name is False.

    `reported` is the last error, if it is recent, that nats-py reported otherwise than by raising it; None if there is
    none.
    """
    if isinstance(error, TimeoutError):
        return DENIED.search(str(reported)) is not None
    if isinstance(error, APIError):
        return error.err_code in PERMANENT or _without_jetstream(error)
    wrong = (WrongStream, InvalidUserCredentialsError, NkeysError, SecureConnWantedError)
    return isinstance(error, wrong) or _login_refused(error)


def explain(error: BaseException, server: Server, reported: Exception | None = None) -> str:
    """A sentence that says what failed, on which server, and what to do.

    `reported` is the last error, if it is recent, that nats-py reported otherwise than by raising it; None if there is
    none.
    """
    local = local_error(error)
    if local is not None:
        return f"{server} {local}"
    if isinstance(error, TimeoutError):
        denied = DENIED.search(str(reported))
        if denied:
            return f"{server} does not permit the user to {denied[1].lower()} to {denied[2]}: grant the permission"
        check = "check the port, and whether it is overloaded or its disk is full"
        return f"{server} did not answer within {server.timeout:g} s: {check}"
    if isinstance(error, APIError):
        return _refused(error, server)
    if isinstance(error, WrongStream):
        return f"{server} cannot carry the messages: {error}"
    if isinstance(error, NoStreamResponseError):
        return f"no stream of {server} takes the messages: check whether the servers of its cluster run"
    if isinstance(error, ConnectionRefusedError):
        return f"{server} refuses connections: start it, or correct the URL"
    if isinstance(error, socket.gaierror):
        return f"a host of {server} is not known: correct the URL, or check the name server"
    if isinstance(error, ConnectionClosedError):
        return f"the connection to {server} was lost ({_text(reported or error)}): read the server's log"
    return _not_connected(error, server) or f"{server} cannot be used ({_text(error)}): check whether it is running"


def _refused(error: APIError, server: Server) -> str:
    if _without_jetstream(error):
        return f"{server} has no JetStream: enable it, for example with `nats-server -js`"
    advice = ADVICE.get(error.err_code or 0, "read the server's log")
    return f"{server} refuses the request ({error.description or error.code}): {advice}"


def _without_jetstream(error: APIError) -> bool:
    return isinstance(error, ServiceUnavailableError) and error.err_code is None


def _login_refused(error: BaseException) -> bool:
    return isinstance(error, AuthorizationError) or LOGIN_REFUSED.search(str(error)) is not None


def _not_connected(error: BaseException, server: Server) -> str | None:
    if _login_refused(error):
        return f"{server} refuses the login ({_text(error)}): correct or renew the password, token= or creds="
    if isinstance(error, (InvalidUserCredentialsError, NkeysError)):
        return f"creds={server.options.creds} is not a credentials file: create one with `nsc generate creds`"
    if isinstance(error, SecureConnWantedError):
        return f"{server} does not require TLS: configure TLS there, or write nats://"
    if isinstance(error, ssl.SSLError):
        return f"TLS with {server} failed ({_text(error)}): check the server, and tls_ca= in the URL"
    if isinstance(error, NO_FILE) and (server.tls or server.options.creds is not None):
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        return f"a file in creds=, tls_ca=, tls_cert= or tls_key= cannot be read ({text}): correct the URL or the file"
    return None


def _text(error: BaseException) -> str:
    return str(error).removeprefix("nats: ") or type(error).__name__

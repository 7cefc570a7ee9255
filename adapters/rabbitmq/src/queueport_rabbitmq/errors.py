"""Turns pika's errors into sentences for users: what failed, where, and what to do. For the client and transport."""

from __future__ import annotations

import re
import socket
import ssl

from pika.adapters.utils.connection_workflow import (
    AMQPConnectionWorkflowFailed,
    AMQPConnectorException,
    AMQPConnectorPhaseErrorBase,
    AMQPConnectorStackTimeout,
)
from pika.exceptions import (
    AMQPConnectionError,
    AMQPError,
    AuthenticationError,
    ConnectionClosedByBroker,
    ConnectionOpenAborted,
    IncompatibleProtocolError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from queueport.errors import BackendMisconfigured, BackendUnavailable
from queueport.spi import rabbitmq
from queueport.spi.event_loop import Closed
from queueport.spi.local_errors import local_error
from queueport_rabbitmq.channel import ACCESS_REFUSED, PRECONDITION_FAILED, Refused
from queueport_rabbitmq.server import Server

__all__ = ["ALARM", "LIBRARY_ERRORS", "explain", "size_limit", "unavailable"]

LIBRARY_ERRORS = (AMQPError, AMQPConnectorException, OSError, UnicodeError)
"""The errors that pika and sockets raise. TimeoutError is an OSError. UnicodeError: a host name is not valid."""

ALARM = "{} accepts no messages because of a memory or disk alarm: free memory or disk space there"
"""The text for a memory or disk alarm: https://www.rabbitmq.com/docs/alarms"""

LOGIN_ERRORS = (ProbableAuthenticationError, AuthenticationError, ProbableAccessDeniedError)
"""The errors that pika raises if the connection ends during the login. The cause is probably a wrong user, password or
vhost, so that the login fails until somebody corrects the URL or the server. The loss of a connection at this time
raises the same errors."""
NOT_ALLOWED = 530
"""The reply code for a vhost that the user cannot open, for example because it does not exist: https://www.rabbitmq.com/amqp-0-9-1-reference#constants"""

NO_FILE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""What the operating system raises if the file of a certificate or a key cannot be opened."""

PERMISSIONS = {
    "queue_declare": "configure",
    "exchange_declare": "configure",
    "queue_bind": "write on the queue, and read on the exchange,",
    "queue_purge": "read",
    "basic_consume": "read",
}
"""The permission that each method needs. For other methods, `write` is assumed: https://www.rabbitmq.com/docs/access-control#authorisation"""

SENTENCES: dict[tuple[type[BaseException], ...], str] = {
    (Closed,): "the connection to {server} is closed: open a new queue",
    (ConnectionRefusedError,): "{server} refuses connections: start it, or correct the URL",
    (socket.gaierror,): "the host {server.host!r} is not known: correct it in the URL, or check the name server",
    (TimeoutError,): "{server} did not answer within {server.timeout:g} s: check whether it is overloaded",
    (ProbableAuthenticationError, AuthenticationError): (
        "{server} refuses the user {server.user!r} or its password ({reply}): correct the URL"
    ),
    (ProbableAccessDeniedError, ConnectionClosedByBroker): (
        "{server} does not let the user {server.user!r} into the vhost {server.vhost!r} ({reply}): correct the URL, or "
        "run `rabbitmqctl add_vhost` and `rabbitmqctl set_permissions`"
    ),
    (IncompatibleProtocolError, AMQPConnectorStackTimeout, ConnectionOpenAborted): (
        "the server at {server.host}:{server.port} does not answer as an {protocol} server: "
        "check the scheme and the port of the URL, and whether the server is overloaded"
    ),
    (ssl.SSLError,): "TLS with {server} failed ({text}): check port and cacertfile= in the URL",
    (BaseException,): "{server} cannot be used ({text}): check whether it is running",
}
"""The sentence that users see for each type of error. The first entry that matches the error is used. `explain` has
other sentences for some errors, and then uses no entry."""


def size_limit(error: BaseException) -> int | None:
    """RabbitMQ's limit for a message's body in bytes, if `error` is the refusal of a larger body; otherwise None."""
    if isinstance(error, Refused) and error.code == PRECONDITION_FAILED:
        return rabbitmq.size_limit(error.text)
    return None


def unavailable(error: BaseException, server: Server) -> BackendUnavailable:
    """The error for users, with `error` as its cause. It is a BackendMisconfigured if the connection ended during the
    login, probably because RabbitMQ refused the user or the vhost, or if RabbitMQ refused the call with ACCESS_REFUSED
    or PRECONDITION_FAILED. For any other error, also one about TLS or a file, it is a BackendUnavailable.
    """
    cause = _cause(error)
    refused = isinstance(cause, Refused) and cause.code in (ACCESS_REFUSED, PRECONDITION_FAILED)
    kind = BackendMisconfigured if refused or isinstance(cause, LOGIN_ERRORS) else BackendUnavailable
    made = kind(explain(error, server))
    made.__cause__ = error
    return made


def explain(error: BaseException, server: Server) -> str:
    """A sentence that says what failed, on which server, and what to do."""
    error = _cause(error)
    if isinstance(error, Refused):
        return _refused(error, server)
    if isinstance(error, ConnectionClosedByBroker) and error.reply_code != NOT_ALLOWED:
        return f"{server} closed the connection ({error.reply_text}): read the server's log"
    local = local_error(error)
    if local is not None:
        return f"{server} {local}"
    if isinstance(error, NO_FILE) and server.tls:  # raised by OpenSSL, which does not name the file
        text = error.strerror
        return f"a file in cacertfile=, certfile= or keyfile= cannot be read ({text}): correct the URL or the file"
    sentence = next(sentence for kinds, sentence in SENTENCES.items() if isinstance(error, kinds))
    text, protocol = str(error) or type(error).__name__, "amqps" if server.tls else "amqp"
    return sentence.format(server=server, text=text, reply=_reply(error), protocol=protocol)


def _reply(error: BaseException) -> str:
    """The reason that RabbitMQ gave for closing the connection, which follows the reply code in the text of `error`.

    If the text has no such reason, returns the whole text, or the error's type if the text is empty.
    """
    found = re.search(r"\(\d+[,)] (['\"])(.+)\1", str(error))
    return found[2] if found else str(error) or type(error).__name__


def _cause(error: BaseException) -> BaseException:
    """The original error, if pika has wrapped it in errors of its own; otherwise `error`."""
    while True:
        inner: object = None
        if isinstance(error, AMQPConnectionWorkflowFailed):
            inner = error.exceptions[-1]
        elif isinstance(error, AMQPConnectorPhaseErrorBase):
            inner = error.exception
        elif isinstance(error, AMQPConnectionError) and error.args:
            inner = error.args[0]
        if not isinstance(inner, BaseException):
            return error
        error = inner


def _refused(error: Refused, server: Server) -> str:
    if size_limit(error) is not None:
        return f"{server} refuses a message ({error.text}): raise its max_message_size, or keep large data elsewhere"
    if error.code == PRECONDITION_FAILED and "inequivalent arg" in error.text:
        return (
            f"{server} has a queue or an exchange of this name with other arguments ({error.text}): delete it when it "
            "is empty, or, in an amqp:// URL, set its type with queue_type="
        )
    if error.code == ACCESS_REFUSED:
        needed = PERMISSIONS.get(error.method, "write")
        return (
            f"{server} refuses {error.method} ({error.text}): give the user {server.user!r} the permission {needed} "
            f"with `rabbitmqctl set_permissions`"
        )
    return f"{server} refuses {error.method} ({error.text}): read the server's log"

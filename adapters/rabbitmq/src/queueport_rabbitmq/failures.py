"""What went wrong with RabbitMQ, in one sentence that says what to do. For the errors that users see."""

from __future__ import annotations

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

from queueport_rabbitmq.channel import Refused
from queueport_rabbitmq.server import Server

__all__ = ["LIBRARY_ERRORS", "sentence"]

LIBRARY_ERRORS = (AMQPError, AMQPConnectorException, OSError)
"""What pika and sockets raise; TimeoutError is an OSError."""

ACCESS_REFUSED, PRECONDITION_FAILED, NOT_ALLOWED = 403, 406, 530
"""Reply codes of AMQP 0-9-1: https://www.rabbitmq.com/amqp-0-9-1-reference#constants"""

PERMISSIONS = {
    "queue_declare": "configure",
    "exchange_declare": "configure",
    "queue_bind": "write on the queue, and read on the exchange,",
    "queue_purge": "read",
    "basic_consume": "read",
}
"""What each method needs: https://www.rabbitmq.com/docs/access-control#authorisation"""


def sentence(error: BaseException, server: Server) -> str:
    """What failed, where, and what to do."""
    error = cause(error)
    if isinstance(error, Refused):
        return _refused(error, server)
    if isinstance(error, ConnectionRefusedError):
        return f"{server} refuses connections: start it, or correct the URL"
    if isinstance(error, socket.gaierror):
        return f"the host {server.host!r} is not known: correct the URL"
    if isinstance(error, TimeoutError):
        return f"{server} did not answer within {server.timeout:g} s: look whether it is overloaded"
    if isinstance(error, ConnectionClosedByBroker) and error.reply_code != NOT_ALLOWED:
        return f"{server} closed the connection ({error.reply_text}): look into its log"
    return _at_login(error, server) or f"{server} cannot be used ({_reason(error)}): look whether it runs"


def _at_login(error: BaseException, server: Server) -> str | None:
    if isinstance(error, (ProbableAuthenticationError, AuthenticationError)):
        return f"{server} refuses the user {server.user!r} or its password: correct the URL"
    if isinstance(error, (ProbableAccessDeniedError, ConnectionClosedByBroker)):
        return (
            f"{server} does not let the user {server.user!r} into the vhost {server.vhost!r}: correct the URL, or run "
            f"`rabbitmqctl add_vhost` and `rabbitmqctl set_permissions`"
        )
    if isinstance(error, (IncompatibleProtocolError, AMQPConnectorStackTimeout, ConnectionOpenAborted)):
        spoken = "amqps" if server.tls else "amqp"
        where = f"{server.host}:{server.port}"
        return f"what listens at {where} does not answer in {spoken}: check scheme and port of the URL, and its load"
    if isinstance(error, ssl.SSLError):
        return f"TLS with {server} failed ({_reason(error)}): check port and cacertfile= in the URL"
    if isinstance(error, FileNotFoundError) and error.filename is None:  # OpenSSL does not say which
        return "a file of cacertfile=, certfile= or keyfile= is not there: correct the URL"
    return None


def cause(error: BaseException) -> BaseException:
    """The error inside pika's wrappers."""
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
    if error.code == PRECONDITION_FAILED and "inequivalent arg" in error.text:
        return (
            f"{server} has a queue or an exchange of this name that was made in another way ({error.text}): name its "
            f"type by queue_type=, or delete it once it is empty"
        )
    if error.code == ACCESS_REFUSED:
        needed = PERMISSIONS.get(error.method, "write")
        return (
            f"{server} refuses {error.method} ({error.text}): give the user {server.user!r} the permission {needed} "
            f"there by `rabbitmqctl set_permissions`"
        )
    return f"{server} refuses {error.method} ({error.text}): look into its log"


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__

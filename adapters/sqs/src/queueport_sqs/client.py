"""Clients of AWS, which are created on first use, limit the time of a call and explain errors. For this package."""

from __future__ import annotations

import functools
import random
import re
import threading
import time
from typing import Any

import botocore.session
from botocore import exceptions as aws
from botocore.config import Config
from botocore.loaders import Loader, create_loader

from queueport.errors import BackendMisconfigured, BackendUnavailable
from queueport.spi.local_errors import local_error
from queueport.spi.locks import ForkAware, owned
from queueport.spi.url import hidden

__all__ = [
    "FAILURES",
    "Client",
    "code_of",
    "connect",
    "failed_fast",
    "refused_for_certain",
    "refused_for_good",
    "unavailable",
]

FAILURES = (aws.ClientError, aws.BotoCoreError, OSError, ValueError)
"""What botocore raises if a service cannot be used or refuses a call. OSError and ValueError usually mean that a file
or a program that the AWS configuration names cannot be used, or that the endpoint is not a URL."""
CONNECTING, READING, REPEATING = 0.25, 0.55, 0.2
"""The shares into which `call_timeout` is divided. The last request of a call may use CONNECTING to connect, and
READING to wait for the answer. The requests before it, which failed, may together use REPEATING."""
CONNECTIONS = 50
"""Maximum number of connections that a client keeps open. Each thread that calls at the same time needs its own."""
CREATING = 60.0
"""Maximum seconds to wait while another thread creates the client, which reads many files and finds credentials."""
MESSAGE = 400
"""Maximum characters of AWS's message that an error of queueport contains."""
NOT_REPEATED = frozenset({"SendMessageBatch"})
"""Operations that `_Retries` repeats only if AWS throttled them. In any other case the caller decides whether to
repeat the call, because the caller must know whether an earlier request may have worked."""
DOUBTFUL = "An earlier request of the same call may have had an effect."
"""Marks the error of a call that `_Retries` has repeated, if an earlier request may have had an effect."""
IN_PROGRESS = "TransactionInProgressException"
"""The code of DynamoDB's answer if an earlier request of the same call is not finished yet."""

# fmt: off
THROTTLED = frozenset({
    "KmsThrottled", "LimitExceededException", "OverLimit", "ProvisionedThroughputExceededException",
    "RequestLimitExceeded", "RequestThrottled", "RequestThrottledException", "SlowDown", "Throttling",
    "ThrottledException", "ThrottlingException", "TooManyRequestsException"
})
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
WRONG_CREDENTIALS = frozenset({
    "AuthFailure", "IncompleteSignature", "IncompleteSignatureException", "InvalidAccessKeyId",
    "InvalidClientTokenId", "InvalidSecurity", "InvalidSignatureException", "MissingAuthenticationToken",
    "MissingAuthenticationTokenException", "NotAuthorized", "OptInRequired", "SignatureDoesNotMatch",
    "UnrecognizedClientException"
})
WRONG_CLOCK = frozenset({"RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"})
FORBIDDEN = frozenset({
    "AccessDenied", "AccessDeniedException", "AuthorizationError", "KmsAccessDenied", "UnauthorizedOperation"
})
INVALID = frozenset({
    "BatchRequestTooLong", "InvalidAttributeValue", "InvalidMessageContents", "InvalidParameterValue"
})
# fmt: on

CLOCK_DIFFERS = re.compile(r"Signature (expired|not yet current)", re.IGNORECASE)
"""Matches AWS's message if the local clock is wrong by some minutes. The error's code is then one of WRONG_CREDENTIALS,
although the credentials are right. See https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html"""

NO_CREDENTIALS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.ProfileNotFound,
    aws.TokenRetrievalError,
    aws.NoAuthTokenError,
)
STALE_LOGIN = (aws.SSOError, aws.LoginError)
WRONG_REGION = (aws.InvalidRegionError, aws.UnknownRegionError, aws.UnknownEndpointError)
NEVER_SENT = (
    *NO_CREDENTIALS,
    *STALE_LOGIN,
    aws.NoRegionError,
    *WRONG_REGION,
    aws.EndpointConnectionError,
    aws.ConnectTimeoutError,
    aws.ParamValidationError,
)
"""Errors that occur before a request has left this machine."""


def connect(service: str, *, region: str, endpoint: str | None, call_timeout: float, wait: float = 0.0) -> Any:
    """Make a thread-safe client of a service. botocore finds the credentials, such as in the environment or a profile.

    If `region` is "", botocore finds the region in the same way. A call takes at most `call_timeout` seconds, including
    retries, plus `wait` if the service itself waits before it answers. Raises the errors in FAILURES. A child
    process must not use the client of its parent: make the child's own client after the fork, as `Client` does.
    """
    config = Config(
        connect_timeout=call_timeout * CONNECTING,
        read_timeout=call_timeout * READING + wait,
        retries={"total_max_attempts": 1, "mode": "standard"},  # `_Retries` repeats calls instead
        max_pool_connections=CONNECTIONS,
        tcp_keepalive=True,
        user_agent_extra="queueport",
    )
    session: Any = botocore.session.get_session()  # the stubs allow only literal service names
    session.register_component("data_loader", _descriptions(session.get_config_variable("data_path")))
    client: Any = session.create_client(service, region_name=region or None, endpoint_url=endpoint, config=config)
    retries, name = _Retries(call_timeout), client.meta.service_model.service_id.hyphenize()
    client.meta.events.register(f"before-call.{name}", retries.start)
    client.meta.events.register(f"needs-retry.{name}", retries.pause)
    return client


def failed_fast(started: float, call_timeout: float, pause: float = 0.0) -> bool:
    """Whether a call failed so fast that there is time to repeat it after `pause` seconds.

    `started` is the time at which the call began, by the monotonic clock. Calls fail this fast if the connection was
    stale, or if a machine of AWS is faulty.
    """
    return time.monotonic() - started + pause <= REPEATING * call_timeout


@functools.cache
def _descriptions(path: str | None) -> Loader:
    """The loader of AWS's service descriptions at `path`, which all clients with this `path` share.

    If each client had its own loader, creating a client would take ten times as long.
    """
    return create_loader(path)


class _Retries:
    """Repeats calls that failed fast and may now succeed: after a lost connection, throttling or a fault of AWS.

    Operations in NOT_REPEATED are repeated only after throttling.
    """

    def __init__(self, call_timeout: float) -> None:
        self._call_timeout = call_timeout

    def start(self, context: dict[str, Any], **_: Any) -> None:
        context["queueport_started"] = time.monotonic()

    def pause(
        self,
        attempts: int,
        operation: Any,
        response: Any,
        caught_exception: Exception | None,
        request_dict: dict[str, Any],
        **_: Any,
    ) -> float | None:
        """Seconds to wait before the call is repeated; None if the call is not repeated. botocore calls this after each
        request.
        """
        repeatable = operation.name not in NOT_REPEATED
        failure = caught_exception
        if response is None:
            again = repeatable and isinstance(failure, aws.HTTPClientError)
        else:
            http, parsed = response
            failure = aws.ClientError(parsed, operation.name)
            again = code_of(failure) in (IN_PROGRESS, *THROTTLED) or (repeatable and http.status_code >= 500)
        pause: float = min(0.04 * 2**attempts, 1.0) * random.uniform(0.5, 1.0)
        context = request_dict["context"]
        doubtful = bool(context.get("queueport_doubtful"))
        if again and failed_fast(float(context.get("queueport_started", 0.0)), self._call_timeout, pause):
            context["queueport_doubtful"] = doubtful or not refused_for_certain(failure)
            return pause
        if doubtful and response is not None:
            response[1].setdefault("ResponseMetadata", {})[DOUBTFUL] = True
        elif doubtful and failure is not None:
            failure.add_note(DOUBTFUL)
        return None


class Client(ForkAware):
    """One botocore client for all threads of a process: created on first use, and again after a fork or `close`."""

    def __init__(
        self, what: str, service: str, *, region: str, endpoint: str | None, call_timeout: float, wait: float = 0.0
    ) -> None:
        """`what` names the service in errors: "SQS in us-east-1". The other arguments are passed to `connect`."""
        super().__init__()
        self._what = what
        self._service = service
        self._options: dict[str, Any] = {"region": region, "endpoint": endpoint}
        self._options |= {"call_timeout": call_timeout, "wait": wait}
        self._lock = threading.RLock()
        self._made: Any = None

    def get(self) -> Any:
        """The client. Raises BackendUnavailable if it cannot be created."""
        made = self._made
        if made is not None:
            return made
        try:
            if not self._lock.acquire(timeout=CREATING):
                raise BackendUnavailable(
                    f"{self._what} was not called because another thread is still creating a client: try again"
                )
            if self._made is None:
                self._made = connect(self._service, **self._options)
            return self._made
        except FAILURES as error:
            raise unavailable(self._what, error) from error
        finally:
            if owned(self._lock):
                self._lock.release()

    def close(self) -> None:
        """Close the connections. The next use creates the client again."""
        made, self._made = self._made, None
        if made is not None:
            made.close()

    def after_fork(self, *, child: bool) -> None:
        """In a child, forget the client. Its connections are the parent's, so the child must not use or close them."""
        if child:
            self._lock = threading.RLock()
            _inherited.append(self._made)
            self._made = None


_inherited: list[Any] = []
"""Clients that a child process got from its parent. They are kept, so that they are never closed: threads
of the parent may have held their locks at the fork, so closing one could wait for ever."""


def unavailable(what: str, error: Exception) -> BackendUnavailable:
    """Make the error to raise from `error`. Its sentence begins with `what`: "the SQS queue jobs in us-east-1".

    It is BackendMisconfigured if AWS rejects the credentials or denies the operation, or if the region or the profile
    is missing or not valid. Any other error, also missing credentials, a wrong clock or a wrong endpoint, is a
    BackendUnavailable.
    """
    permanent = isinstance(error, (aws.NoRegionError, aws.ProfileNotFound, *WRONG_REGION))
    if isinstance(error, aws.ClientError) and not _wrong_clock(error):
        permanent = _code(error.response) in WRONG_CREDENTIALS | EXPIRED | FORBIDDEN
    kind = BackendMisconfigured if permanent else BackendUnavailable
    return kind(f"{what} {_explained(error)}")


def refused_for_certain(error: BaseException | None) -> bool:
    """Whether a call that failed with this error certainly had no effect.

    True for errors that are not botocore's, unless they are marked with DOUBTFUL.
    """
    if isinstance(error, aws.ClientError):
        answered: Any = error.response.get("ResponseMetadata", {})
        refused = 400 <= answered.get("HTTPStatusCode", 0) < 500 or _code(error.response) in THROTTLED
        return refused and DOUBTFUL not in answered
    if DOUBTFUL in getattr(error, "__notes__", ()):
        return False
    return isinstance(error, NEVER_SENT) or not isinstance(error, aws.BotoCoreError)


def refused_for_good(error: BaseException | None) -> bool:
    """Whether AWS or botocore refused a call because of a message's size or content, and would refuse it again."""
    return isinstance(error, aws.ParamValidationError) or code_of(error) in INVALID


def code_of(error: BaseException | None) -> str:
    """The code of AWS's error, without the prefix of SQS's older protocol; "" if AWS did not answer the call."""
    return _code(error.response) if isinstance(error, aws.ClientError) else ""


def _code(response: Any) -> str:
    return str(response.get("Error", {}).get("Code", "")).rpartition(".")[2]


def _explained(error: Exception) -> str:
    if isinstance(error, aws.ClientError):
        return _answered(error)
    local = local_error(error)
    if local is not None:
        return local
    if isinstance(error, NO_CREDENTIALS):
        return (
            f"was not called because there are no credentials ({_sentence(str(error))}): set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this machine a role"
        )
    if isinstance(error, STALE_LOGIN):
        text = _sentence(str(error))
        return f"was not called because the AWS login is not valid ({text}): run `aws sso login` or `aws login`"
    if isinstance(error, aws.NoRegionError):
        return "was not called because no region is set: name one in the URL, or set AWS_DEFAULT_REGION"
    if isinstance(error, WRONG_REGION):
        text = _sentence(str(error))
        return f"was not called because its region is not valid ({text}): correct it in the URL or AWS_DEFAULT_REGION"
    if isinstance(error, (aws.ReadTimeoutError, aws.ConnectTimeoutError)):
        return f"did not answer in time ({type(error).__name__}): try again, check the network, or raise call_timeout"
    if isinstance(error, (aws.ConnectionError, aws.HTTPClientError)):
        return f"cannot be reached ({_sentence(str(error))}): check the region, endpoint= and the network"
    text = _sentence(str(error))
    return f"failed ({type(error).__name__}: {text}): check the URL and the AWS configuration"


def _answered(error: aws.ClientError) -> str:
    """The end of a sentence about an answer of AWS: what failed, AWS's code and message, and what to do."""
    code, operation = _code(error.response), error.operation_name
    message = _sentence(str(error.response.get("Error", {}).get("Message") or ""))
    answer = f"({code}: {message})" if message else f"({code})"
    if _wrong_clock(error):
        return f"rejects the call because this machine's clock differs from that of AWS {answer}: correct the clock"
    if code in THROTTLED:
        return f"throttles {operation} {answer}: call less often, or ask AWS for a higher quota"
    if code in EXPIRED:
        return f"rejects the credentials because they have expired {answer}: renew them, such as with `aws sso login`"
    if code in WRONG_CREDENTIALS:
        return f"rejects the credentials {answer}: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN"
    if code in FORBIDDEN:
        named = re.search(r"perform:? ([a-zA-Z0-9-]+:[a-zA-Z]+)", message)
        action = named[1] if named else operation.removesuffix("Batch")
        return f"denies {operation} {answer}: allow {action} in the IAM policy of these credentials"
    return f"failed at {operation} {answer}: look up this error code in the documentation of AWS"


def _wrong_clock(error: aws.ClientError) -> bool:
    code, message = _code(error.response), str(error.response.get("Error", {}).get("Message") or "")
    return code in WRONG_CLOCK or (code in WRONG_CREDENTIALS and CLOCK_DIFFERS.search(message) is not None)


def _sentence(message: str) -> str:
    """The first line of a message, at most MESSAGE characters, with passwords hidden and without a final full stop.

    Further lines are dropped, because AWS may show the signed request in them.
    """
    return hidden(message.strip().partition("\n")[0].strip().rstrip("."))[:MESSAGE]

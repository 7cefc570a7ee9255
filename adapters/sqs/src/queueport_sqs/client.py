"""Clients of AWS: made late and once, their calls bounded, their errors told in one sentence. For this package."""

from __future__ import annotations

import functools
import os
import random
import re
import threading
import time
import weakref
from typing import Any

import botocore.session
from botocore import exceptions as aws
from botocore.config import Config
from botocore.loaders import Loader, create_loader

from queueport.errors import BackendUnavailable
from queueport.url import hidden

__all__ = ["Client", "code_of", "connect", "refused_for_certain", "unavailable"]

CONNECTING, READING, REPEATING = 0.25, 0.55, 0.2
"""Shares of a call's time: for one connection, for one answer, and before them for tries that failed fast."""
CONNECTIONS = 50
"""Connections that a client keeps: so many threads may call at once without making new ones."""
MAKING = 60.0
"""Seconds that making a client may take, on a slow machine with a cold disk: nobody is called, much is read."""
NOT_REPEATED = frozenset({"SendMessageBatch"})
"""Operations whose caller must know whether an earlier try may have been applied; it repeats them itself."""

THROTTLED = frozenset(
    {
        "KmsThrottled",
        "LimitExceededException",
        "OverLimit",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttling",
        "ThrottledException",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
WRONG_CREDENTIALS = frozenset(
    {
        "AuthFailure",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "OptInRequired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
WRONG_CLOCK = frozenset({"RequestInTheFuture", "RequestTimeTooSkewed"})
FORBIDDEN = frozenset(
    {"AccessDenied", "AccessDeniedException", "AuthorizationError", "KmsAccessDenied", "UnauthorizedOperation"}
)

NO_CREDENTIALS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.ProfileNotFound,
    aws.TokenRetrievalError,
    aws.NoAuthTokenError,
)
STALE_LOGIN = (aws.SSOError, aws.LoginError)
NO_REGION = (aws.NoRegionError, aws.InvalidRegionError, aws.UnknownRegionError, aws.UnknownEndpointError)
NEVER_SENT = (
    *NO_CREDENTIALS,
    *STALE_LOGIN,
    *NO_REGION,
    aws.EndpointConnectionError,
    aws.ConnectTimeoutError,
    aws.ParamValidationError,
)
"""Errors that come before a request has left this machine."""


def connect(service: str, *, region: str, endpoint: str | None, call_timeout: float, wait: float = 0.0) -> Any:
    """A client of that service, thread-safe; credentials, and the region where it is "", by the usual AWS chain.

    A call ends within `call_timeout` seconds, its retries included, and `wait` more where the service itself waits
    before it answers. Raises what botocore raises. It must not be carried over a fork: see `Client`.
    """
    config = Config(
        connect_timeout=call_timeout * CONNECTING,
        read_timeout=call_timeout * READING + wait,
        retries={"total_max_attempts": 1, "mode": "standard"},  # by `_Retries` instead, which looks at the clock
        max_pool_connections=CONNECTIONS,
        tcp_keepalive=True,
        user_agent_extra="queueport",
    )
    session: Any = botocore.session.get_session()  # Any: it is overloaded by service names
    session.register_component("data_loader", _descriptions(session.get_config_variable("data_path")))
    made: Any = session.create_client(service, region_name=region or None, endpoint_url=endpoint, config=config)
    retries, name = _Retries(call_timeout * REPEATING), made.meta.service_model.service_id.hyphenize()
    made.meta.events.register(f"before-call.{name}", retries.start)
    made.meta.events.register(f"needs-retry.{name}", retries.pause)
    return made


@functools.cache
def _descriptions(path: str | None) -> Loader:
    """Of AWS's services, read once in a process: a client alone would take ten times as long to make."""
    return create_loader(path)


class _Retries:
    """Repeats what failed fast and may go well at once: a stale connection, a throttled call, an error of the service.

    `window`: seconds after a call's start in which it may be tried again; what is left then is time for one more try.
    """

    def __init__(self, window: float) -> None:
        self._window = window

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
        """Seconds to wait before the next try; None: there is none."""
        if response is None:
            again = isinstance(caught_exception, aws.HTTPClientError) and operation.name not in NOT_REPEATED
        else:
            http, parsed = response
            throttled = _code(parsed) in THROTTLED
            again = throttled or (http.status_code >= 500 and operation.name not in NOT_REPEATED)
        pause = min(0.04 * 2**attempts, 1.0) * random.uniform(0.5, 1.0)
        spent = time.monotonic() - float(request_dict["context"].get("queueport_started", 0.0))
        return pause if again and spent + pause <= self._window else None


class Client:
    """One client for all threads of a process: made on first use, and made anew after a fork."""

    def __init__(
        self, what: str, service: str, *, region: str, endpoint: str | None, call_timeout: float, wait: float = 0.0
    ) -> None:
        """`what` is how errors name the service: "SQS in us-east-1"."""
        self._what = what
        self._service = service
        self._options: dict[str, Any] = {
            "region": region,
            "endpoint": endpoint,
            "call_timeout": call_timeout,
            "wait": wait,
        }
        self._lock = threading.RLock()
        self._made: Any = None
        _all.add(self)

    def get(self) -> Any:
        """The client. Raises BackendUnavailable where it cannot be made."""
        made = self._made
        if made is not None:
            return made
        try:
            if not self._lock.acquire(timeout=MAKING):
                raise BackendUnavailable(
                    f"{self._what} was not asked, for another thread still makes a client: try again"
                )
            if self._made is None:
                self._made = connect(self._service, **self._options)
            return self._made
        except (aws.BotoCoreError, ValueError) as error:  # a ValueError: an endpoint that is no URL
            raise unavailable(self._what, error) from error
        finally:
            # Asked, not remembered: a task may be interrupted between getting the lock and remembering that.
            if self._lock._is_owned():  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
                self._lock.release()

    def close(self) -> None:
        """Close its connections; used again, it is made again."""
        made, self._made = self._made, None
        if made is not None:
            made.close()

    def forget(self) -> None:
        """In a child after a fork: the parent's connections are not to be used, and not to be closed either."""
        self._lock = threading.RLock()
        if self._made is not None:
            _inherited.append(self._made)
            self._made = None


_all: weakref.WeakSet[Client] = weakref.WeakSet()
_inherited: list[Any] = []
"""Clients of a parent, never to be ended: their locks may have been held by one of its threads."""


def _forget() -> None:
    for client in list(_all):
        client.forget()


os.register_at_fork(after_in_child=_forget)


def unavailable(what: str, error: Exception) -> BackendUnavailable:
    """The error for callers: what failed, why, what to do. `what` is its subject: "the SQS queue jobs in us-east-1".

    Raise it from `error`, so that the cause is kept.
    """
    return BackendUnavailable(f"{what} {_explained(error)}")


def refused_for_certain(error: BaseException | None) -> bool:
    """Whether the call that failed so had no effect, and never will; one that did not come to the library had none."""
    if isinstance(error, aws.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return 400 <= status < 500 or _code(error.response) in THROTTLED
    return isinstance(error, NEVER_SENT) or not isinstance(error, aws.BotoCoreError)


def code_of(error: BaseException | None) -> str:
    """The code by which AWS refused a call, without the prefix of SQS's older protocol; "" where it did not answer."""
    return _code(error.response) if isinstance(error, aws.ClientError) else ""


def _code(response: Any) -> str:
    return str(response.get("Error", {}).get("Code", "")).rpartition(".")[2]


def _explained(error: Exception) -> str:
    if isinstance(error, aws.ClientError):
        return _answered(error)
    if isinstance(error, NO_CREDENTIALS):
        return (
            f"was not asked, for there are no credentials ({type(error).__name__}): set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this machine a role"
        )
    if isinstance(error, STALE_LOGIN):
        return "was not asked, for the AWS login has expired: run `aws sso login` or `aws login`"
    if isinstance(error, NO_REGION):
        return "was not asked, for AWS has no such region: name one in the URL, or set AWS_DEFAULT_REGION"
    if isinstance(error, (aws.ReadTimeoutError, aws.ConnectTimeoutError)):
        return f"did not answer in time ({type(error).__name__}): try again, check the network, or raise call_timeout"
    if isinstance(error, (aws.ConnectionError, aws.HTTPClientError)):
        return f"cannot be reached ({hidden(str(error))}): check the region, endpoint= and the network"
    return f"failed ({type(error).__name__}: {hidden(str(error))})"


def _answered(error: aws.ClientError) -> str:
    code, operation = _code(error.response), error.operation_name
    message = str(error.response.get("Error", {}).get("Message", ""))
    if code in THROTTLED:
        return f"throttles {operation} ({code}): call less often, or ask AWS for a higher quota"
    if code in EXPIRED:
        return f"refuses the credentials, for they have expired ({code}): renew them, such as by `aws sso login`"
    if code in WRONG_CREDENTIALS:
        return f"refuses the credentials ({code}): check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN"
    if code in WRONG_CLOCK:
        return f"refuses the call, for this machine's clock is wrong ({code}): set it right"
    if code in FORBIDDEN:
        named = re.search(r"perform:? ([a-zA-Z0-9-]+:[a-zA-Z]+)", message)
        action = named[1] if named else operation.removesuffix("Batch")
        return f"refuses {operation} ({code}): allow {action} in the IAM policy of these credentials"
    return f"failed at {operation} ({code}: {hidden(message)})"

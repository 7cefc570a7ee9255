"""Calls to one DynamoDB table, single or in parallel, and an estimate of DynamoDB's clock. For readers of the store."""

from __future__ import annotations

import math
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from queueport.errors import BackendMisconfigured, BackendUnavailable
from queueport.spi.locks import ForkAware
from queueport_sqs.client import FAILURES, Client, code_of, unavailable
from queueport_sqs.dynamodb.records import Item
from queueport_sqs.dynamodb.schema import READY, problems, setup

__all__ = ["Deadline", "ServiceClock", "Table"]

T = TypeVar("T")
U = TypeVar("U")

THREADS = 8
"""Maximum number of calls that `Table.each` runs at the same time for one store."""
KEYS = 100
"""Maximum keys of one call of BatchGetItem:
https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html"""
ANSWERS = frozenset({"ConditionalCheckFailedException", "TransactionCanceledException"})
"""The codes of errors for a condition that did not hold, and for a cancelled transaction. The caller of `Table.call`
handles these errors."""
CONFLICTS = frozenset({"TransactionConflictException"})
"""The codes of errors for a call that had no effect, because another call used the same item. `Table.call` repeats such
a call."""
PAUSES = (0.01, 0.2)
"""Maximum seconds to wait before a call is repeated for the first time, and before any later repetition."""
DRIFT = 100e-6
"""Seconds that a machine's clock may gain or lose in a second. The bounds of a `ServiceClock` grow by this rate."""
RESOLUTION = 1.0
"""Seconds by which the `Date` of a response may be behind DynamoDB's clock, because `Date` has only whole seconds."""


def _steady() -> float:
    """A clock that nobody can set, in seconds. On Linux, it also counts the time for which the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


_START = time.time() - _steady()


def _local_time() -> float:
    """The machine's clock, in seconds since the epoch, as if nobody had set it since this process started."""
    return _START + _steady()


class ServiceClock:
    """Estimates DynamoDB's clock: the local clock, corrected by the `Date` of responses.

    DynamoDB has no clock that a condition can use. A response that was requested at `asked` and arrived at `came`
    proves that DynamoDB's clock is between `Date - came` and `Date + 1 - asked` seconds ahead of the local one. The
    bounds of several responses are intersected, and the local time is corrected by no more than these bounds require.
    So the correction never makes the local time worse, as long as nobody sets a clock. After the first response,
    the estimate is wrong by at most a second plus the time of that response. Further responses can make the estimate
    more exact.
    """

    def __init__(self, local: Callable[[], float] = _local_time) -> None:
        self.local = local
        self._bounds = (-math.inf, math.inf)
        self._last_response: float | None = None

    @property
    def known(self) -> bool:
        """Whether the clock has learnt from any response."""
        return self._last_response is not None

    def now(self) -> float:
        """The estimated time of DynamoDB, in seconds since the epoch."""
        low, high = self._bounds
        return self.local() + min(max(0.0, low), high)

    def learn(self, date: str | None, asked: float) -> None:
        """Use the `Date` of a response that was requested at the local time `asked`. Not thread-safe.

        Does nothing if `date` is missing or is not valid.
        """
        try:
            stated = parsedate_to_datetime(date or "").timestamp()
        except ValueError:
            return
        came = self.local()
        proved = (stated - came, stated + RESOLUTION - asked)
        aged = DRIFT * abs(came - self._last_response) if self._last_response is not None else 0.0
        low, high = max(self._bounds[0] - aged, proved[0]), min(self._bounds[1] + aged, proved[1])
        self._bounds = (low, high) if low <= high else proved  # else a clock was changed: drop the old bounds
        self._last_response = came


class Table(ForkAware):
    """A table and its client. Thread-safe, and usable in a child process after a fork."""

    def __init__(self, name: str, *, region: str, endpoint: str | None, call_timeout: float, create: bool) -> None:
        super().__init__()
        self.name = name
        self.what = f"the DynamoDB table {name} in {region or 'the default region'}"
        self.clock: ServiceClock = ServiceClock()
        self._client = Client(self.what, "dynamodb", region=region, endpoint=endpoint, call_timeout=call_timeout)
        self.call_timeout = call_timeout
        self._create = create
        self._unready = False
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def deadline(self) -> Deadline:
        return Deadline(self.what, self.call_timeout)

    def after_fork(self, *, child: bool) -> None:
        if child:
            self._lock, self._pool = threading.Lock(), None

    def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Call an operation of DynamoDB. Raises ClientError for the codes in ANSWERS, else BackendUnavailable.

        If the table or an index is missing and create=true is set, runs `setup` and calls the operation again. Also
        repeats a call that fails with a code in CONFLICTS.
        """
        deadline, made = self.deadline(), False
        if self._unready:
            self._create_table()
        while True:
            try:
                return self._called(operation, parameters)
            except ClientError as error:
                code = code_of(error)
                if code in ANSWERS:
                    raise
                if code in CONFLICTS:
                    deadline.pause(error)
                elif _lacking(error) and self._create and not made:
                    self._create_table()
                    made = True
                else:
                    raise self._explained(error) from error

    def _called(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        method = getattr(self._client.get(), operation)
        asked, answer = self.clock.local(), None
        try:
            answer = method(**parameters)
            return dict(answer)
        except ClientError as error:
            answer = error.response
            raise
        except FAILURES as error:
            raise unavailable(self.what, error) from error
        finally:
            if answer is not None:
                headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
                with self._lock:
                    self.clock.learn(headers.get("date"), asked)

    def _explained(self, error: Exception) -> BackendUnavailable:
        lacking = _lacking(error)
        if lacking is None:
            return unavailable(self.what, error)
        return BackendMisconfigured(
            f"{self.what} {lacking}: run `queueport setup URL` once, or add create=true to the store's URL"
        )

    def get(self, keys: Sequence[str], *, consistent: bool = True) -> dict[str, Item]:
        """The existing items with these keys. Without `consistent`, items may be out of date, but cost half as much."""
        distinct = list(dict.fromkeys(keys))
        parts = [distinct[start : start + KEYS] for start in range(0, len(distinct), KEYS)]
        found = self.each(partial(self._get, consistent=consistent), parts)
        return {key: item for items in found for key, item in items.items()}

    def _get(self, keys: Sequence[str], *, consistent: bool) -> dict[str, Item]:
        found: dict[str, Item] = {}
        wanted: Any = {self.name: {"Keys": [{"pk": {"S": key}} for key in keys], "ConsistentRead": consistent}}
        deadline = self.deadline()
        while wanted:
            answer = self.call("batch_get_item", RequestItems=wanted)
            found |= {item["pk"]["S"]: item for item in answer["Responses"].get(self.name, ())}
            # DynamoDB leaves keys out if it throttles the call, or if the answer would exceed 16 MB.
            wanted = answer.get("UnprocessedKeys")
            if wanted:
                deadline.pause(None)
        return found

    def query(self, **parameters: Any) -> Iterator[dict[str, Any]]:
        """The pages of a query."""
        while True:
            answer = self.call("query", TableName=self.name, **parameters)
            yield answer
            if "LastEvaluatedKey" not in answer:
                return
            parameters["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def each(self, call: Callable[[U], T], items: Sequence[U]) -> list[T]:
        """Call `call` for each item, in parallel, and return the results in order. `call` itself must not use `each`.

        Raises the first error of a call, or BackendUnavailable if no call ends for `call_timeout`.
        """
        if len(items) <= 1:
            return [call(item) for item in items]
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(THREADS, "queueport-dynamodb")
            try:
                begun = [self._pool.submit(call, item) for item in items]
            except RuntimeError:  # the interpreter is exiting and starts no more threads
                return [call(item) for item in items]
        try:
            self._wait(begun)
        except BackendUnavailable:
            for future in begun:
                future.cancel()
            raise
        return [future.result() for future in begun]

    def _wait(self, begun: Sequence[Future[T]]) -> None:
        """Wait for all calls. Raises the first error, or BackendUnavailable if no call ends for `call_timeout`."""
        waiting = set(begun)
        while waiting:
            done, waiting = wait(waiting, self.call_timeout, FIRST_COMPLETED)
            if not done:
                raise BackendUnavailable(f"{self.what} did not answer in time: try again, or raise call_timeout")
            for future in done:
                future.result()

    def setup(self, timeout: float = READY) -> None:
        """Create the table, its indexes and its TTL where they are missing, and wait until table and indexes are ready.

        Raises BackendUnavailable if AWS refuses this or cannot be called, or if the table or an index is not ready
        after `timeout` seconds.
        """
        try:
            setup(self._client.get(), self.name, timeout)
        except TimeoutError as error:
            raise BackendUnavailable(f"{self.what} or an index of it is still being created: try again soon") from error
        except FAILURES as error:
            raise self._explained(error) from error

    def _create_table(self) -> None:
        """Run `setup` for at most `call_timeout`.

        If that is not long enough, raises BackendUnavailable, and the next operation runs `setup` again.
        """
        self._unready = True
        self.setup(self.call_timeout)
        self._unready = False

    def problems(self) -> list[str]:
        """A sentence for each missing index, and a sentence if TTL is off.

        Raises BackendUnavailable if DynamoDB cannot be used, or if the table does not exist.
        """
        try:
            return problems(self._client.get(), self.name)
        except FAILURES as error:
            raise self._explained(error) from error

    def close(self) -> None:
        """End threads and close connections. The next use starts them again."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)
        self._client.close()


class Deadline:
    """Limits how long a call is repeated, and waits between the attempts. The pauses grow up to a maximum."""

    def __init__(self, what: str, seconds: float) -> None:
        self._what = what
        self._end = time.monotonic() + seconds
        self._pause = PAUSES[0]

    def again(self, error: Exception | None, pause: float = 0.0) -> None:
        """Raise BackendUnavailable from `error` if the deadline has passed, or will pass within `pause` seconds."""
        if time.monotonic() + pause > self._end:
            raise BackendUnavailable(
                f"{self._what} is too busy: calls conflict or are throttled; raise shards=, or call less often"
            ) from error

    def pause(self, error: Exception | None) -> None:
        """Wait before the next attempt. If the deadline would pass meanwhile, raise BackendUnavailable from `error`."""
        pause = self._pause * random.uniform(0.5, 1.0)
        self.again(error, pause)
        time.sleep(pause)
        self._pause = min(2 * self._pause, PAUSES[1])


def _lacking(error: Exception) -> str | None:
    """What is missing, as the end of a sentence about the table; None if a missing table or index is not the cause."""
    code = code_of(error)
    if code in ("ResourceNotFoundException", "ValidationException") and "index: " in str(error):
        return "lacks an index of queueport"
    return "does not exist" if code == "ResourceNotFoundException" else None

"""One DynamoDB table: its calls, with errors in one sentence, several of them at once. For readers of the store."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from queueport.errors import BackendUnavailable
from queueport_sqs.client import Client, unavailable
from queueport_sqs.dynamodb_clock import ServiceClock
from queueport_sqs.dynamodb_items import Item
from queueport_sqs.dynamodb_schema import READY, problems, setup

__all__ = ["Deadline", "Table", "answer_of"]

T = TypeVar("T")

THREADS = 8
"""Calls of one verb that are under way at once."""
KEYS = 100
"""https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html"""
ANSWERS = frozenset({"ConditionalCheckFailedException", "TransactionCanceledException"})
"""Errors that are answers: the caller asks for them."""
CONFLICTS = frozenset({"TransactionConflictException", "TransactionInProgressException"})
"""Another call was at the same item: this one had no effect."""
PAUSES = (0.01, 0.2)
"""Seconds to wait before a call is repeated, the first time and at most."""


class Table:
    """A table and the client to it. Thread-safe; works in a child after a fork."""

    def __init__(self, name: str, *, region: str, endpoint: str | None, call_timeout: float, create: bool) -> None:
        self.name = name
        self.what = f"the DynamoDB table {name} in {region or 'the default region'}"
        self.clock: ServiceClock = ServiceClock()
        self._client = Client(self.what, "dynamodb", region=region, endpoint=endpoint, call_timeout=call_timeout)
        self._call_timeout = call_timeout
        self._create = create
        self._unready = False
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def deadline(self) -> Deadline:
        """The end of the patience with what is repeated."""
        return Deadline(self.what, self._call_timeout)

    def forget(self) -> None:
        """In a child after a fork: the parent's threads are not in this process, nor those that held the lock."""
        self._lock, self._pool = threading.Lock(), None
        self.clock.forget()

    def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """One call. Raises ClientError for an answer that the caller asks for, and BackendUnavailable."""
        deadline, made = self.deadline(), False
        if self._unready:
            self._make()
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
                    self._make()
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
        except BotoCoreError as error:
            raise unavailable(self.what, error) from error
        finally:
            if answer is not None:
                headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
                self.clock.hear(headers.get("date"), asked)

    def _explained(self, error: ClientError) -> BackendUnavailable:
        lacking = _lacking(error)
        if lacking is None:
            return unavailable(self.what, error)
        return BackendUnavailable(
            f"{self.what} {lacking}: run `queueport setup URL` once, or add create=true to the store's URL"
        )

    def get(self, keys: Sequence[str], *, consistent: bool = True) -> dict[str, Item]:
        """The items that there are of these keys."""
        distinct = list(dict.fromkeys(keys))
        parts = [distinct[start : start + KEYS] for start in range(0, len(distinct), KEYS)]
        found = self.each([lambda part=part: self._get(part, consistent) for part in parts])  # type: ignore[misc]
        return {key: item for items in found for key, item in items.items()}

    def _get(self, keys: Sequence[str], consistent: bool) -> dict[str, Item]:
        found: dict[str, Item] = {}
        wanted: Any = {self.name: {"Keys": [{"pk": {"S": key}} for key in keys], "ConsistentRead": consistent}}
        deadline = self.deadline()
        while wanted:
            answer = self.call("batch_get_item", RequestItems=wanted)
            found |= {item["pk"]["S"]: item for item in answer["Responses"].get(self.name, ())}
            wanted = answer.get("UnprocessedKeys")  # throttled, or more than 16 MB
            if wanted:
                deadline.pause(None)
        return found

    def query(self, **parameters: Any) -> Iterator[dict[str, Any]]:
        """The answers to a query, page after page."""
        while True:
            answer = self.call("query", TableName=self.name, **parameters)
            yield answer
            if "LastEvaluatedKey" not in answer:
                return
            parameters["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def each(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """What these return, several at once; none of them may use this itself."""
        if len(calls) <= 1:
            return [call() for call in calls]
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(THREADS, "queueport-dynamodb")
            try:
                begun = [self._pool.submit(call) for call in calls]
            except RuntimeError:  # the interpreter is ending, and begins no threads any more
                return [call() for call in calls]
        try:
            self._wait(begun)
        except BackendUnavailable:
            for call in begun:
                call.cancel()
            raise
        return [call.result() for call in begun]

    def _wait(self, begun: Sequence[Future[T]]) -> None:
        """Until all are done; the first that failed is raised, and so is it when nothing comes for too long."""
        waiting = set(begun)
        while waiting:
            done, waiting = wait(waiting, self._call_timeout, FIRST_COMPLETED)
            if not done:
                raise BackendUnavailable(f"{self.what} did not answer in time: try again, or raise call_timeout")
            for call in done:
                call.result()

    def setup(self, patience: float = READY) -> None:
        """Make what is missing of the table, and wait until it is there."""
        try:
            setup(self._client.get(), self.name, patience)
        except TimeoutError as error:
            raise BackendUnavailable(f"{self.what} is being made, and is not ready yet: try again soon") from error
        except (ClientError, BotoCoreError) as error:
            raise unavailable(self.what, error) from error

    def _make(self) -> None:
        """`setup`, as far as a call may take; the next call goes on with it."""
        self._unready = True
        self.setup(self._call_timeout)
        self._unready = False

    def problems(self) -> list[str]:
        """What is not as `setup` makes it."""
        try:
            return problems(self._client.get(), self.name)
        except ClientError as error:
            raise self._explained(error) from error
        except BotoCoreError as error:
            raise unavailable(self.what, error) from error

    def close(self) -> None:
        """Let go of threads and connections; used again, they are made again."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)
        self._client.close()


class Deadline:
    """Until when something is repeated, with growing pauses."""

    def __init__(self, what: str, seconds: float) -> None:
        self._what = what
        self._end = time.monotonic() + seconds
        self._pause = PAUSES[0]

    def again(self, error: Exception | None, pause: float = 0.0) -> None:
        """Once more; raises BackendUnavailable, caused by that error, where the time is over."""
        if time.monotonic() + pause > self._end:
            raise BackendUnavailable(
                f"{self._what} is too busy: calls meet each other, or are throttled; raise shards=, or call less often"
            ) from error

    def pause(self, error: Exception | None) -> None:
        """Once more after a while."""
        pause = self._pause * random.uniform(0.5, 1.0)
        self.again(error, pause)
        time.sleep(pause)
        self._pause = min(2 * self._pause, PAUSES[1])


def answer_of(error: ClientError) -> dict[str, Any]:
    """What DynamoDB answered."""
    return dict(error.response)


def _lacking(error: ClientError) -> str | None:
    """What `setup` has yet to make, if that is what is wrong."""
    code, message = code_of(error), str(error.response.get("Error", {}).get("Message", ""))
    if code in ("ResourceNotFoundException", "ValidationException") and "index: " in message:
        return "lacks an index of queueport's"
    return "does not exist" if code == "ResourceNotFoundException" else None


def code_of(error: ClientError) -> str:
    """The error's code."""
    return str(error.response.get("Error", {}).get("Code", ""))

"""The SQS queues of one namespace: their names, how they are created, and calls to them. For the transport, and for
operators who write IAM policies.

The queue QUEUE is `{prefix}{namespace}-QUEUE` in SQS, and its dead-letter queue is `{prefix}{namespace}-QUEUE-dead`.
SQS allows 80 letters, digits, hyphens and underscores; a name in queueport may also contain dots. So a dot becomes
`--`, and a hyphen before `-`, `_` or `.` becomes `-_`. If QUEUE ends with `-dead` or `-jobs`, `-jobs` is appended to
the SQS name of the queue that carries its jobs. Therefore two queues with the same prefix never have the same name in
SQS. The names of FIFO queues also end with `.fifo`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from botocore import exceptions as aws

from queueport.errors import BackendMisconfigured, BackendUnavailable
from queueport_sqs.client import FAILURES, Client, code_of, unavailable
from queueport_sqs.entries import LARGEST

__all__ = ["LONGEST_HIDDEN", "MISSING", "Names", "Queues"]

T = TypeVar("T")

LONGEST = 80
"""Maximum characters of a queue's name, including `.fifo`. See "Queue name" in "Amazon SQS standard queue quotas"."""
DEAD = "-dead"
JOBS = "-jobs"
FIFO = ".fifo"
MISSING = frozenset({"NonExistentQueue", "QueueDoesNotExist"})
"""The error codes for a missing queue, in SQS's older protocol and in its present protocol."""
EMPTY = "EmptyBatchRequest"
"""The error code for a batch without messages, without the prefix of SQS's older protocol."""
RETENTION = 14 * 86_400
"""Maximum seconds for which SQS keeps a message. See "Message retention" in "Amazon SQS message quotas"."""
LONGEST_HIDDEN = 12 * 3_600
"""Maximum seconds for which SQS hides a message. See "Amazon SQS visibility timeout"."""
RECEIVES = 100
"""How many times a message is received before SQS moves it to the dead letters. A worker acknowledges a message when
its job begins or, on FIFO queues, ends. So a message that is received this often is usually one that no worker can
handle. While the store does not answer, a worker process that has received a message waits for the store, and does not
receive the message again. If SQS moves the message of a queued job, the job stays queued, and a dispatcher sends a new
message."""
LEAST_RETENTION = 3600
"""Seconds of retention below which `check` warns. If SQS drops a message because its retention is over, the job waits
until a dispatcher finds that the message is lost and sends a new one."""


@dataclass(frozen=True, slots=True)
class Names:
    """The names in SQS of one namespace's queues.

    The methods raise BackendMisconfigured if a name is too long for SQS.
    """

    prefix: str
    namespace: str
    fifo: bool = False

    def work(self, queue: str) -> str:
        """The name of the SQS queue that carries the jobs of `queue`."""
        name = _plain(queue)
        return self._whole(queue, name + JOBS if name.endswith((DEAD, JOBS)) else name)

    def dead(self, queue: str) -> str:
        """The name of the SQS queue that keeps the dead letters of `queue`."""
        return self._whole(queue, _plain(queue) + DEAD)

    def _whole(self, queue: str, name: str) -> str:
        whole = f"{self.prefix}{self.namespace}-{name}{FIFO if self.fifo else ''}"
        if len(whole) > LONGEST:
            raise BackendMisconfigured(
                f"the queue {queue!r} would be named {whole!r} in SQS, where a name has at most {LONGEST} characters: "
                "shorten the queue's name, namespace= or prefix="
            )
        return whole


def _plain(queue: str) -> str:
    """The name without dots: `--` stands for a dot, and `-_` for a hyphen before `-`, `_` or `.`.

    So different queues get different names.
    """
    return re.sub(r"-(?=[-_.])", "-_", queue).replace(".", "--")


class Queues:
    """Calls operations of SQS on queues. Callers pass queueport's names of the queues. Thread-safe.

    Keeps the URL of each queue that was looked up. `where` names the region in errors.
    """

    def __init__(self, client: Client, names: Names, where: str, *, create: bool) -> None:
        self.names = names
        self.where = where
        self._client = client
        self._create = create
        self._urls: dict[str, str] = {}
        """The URLs of queues by their names in SQS. URLs stay valid after a fork."""
        self.used: dict[str, None] = {}
        """queueport's names of the queues on which `call` was used so far, in order."""

    def call(self, operation: str, queue: str, *, dead: bool = False, by: Client | None = None, **options: Any) -> Any:
        """Call an operation on a queue, or on its dead-letter queue, through the client `by` if it is given.

        If the queue does not exist, it is created first with create=true; otherwise this raises BackendMisconfigured.
        Raises BackendUnavailable if SQS does not answer or refuses the call.
        """
        for last in (False, True):
            url, name = self._url(queue, dead), self._name(queue, dead)
            try:
                return self._ask(name, partial(getattr((by or self._client).get(), operation), QueueUrl=url, **options))
            except aws.ClientError as error:  # the queue was deleted after its URL was looked up
                self._urls.pop(name, None)
                if last or not self._create:
                    raise self._missing(name, error) from error
        raise AssertionError("unreachable")

    def delete(self, queue: str, receipts: Sequence[str], *, dead: bool = False) -> None:
        """Delete received messages. `receipts` must fit into one batch. Raises BackendUnavailable.

        Does not raise if SQS refuses single messages of the batch, for example because a receipt is no longer valid.
        """
        named = [{"Id": str(i), "ReceiptHandle": receipt} for i, receipt in enumerate(receipts)]
        self.call("delete_message_batch", queue, dead=dead, Entries=named)

    def hide(self, queue: str, receipts: Sequence[str], seconds: int, *, dead: bool = False) -> None:
        """Hide received messages for `seconds` from now; 0 makes them visible. Raises BackendUnavailable.

        `receipts` must fit into one batch. Raises nothing if SQS refuses single messages of the batch.
        """
        named = [{"Id": str(i), "ReceiptHandle": r, "VisibilityTimeout": seconds} for i, r in enumerate(receipts)]
        self.call("change_message_visibility_batch", queue, dead=dead, Entries=named)

    def attributes(self, queue: str, *wanted: str, dead: bool = False) -> Mapping[str, str] | None:
        """The wanted attributes of a queue, or of its dead-letter queue; None if that queue does not exist.

        Also None if the name is too long, so that the queue cannot exist. Creates no queue. Raises BackendUnavailable.
        """
        try:
            name = self._name(queue, dead)
        except BackendMisconfigured:  # the name is too long for SQS
            return None
        try:
            return self._ask(name, lambda: self._attributes(self._found(name), *wanted))
        except aws.ClientError:  # no queue has this name
            return None

    def make(self, queue: str) -> None:
        """Create the queue and its dead-letter queue if they are missing, and add a missing redrive policy.

        Other settings stay as they are. Raises BackendUnavailable.
        """
        work, dead = self.names.work(queue), self.names.dead(queue)
        try:
            dead_url = self._made(dead, {})
            arn = self._attributes(dead_url, "QueueArn")["QueueArn"]
            policy = {"RedrivePolicy": json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": RECEIVES})}
            work_url = self._made(work, policy)
            if "RedrivePolicy" not in self._attributes(work_url, "RedrivePolicy"):
                self._client.get().set_queue_attributes(QueueUrl=work_url, Attributes=policy)
        except FAILURES as error:
            raise unavailable(f"the SQS queue {work} {self.where}, which is being created,", error) from error

    def try_to_send(self, queue: str) -> None:
        """Test whether messages can be sent: send an empty batch, which SQS refuses after checking the permission.

        Sends no message and creates no queue. Raises BackendUnavailable if messages cannot be sent. A queue that does
        not exist is an error only without create=true.
        """
        name = self._name(queue, dead=False)
        try:
            self._ask(name, lambda: self._client.get().send_message_batch(QueueUrl=self._found(name), Entries=[]))
        except aws.ClientError as error:
            if not self._create:
                raise self._missing(name, error) from error
        except BackendUnavailable as error:
            if code_of(error.__cause__) != EMPTY:
                raise

    def warnings(self, queue: str) -> Sequence[str]:
        """A sentence for each wrong setting of the SQS queue that carries the jobs; none if the queue does not exist.

        Raises BackendUnavailable if SQS does not answer, or if messages cannot be sent to an existing queue.
        """
        name = self.names.work(queue)
        found = self.attributes(queue, "All")
        if found is None:  # `check_queue` reports a missing queue
            return []
        self.try_to_send(queue)
        wrong = []
        if "RedrivePolicy" not in found:
            wrong.append(f"the SQS queue {name} has no redrive policy: run `queueport setup URL`")
        if int(found.get("DelaySeconds", 0)):
            wrong.append(f"the SQS queue {name} delays every message: set its DelaySeconds to 0")
        if int(found.get("MessageRetentionPeriod", RETENTION)) < LEAST_RETENTION:
            wrong.append(f"the SQS queue {name} drops messages early: set its MessageRetentionPeriod to {RETENTION}")
        if int(found.get("MaximumMessageSize", LARGEST)) < LARGEST:
            wrong.append(f"the SQS queue {name} refuses large messages: set its MaximumMessageSize to {LARGEST}")
        return wrong

    def _name(self, queue: str, dead: bool) -> str:
        return self.names.dead(queue) if dead else self.names.work(queue)

    def _url(self, queue: str, dead: bool) -> str:
        """The URL of the queue or of its dead-letter queue. With create=true, creates a missing queue.

        Raises BackendMisconfigured for a missing queue without create=true, and BackendUnavailable.
        """
        name = self._name(queue, dead)
        self.used[queue] = None
        try:
            return self._ask(name, lambda: self._found(name))
        except aws.ClientError as error:
            if not self._create:
                raise self._missing(name, error) from error
        self.make(queue)
        return self._urls[name]

    def _ask(self, name: str, call: Callable[[], T]) -> T:
        """Run `call`, which calls AWS, and return its value.

        Raises ClientError if the queue does not exist, and BackendUnavailable if the call fails for another reason.
        """
        try:
            return call()
        except FAILURES as error:
            if code_of(error) in MISSING:
                raise
            raise unavailable(f"the SQS queue {name} {self.where}", error) from error

    def _found(self, name: str) -> str:
        url = self._urls.get(name)
        if url is None:
            url = self._urls[name] = str(self._client.get().get_queue_url(QueueName=name)["QueueUrl"])
        return url

    def _made(self, name: str, attributes: Mapping[str, str]) -> str:
        try:
            return self._found(name)
        except aws.ClientError as error:
            if code_of(error) not in MISSING:
                raise
        wanted = {"MessageRetentionPeriod": str(RETENTION), "MaximumMessageSize": str(LARGEST), **attributes}
        if self.names.fifo:  # limit the rate of each group, not of the queue: "High throughput for FIFO queues"
            wanted |= {"FifoQueue": "true", "DeduplicationScope": "messageGroup"}
            wanted |= {"FifoThroughputLimit": "perMessageGroupId"}
        url = self._urls[name] = str(self._client.get().create_queue(QueueName=name, Attributes=wanted)["QueueUrl"])
        return url

    def _attributes(self, url: str, *wanted: str) -> Mapping[str, str]:
        answer = self._client.get().get_queue_attributes(QueueUrl=url, AttributeNames=list(wanted))
        found: Mapping[str, str] = answer.get("Attributes", {})
        return found

    def _missing(self, name: str, error: Exception) -> BackendUnavailable:
        text = f"the SQS queue {name} {self.where} does not exist"
        return BackendMisconfigured(f"{text}: run `queueport setup URL`, or add create=true to the URL")

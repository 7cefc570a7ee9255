"""The queues of one namespace in SQS: where they are, how they are made, and calls to them. For the transport."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from botocore import exceptions as aws

from queueport.errors import BackendUnavailable, ConfigurationError
from queueport_sqs.client import Client, code_of, unavailable
from queueport_sqs.entries import LARGEST
from queueport_sqs.names import Names

__all__ = ["MISSING", "Queues"]

MISSING = frozenset({"NonExistentQueue", "QueueDoesNotExist"})
"""Codes of a queue that is not there, of SQS's older protocol and of its present one."""
RETENTION = 14 * 86_400
"""Seconds that SQS keeps a message, at most. "Amazon SQS message quotas", Message retention."""
RECEIVES = 100
"""Times that a message is received before SQS itself moves it to the dead letters. A worker acknowledges at once, so
that only a message nobody can handle comes so often; a store away for an hour does not take it there."""
LEAST_RETENTION = 3600
"""Seconds of retention below which `check` warns: a message that waits longer is sent again from its record."""


class Queues:
    """Queues by their names in SQS. Thread-safe; where a queue is, is asked once."""

    def __init__(self, client: Client, names: Names, where: str, *, create: bool) -> None:
        self.names = names
        self._client = client
        self._where = where
        self._create = create
        self._urls: dict[str, str] = {}
        """By name in SQS: URLs hold no connection, and survive a fork."""
        self._used: dict[str, None] = {}

    def call(self, operation: str, queue: str, *, dead: bool = False, by: Client | None = None, **options: Any) -> Any:
        """Call an operation on the queue of jobs, or of dead letters. Raises BackendUnavailable, its cause the
        library's exception. `by`: another client than the usual one.
        """
        for last in (False, True):
            url = self._url(queue, dead)
            try:
                return getattr((by or self._client).get(), operation)(QueueUrl=url, **options)
            except (aws.ClientError, aws.BotoCoreError) as error:
                if code_of(error) not in MISSING:
                    raise unavailable(f"the SQS queue {self._name(queue, dead)} {self._where}", error) from error
                self._urls.pop(self._name(queue, dead), None)  # it was deleted since
                if last or not self._create:
                    raise self._missing(self._name(queue, dead), error) from error
        raise AssertionError("unreachable")

    def attributes(self, queue: str, *wanted: str) -> Mapping[str, str] | None:
        """What SQS says of a queue of jobs; None where there is no such queue."""
        try:
            url = self._found(self.names.work(queue))
            answer = self._client.get().get_queue_attributes(QueueUrl=url, AttributeNames=list(wanted))
            found: Mapping[str, str] = answer.get("Attributes", {})
            return found
        except ConfigurationError:  # SQS has no queue with a name so long
            return None
        except (aws.ClientError, aws.BotoCoreError) as error:
            if code_of(error) in MISSING:
                return None
            raise unavailable(f"the SQS queue {self.names.work(queue)} {self._where}", error) from error

    def used(self) -> Sequence[str]:
        """Those used so far."""
        return list(self._used)

    def make(self, queue: str) -> None:
        """Make what is missing of a queue and its dead letters; what is there stays as it is, but for a redrive policy
        where there is none. Raises BackendUnavailable, and ConfigurationError for a name that SQS does not take.
        """
        work, dead = self.names.work(queue), self.names.dead(queue)
        try:
            dead_url = self._made(dead, {})
            arn = self._attribute(dead_url, "QueueArn")
            policy = {"RedrivePolicy": json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": RECEIVES})}
            work_url = self._made(work, policy)
            if self._attribute(work_url, "RedrivePolicy") is None:
                self._client.get().set_queue_attributes(QueueUrl=work_url, Attributes=policy)
        except (aws.ClientError, aws.BotoCoreError) as error:
            raise unavailable(f"the SQS queue {work} {self._where}, which is to be made,", error) from error

    def warnings(self, queue: str) -> Sequence[str]:
        """How a queue of jobs is run, where that is not well. Raises BackendUnavailable."""
        name = self.names.work(queue)
        found = self.attributes(queue, "All")
        if found is None:
            made = "" if self._create else f"the SQS queue {name} does not exist: run `queueport setup URL`"
            return [made] if made else []
        told = []
        if "RedrivePolicy" not in found:
            told.append(f"the SQS queue {name} has no redrive policy: run `queueport setup URL`")
        if int(found.get("DelaySeconds", 0)):
            told.append(f"the SQS queue {name} delays every message: set its DelaySeconds to 0")
        if int(found.get("MessageRetentionPeriod", RETENTION)) < LEAST_RETENTION:
            told.append(f"the SQS queue {name} forgets messages early: set its MessageRetentionPeriod to {RETENTION}")
        if int(found.get("MaximumMessageSize", LARGEST)) < LARGEST:
            told.append(f"the SQS queue {name} refuses large messages: set its MaximumMessageSize to {LARGEST}")
        return told

    def _name(self, queue: str, dead: bool) -> str:
        return self.names.dead(queue) if dead else self.names.work(queue)

    def _url(self, queue: str, dead: bool) -> str:
        """Where it is; it is made, if that is asked for. Raises BackendUnavailable."""
        try:
            name = self._name(queue, dead)
        except ConfigurationError as error:
            raise BackendUnavailable(str(error)) from error
        self._used[queue] = None
        try:
            return self._found(name)
        except (aws.ClientError, aws.BotoCoreError) as error:
            if code_of(error) not in MISSING:
                raise unavailable(f"the SQS queue {name} {self._where}", error) from error
            if not self._create:
                raise self._missing(name, error) from error
        self.make(queue)
        return self._urls[name]

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
        if self.names.fifo:  # groups side by side: "High throughput for FIFO queues"
            wanted |= {"FifoQueue": "true", "DeduplicationScope": "messageGroup"}
            wanted |= {"FifoThroughputLimit": "perMessageGroupId"}
        url = self._urls[name] = str(self._client.get().create_queue(QueueName=name, Attributes=wanted)["QueueUrl"])
        return url

    def _attribute(self, url: str, name: str) -> str | None:
        answer = self._client.get().get_queue_attributes(QueueUrl=url, AttributeNames=[name])
        value: str | None = answer.get("Attributes", {}).get(name)
        return value

    def _missing(self, name: str, error: Exception) -> BackendUnavailable:
        said = f"the SQS queue {name} {self._where} does not exist"
        return BackendUnavailable(f"{said}: run `queueport setup URL`, or add create=true to the URL")

"""Runs the whole contract suite of `queueport.testing` on an SQS emulator: standard and FIFO queues, several stores."""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import quote

import pytest

from adapters.sqs.tests.clients import client
from queueport.testing import Contract, Harness
from queueport.testing.redis_store import OnRedis
from queueport.testing.servers import Server
from tests.servers import aws_server, redis_server


@functools.cache
def emulator() -> Server:
    """The emulator of this test process. Waits for its first answer, which takes some seconds."""
    server = aws_server("sqs")
    client(server.url, "sqs").list_queues()
    return server


def sqs_url(*, fifo: bool) -> str:
    """The emulator's URL, as applications write it."""
    return f"sqs://us-east-1?endpoint={emulator().url}&create=true&wait=1" + ("&fifo=true" if fifo else "")


class SqsHarness(Harness):
    """Queues on an emulator, in a new namespace for each test. To stop the backend, the emulator's port is closed."""

    fifo: bool = False
    late = 2.0  # a job makes about twelve calls to the emulator, which is slow under load

    def restart_backend(self) -> None:
        with self.sends_down():
            pass

    def sends_down(self) -> AbstractContextManager[None]:
        return emulator().down()

    def wipe(self, queue: str) -> None:
        for message in self._messages(queue):
            self.aws.delete_message(QueueUrl=self._url(queue), ReceiptHandle=message["ReceiptHandle"])

    def inject(self, queue: str, body: bytes) -> None:
        text = body.decode(errors="replace").replace("\0", " ")  # SQS accepts only text, without NUL
        group = {"MessageGroupId": "injected", "MessageDeduplicationId": str(time.time_ns())} if self.fifo else {}
        self.aws.send_message(QueueUrl=self._url(queue), MessageBody=text, **group)

    def native_dead(self) -> Sequence[str]:
        return [message["MessageAttributes"]["id"]["StringValue"] for message in self._look("default-dead")]

    def redrive(self, job_id: str) -> None:
        """Move the message with its body and attributes, as SQS's redrive does. The emulator has no redrive."""
        found = {m["MessageAttributes"]["id"]["StringValue"]: m for m in self._messages("default-dead")}
        message = found[job_id]
        group = {"MessageGroupId": job_id, "MessageDeduplicationId": str(time.time_ns())} if self.fifo else {}
        self.aws.send_message(
            QueueUrl=self._url("default"),
            MessageBody=message["Body"],
            MessageAttributes=message["MessageAttributes"],
            **group,
        )
        self.aws.delete_message(QueueUrl=self._url("default-dead"), ReceiptHandle=message["ReceiptHandle"])

    def clean(self) -> None:
        for url in self.aws.list_queues(QueueNamePrefix=self.namespace).get("QueueUrls", []):
            self.aws.delete_queue(QueueUrl=url)
        super().clean()

    @functools.cached_property
    def aws(self) -> Any:
        """A client that is independent of queueport."""
        return client(emulator().url, "sqs")

    def _url(self, name: str) -> str:
        suffix = ".fifo" if self.fifo else ""
        url: str = self.aws.get_queue_url(QueueName=f"{self.namespace}-{name}{suffix}")["QueueUrl"]
        return url

    def _look(self, name: str) -> list[dict[str, Any]]:
        """All messages of a queue. They stay in the queue and are visible again afterwards."""
        found = self._messages(name)
        for message in found:
            self.aws.change_message_visibility(
                QueueUrl=self._url(name), ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
            )
        return found

    def _messages(self, name: str) -> list[dict[str, Any]]:
        """Receive all messages of a queue."""
        found: list[dict[str, Any]] = []
        while True:
            answer = self.aws.receive_message(
                QueueUrl=self._url(name),
                MaxNumberOfMessages=10,
                VisibilityTimeout=5,
                WaitTimeSeconds=0,
                MessageAttributeNames=["All"],
            )
            if not answer.get("Messages"):
                return found
            found += answer["Messages"]


class WithRedis(SqsHarness, OnRedis):
    """Records in Redis: the shared server, or a private one for a test that stops it."""

    def __init__(self, *, fifo: bool, private: bool) -> None:
        super().__init__(sqs_url(fifo=fifo), redis_server(private=private))
        self.title = "sqs (FIFO) + redis" if fifo else "sqs + redis"
        self.fifo = fifo


class WithDynamo(SqsHarness):
    """Records in DynamoDB: a new table for each test, on another emulator than that of SQS."""

    def __init__(self) -> None:
        self._store = aws_server("dynamodb")
        self._table = f"contract-{uuid.uuid4().hex}"
        store = f"dynamodb://us-east-1/{self._table}?endpoint={self._store.url}&shards=2&poll=0.25"
        super().__init__(f"{sqs_url(fifo=False)}&store={quote(store, safe='')}")
        self.title = "sqs + dynamodb"
        self.open().operations.store.setup()

    def restart_store(self) -> None:
        with self._store.down():
            pass

    def store_down(self) -> AbstractContextManager[None]:
        return self._store.down()

    def clean(self) -> None:
        super().clean()
        client(self._store.url).delete_table(TableName=self._table)


class TestSqsWithDynamo(Contract):
    @pytest.fixture
    def harness(self) -> Harness:
        return WithDynamo()


class TestSqsWithRedis(Contract):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        return WithRedis(fifo=False, private=getattr(request.function, "disrupts", False))


class TestFifoWithRedis(Contract):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        return WithRedis(fifo=True, private=getattr(request.function, "disrupts", False))

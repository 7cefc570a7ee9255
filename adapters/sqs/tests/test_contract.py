"""SQS keeps the contract, on an emulator: standard queues and FIFO ones, with each job store that goes with them."""

from __future__ import annotations

import functools
import json
import time
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import quote

import pytest

from adapters.sqs.tests.clients import client
from queueport.errors import JobNotFound
from queueport.testing import Contract, Harness, tasks
from tests.servers import aws_server, redis_server
from tests.servers.harness import OnRedis
from tests.servers.server import Server


@functools.cache
def emulator() -> Server:
    """The emulator of this test process, once it has answered: its first answer takes seconds."""
    server = aws_server("sqs")
    client(server.url, "sqs").list_queues()
    return server


def sqs_url(*, fifo: bool) -> str:
    """The emulator's URL, as applications write it."""
    return f"sqs://us-east-1?endpoint={emulator().url}&create=true&wait=1" + ("&fifo=true" if fifo else "")


class SqsHarness(Harness):
    """Queues of an emulator, in a namespace of this test's own. What must be stopped is the emulator's port."""

    fifo: bool = False
    late = 2.0  # a job takes a dozen calls to the emulator, which is slow under load

    def restart_backend(self) -> None:
        with self.sends_down():
            pass

    def sends_down(self) -> AbstractContextManager[None]:
        return emulator().down()

    def wipe(self, queue: str) -> None:
        for message in self._messages(queue):
            self.aws.delete_message(QueueUrl=self._url(queue), ReceiptHandle=message["ReceiptHandle"])

    def inject(self, queue: str, body: bytes) -> None:
        text = body.decode(errors="replace").replace("\0", " ")  # SQS carries text only
        group = {"MessageGroupId": "injected", "MessageDeduplicationId": str(time.time_ns())} if self.fifo else {}
        self.aws.send_message(QueueUrl=self._url(queue), MessageBody=text, **group)

    def redeliver(self, job_id: str) -> None:
        try:
            task = self.open().status(job_id).task
        except JobNotFound:  # retention removed it
            task = tasks.echo.name
        message = {"v": 1, "id": job_id, "task": task, "queue": "default"}
        self.inject("default", json.dumps({**message, "life": 1, "sent_at": 0.0}).encode())

    def native_dead(self) -> Sequence[str]:
        return [message["MessageAttributes"]["id"]["StringValue"] for message in self._look("default-dead")]

    def redrive(self, job_id: str) -> None:
        """As SQS does, which the emulator cannot: the message itself, body and attributes, to where it came from."""
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
        """The library's own client."""
        return client(emulator().url, "sqs")

    def _url(self, name: str) -> str:
        suffix = ".fifo" if self.fifo else ""
        url: str = self.aws.get_queue_url(QueueName=f"{self.namespace}-{name}{suffix}")["QueueUrl"]
        return url

    def _look(self, name: str) -> list[dict[str, Any]]:
        """All messages of a queue, which are visible again afterwards."""
        found = self._messages(name)
        for message in found:
            self.aws.change_message_visibility(
                QueueUrl=self._url(name), ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
            )
        return found

    def _messages(self, name: str) -> list[dict[str, Any]]:
        """All messages of a queue, received."""
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
    """Records in Redis: one of this test process's own, where the test stops it."""

    def __init__(self, *, fifo: bool, private: bool) -> None:
        super().__init__(sqs_url(fifo=fifo), redis_server(private=private))
        self.title = "sqs (FIFO) + redis" if fifo else "sqs + redis"
        self.fifo = fifo


class WithDynamo(SqsHarness):
    """Records in DynamoDB, in a table of this test's own on an emulator of its own."""

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


@pytest.mark.xdist_group("dynamodb")  # two emulators and their clients have work for a core: one of them at a time
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

"""Name keeps the contract: the whole suite of `queueport.testing`, against a real Name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from queueport.testing import Contract, Harness


class NameHarness(Harness):
    """A Name that these tests may stop, start, empty and fill; `queueport.testing.harness` says what each part does."""

    def native_command(self, queues: Sequence[str]) -> Sequence[str] | None:
        return NONE, OR THE FRAMEWORK'S OWN WORKER COMMAND

    def restart_backend(self) -> None:
        STOP AND START THE SERVER

    def restart_store(self) -> None:
        THE SAME FOR THE STORE'S

    @contextmanager
    def sends_down(self) -> Iterator[None]:
        MAKE NAME REFUSE WHAT IS SENT
        yield
        AND TAKE IT AGAIN

    @contextmanager
    def store_down(self) -> Iterator[None]:
        MAKE THE STORE DEAF
        yield
        AND LET IT ANSWER AGAIN

    def wipe(self, queue: str) -> None:
        DELETE THE MESSAGES OF A QUEUE BY NAME'S OWN CLIENT

    def inject(self, queue: str, body: bytes) -> None:
        SEND BYTES BY NAME'S OWN CLIENT

    def redeliver(self, job_id: str) -> None:
        SEND A COPY OF THE JOB'S MESSAGE BY NAME'S OWN CLIENT

    def native_dead(self) -> Sequence[str]:
        READ THE IDS IN NAME'S OWN DEAD LETTERS

    def redrive(self, job_id: str) -> None:
        MOVE A DEAD LETTER BACK BY NAME'S OWN CLIENT

    def clean(self) -> None:
        DELETE WHAT THE TEST HAS MADE


class TestName(Contract):
    """Every line of the contract that the capabilities of Name ask for."""

    @pytest.fixture
    def harness(self) -> Harness:
        return NameHarness("SCHEME://localhost?store=sqlite%3A%2F%2F%2F...")

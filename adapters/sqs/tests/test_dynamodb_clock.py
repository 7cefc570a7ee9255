"""Tests how the store estimates DynamoDB's clock from the dates of responses."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from queueport_sqs.dynamodb.connection import ServiceClock


class Machine:
    """A machine whose clock is `wrong` seconds ahead of DynamoDB's. `ask` receives a response after some time."""

    def __init__(self, wrong: float) -> None:
        self.true = 1_700_000_000.25
        self.wrong = wrong
        self.clock = ServiceClock(lambda: self.true + self.wrong)

    def ask(self, seconds: float = 0.02) -> None:
        asked = self.clock.local()
        self.true += seconds / 2
        date = formatdate(int(self.true), usegmt=True)
        self.true += seconds / 2
        self.clock.learn(date, asked)

    @property
    def error(self) -> float:
        return self.clock.now() - self.true


@pytest.mark.parametrize("wrong", [0.0, 0.2, -0.2])
def test_the_correction_never_makes_a_clock_worse(wrong: float) -> None:
    machine = Machine(wrong)
    for _ in range(10):
        machine.ask()
        machine.true += 0.37
        assert abs(machine.error) <= abs(wrong) + 0.001


@pytest.mark.parametrize("wrong", [3600.0, -3600.0, 5.0, -5.0])
def test_a_wrong_clock_is_corrected_to_within_a_second_and_better_with_more_responses(wrong: float) -> None:
    machine = Machine(wrong)
    machine.ask()
    assert abs(machine.error) <= 1.02
    for _ in range(30):
        machine.true += 0.37
        machine.ask()
    assert abs(machine.error) <= 0.1


def test_a_clock_that_was_set_is_corrected_again() -> None:
    machine = Machine(100.0)
    for _ in range(10):
        machine.ask()
        machine.true += 0.37
    machine.wrong = 0.0
    machine.ask()
    assert abs(machine.error) <= 1.02


def test_time_goes_on_between_responses() -> None:
    machine = Machine(50.0)
    machine.ask()
    before = machine.clock.now()
    machine.true += 1000
    assert machine.clock.now() == pytest.approx(before + 1000)


@pytest.mark.parametrize("date", [None, "", "soon"])
def test_a_response_without_a_date_changes_nothing(date: str | None) -> None:
    machine = Machine(7.0)
    machine.clock.learn(date, machine.clock.local())
    assert not machine.clock.known
    assert machine.error == 7.0


def test_a_machine_whose_clock_is_set_between_two_responses_keeps_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    true = time.time()
    clock = ServiceClock()
    clock.learn(formatdate(int(true), usegmt=True), clock.local())
    monkeypatch.setattr(time, "time", lambda: true + 3600.0)
    assert abs(clock.now() - true) <= 2.0

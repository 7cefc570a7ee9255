"""The limits of `Thresholds`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from queueport import get_queue
from queueport.engine.thresholds import Thresholds
from queueport.errors import ConfigurationError
from queueport.stats import HistoryPoint, Queues, QueueStats, WorkerStats

WORKERS = [WorkerStats(f"w{n}", queues, (), datetime.now(UTC)) for n, queues in enumerate([("mails",), ("mails", "x")])]
HOUR = HistoryPoint(datetime.now(UTC), 3600.0, succeeded=1, failed=1)
QUEUES = Queues(
    mails=QueueStats(queued=3, dead=2, oldest_queued_age=61.4, last_hour=HOUR), pages=QueueStats(queued=1, dead=1)
)


@pytest.mark.parametrize(
    ("limits", "problems"),
    [
        ({}, []),
        ({"max_depth": 3, "max_age": 61.4, "max_dead": 2, "min_workers": 2}, []),
        ({"max_depth": 2}, ["queue mails has 3 queued jobs, more than 2"]),
        ({"max_depth": {"*": 0, "mails": 3}}, ["queue pages has 1 queued job, more than 0"]),
        ({"max_depth": {"pages": 0, "unused": 0}}, ["queue pages has 1 queued job, more than 0"]),
        ({"max_age": {"mails": 60}}, ["the oldest job in queue mails has waited 61 s, more than 60 s"]),
        (
            {"max_dead": 0},
            ["queue mails has 2 dead jobs, more than 0", "queue pages has 1 dead job, more than 0"],
        ),
        ({"max_failure_rate": 0.5}, []),
        ({"max_failure_rate": 0.125}, ["1 of 2 attempts in queue mails failed in the last hour, more than 12.5%"]),
        ({"min_workers": 3}, ["there are 2 live workers, fewer than 3"]),
        ({"min_workers": {"*": 2, "mails": 2}}, []),
        (
            {"min_workers": {"x": 2, "pages": 1}},
            ["queue x has 1 live worker, fewer than 2", "queue pages has no live workers, fewer than 1"],
        ),
    ],
)
def test_each_exceeded_limit_is_one_sentence(limits: dict[str, Any], problems: list[str]) -> None:
    with get_queue("memory://") as queue:
        stats = replace(queue.stats(), queues=QUEUES, workers=WORKERS)
    assert Thresholds(**limits).problems(stats) == problems


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"max_depth": -1}, "max_depth=-1 is not a limit: pass an integer of 0 or more"),
        ({"max_depth": 1.5}, "max_depth=1.5 is not a limit: pass an integer of 0 or more"),
        ({"max_dead": {"mails": True}}, "max_dead=True is not a limit"),
        ({"min_workers": {"": 1}}, "'' is not a queue name"),
        ({"max_age": float("nan")}, "max_age=nan is not a limit: pass a number of seconds of 0 or more"),
        ({"max_failure_rate": 10}, "max_failure_rate=10 is not a limit: pass a number from 0 to 1"),
        ({"max_age": {"a b": 1}}, "'a b' is not a queue name"),
    ],
)
def test_a_wrong_limit_is_refused(limits: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        Thresholds(**limits)

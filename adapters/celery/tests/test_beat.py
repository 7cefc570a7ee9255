"""`queueport schedules import` for a Celery app: what the app declares for beat becomes schedules of queueport."""

from __future__ import annotations

import dataclasses
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.schedules import crontab, schedule
from typer.testing import CliRunner

from queueport import Recurrence, get_queue
from queueport.cli.app import app as command_line
from queueport.spi.driver import ForeignSchedule
from queueport_celery.beat import beat_schedule


class Odd(schedule):
    """A schedule of the app's own."""

    def is_due(self, last_run_at: Any) -> Any:
        return super().is_due(last_run_at)


app = Celery("beat_app", broker="redis://127.0.0.1:6379/0")
app.conf.update(timezone="Europe/Berlin")


@app.task(name="beat_app.add")
def add(a: int, b: int = 1) -> int:
    return a + b


@app.on_after_configure.connect
def _add_more(sender: Any, **_: object) -> None:
    sender.add_periodic_task(crontab(minute="*/5"), add.s(3), name="added later")


app.conf.beat_schedule = {
    "seconds": {"task": "beat_app.add", "schedule": 30.0, "args": (1,)},
    "interval": {"task": "beat_app.add", "schedule": timedelta(minutes=2)},
    "nightly": {
        "task": "beat_app.add",
        "schedule": crontab(minute=0, hour=[3, 4], day_of_week="mon-fri"),
        "args": (1,),
        "kwargs": {"b": 2},
        "options": {"queue": "bulk", "expires": 60},
    },
    "both days": {"task": "beat_app.add", "schedule": crontab(0, 3, day_of_week=1, day_of_month="1-7")},
    "odd": {"task": "beat_app.add", "schedule": Odd(timedelta(seconds=5))},
    "routed": {"task": "beat_app.add", "schedule": 5, "options": {"routing_key": "x"}},
    "no JSON": {"task": "beat_app.add", "schedule": 5, "args": (object(),)},
}


def found() -> dict[str, ForeignSchedule]:
    return {foreign.name: foreign for foreign in beat_schedule(app)}


@pytest.mark.parametrize(
    ("name", "recurrence"),
    [
        ("seconds", Recurrence(every=30)),
        ("interval", Recurrence(every=120)),
        ("nightly", Recurrence(cron="0 3,4 * * mon-fri", timezone="Europe/Berlin")),
        ("added later", Recurrence(cron="*/5 * * * *", timezone="Europe/Berlin")),
    ],
)
def test_the_times_are_the_same(name: str, recurrence: Recurrence) -> None:
    assert found()[name].recurrence == recurrence


def test_the_job_is_the_same() -> None:
    job = found()["nightly"].job
    assert job is not None
    assert (job.task, job.args, job.kwargs, job.queue, job.expires) == ("beat_app.add", [1], {"b": 2}, "bulk", 60)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("both days", "both the day of month and the day of week"),
        ("odd", "its schedule is a Odd"),
        ("routed", "no option routing_key"),
        ("no JSON", "argument args[0]"),
    ],
)
def test_what_cannot_be_imported_is_said(name: str, sentence: str) -> None:
    foreign = found()[name]
    assert foreign.job is None
    assert sentence in str(foreign.problem)


def test_the_command_shows_first_and_imports_with_apply(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/jobs.db"

    def outcomes(*options: str) -> dict[str, str]:
        command = ["schedules", "import", f"celery://{__name__}:app", "--store", store, "--json", *options]
        result = CliRunner().invoke(command_line, command)
        assert result.exit_code == 1, result.output  # some of them cannot be imported
        return {row["name"]: row["outcome"] for row in json.loads(result.stdout)}

    with get_queue(store) as queue:
        shown = outcomes()
        new = {name for name, outcome in shown.items() if outcome == "new"}
        assert new == {"seconds", "interval", "nightly", "added later"}
        assert queue.schedules.list() == []
        assert outcomes("--apply") == shown
        assert {each.name for each in queue.schedules.list()} == new
        assert outcomes()["nightly"] == "same"
        nightly = found()["nightly"]
        assert nightly.job is not None
        assert nightly.recurrence is not None
        queue.schedules.put("nightly", dataclasses.replace(nightly.job, expires=61), nightly.recurrence)
        assert outcomes()["nightly"] == "changed"

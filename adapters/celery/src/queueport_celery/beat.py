"""The schedule that an existing app declares for Celery's beat, as schedules of queueport. For the driver."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from celery import Celery
from celery.schedules import crontab, schedule

from queueport import Recurrence, task
from queueport.errors import QueueportError
from queueport.spi.driver import ForeignSchedule
from queueport.tasks import registry

__all__ = ["beat_schedule"]

TAKEN = frozenset({"queue", "expires", "priority"})
"""The options of a beat entry that queueport's jobs support."""


def beat_schedule(app: Celery) -> Iterator[ForeignSchedule]:
    """Read `beat_schedule` of the app's configuration, with the periodic tasks that its modules add."""
    app.loader.import_default_modules()  # sends `on_after_configure` and imports the modules of `imports`
    for name, entry in app.conf.beat_schedule.items():
        try:
            yield _read(app, str(name), entry)
        except (QueueportError, ValueError, TypeError, KeyError) as error:
            yield ForeignSchedule(str(name), problem=str(error))


def _read(app: Celery, name: str, entry: Mapping[str, Any]) -> ForeignSchedule:
    """One entry. Raises ValueError and others, with a sentence, if queueport cannot have such a schedule."""
    options = {option: value for option, value in (entry.get("options") or {}).items() if value is not None}
    if unknown := sorted(options.keys() - TAKEN):
        raise ValueError(f"jobs of queueport have no option {', '.join(unknown)}: leave it out, or change the task")
    expires = options.get("expires")
    if not isinstance(expires, int | float | timedelta | None):
        raise TypeError("its option expires is a time, not a number of seconds")
    declared = registry.get(entry["task"]) or task.named(entry["task"])
    chosen = declared.using(queue=options.get("queue"), priority=options.get("priority"), expires=expires)
    job = chosen.job(*entry.get("args") or (), **entry.get("kwargs") or {})
    return ForeignSchedule(name, job, _recurrence(app, entry["schedule"]))


def _recurrence(app: Celery, when: Any) -> Recurrence:
    if isinstance(when, crontab):
        # how it is pickled: the class and its arguments, as the app gave them
        minute, hour, weekdays, days, months = (_field(argument) for argument in when.__reduce__()[1])
        if not days.startswith("*") and not weekdays.startswith("*"):
            raise ValueError(
                "Celery runs it on days that match both the day of month and the day of week; cron does not"
            )
        return Recurrence(cron=f"{minute} {hour} {days} {months} {weekdays}", timezone=str(app.timezone))
    if isinstance(when, schedule) and type(when).is_due is schedule.is_due:
        when = when.__reduce__()[1][0]  # a timedelta
    if isinstance(when, int | float | timedelta):
        return Recurrence(every=when)
    raise ValueError(f"its schedule is a {type(when).__name__}; queueport knows intervals and cron expressions")


def _field(value: object) -> str:
    """A field of a crontab: a number, a text, or a set or list of numbers."""
    values = value if isinstance(value, set | frozenset | list | tuple) else [value]
    return ",".join(str(each).replace(" ", "") for each in values)

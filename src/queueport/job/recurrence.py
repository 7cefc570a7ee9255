"""`Recurrence`, the times of recurring jobs, and `Schedule`, a recurring job. For applications and the dispatcher."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, TypedDict

from queueport.errors import ConfigurationError
from queueport.retry import LONGEST
from queueport.status import JobState, plain

__all__ = ["CATCH_UP", "SHORTEST", "Recurrence", "RecurrenceOptions", "Schedule"]

SHORTEST = 1.0
"""The shortest interval of a recurring job, in seconds. Dispatchers poll only a few times a second."""
CATCH_UP = ("one", "all", "none")


class RecurrenceOptions(TypedDict, total=False):
    """The options that make a task recur; `Recurrence` describes them. None is the same as not given."""

    every: float | timedelta | None
    cron: str | None
    timezone: str | None
    catch_up: str | None
    overlap: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrence:
    """When a recurring job runs: give either `every` or `cron`. Each of the times is called a tick.

        Recurrence(every=300)
        Recurrence(cron="0 3 * * mon-fri", timezone="Europe/Berlin")

    Raises ConfigurationError for a wrong value, or if not exactly one of `every` and `cron` is given.
    """

    every: float | timedelta | None = None
    """Seconds between two ticks, at least 1, or a timedelta. The first tick is at `start`, or one interval after the
    schedule was added."""
    cron: str | None = None
    """A cron expression: minute, hour, day of month, month, day of week; with six fields, the first is the second."""
    timezone: str = "UTC"
    """The time zone in which `cron` is read, such as "Europe/Berlin". If clocks are set forward, a time that is
    skipped becomes the first time after the gap. If clocks are set back, a time that exists twice counts once, the
    first time. An expression whose minute or hour begins with `*` follows the clock instead: it skips the missing hour,
    and runs in both of the doubled ones."""
    start: datetime | None = None
    """No tick before this aware time."""
    end: datetime | None = None
    """No tick after this aware time."""
    catch_up: str = "one"
    """What happens to ticks that were missed while no worker ran: "one" job for the latest of them, a job for "all",
    or for "none"."""
    overlap: bool = True
    """False: no job for a tick while the job of an earlier tick has not ended. The jobs then hold a key."""

    def __post_init__(self) -> None:
        if (self.every is None) == (self.cron is None):
            raise ConfigurationError("a recurring job needs either every= (seconds) or cron= (an expression), not both")
        if self.every is not None:
            object.__setattr__(self, "every", _interval(self.every))
        zone = _zone(self.timezone)
        for name in ("start", "end"):
            object.__setattr__(self, name, _moment(name, getattr(self, name)))
        if self.start is not None and self.end is not None and self.end < self.start:
            raise ConfigurationError(f"end={self.end} is before start={self.start}: the job would never run")
        if self.catch_up not in CATCH_UP:
            raise ConfigurationError(f"catch_up must be one of {', '.join(CATCH_UP)}, not {self.catch_up!r}")
        if not isinstance(self.overlap, bool):
            raise ConfigurationError(f"overlap must be True or False, not {self.overlap!r}")
        if self.cron is not None and next(self._cron(0.0, zone), None) is None:
            raise ConfigurationError(f"the cron expression {self.cron!r} names no time in the next 50 years")

    @property
    def interval(self) -> float | None:
        """`every` in seconds; None for a cron expression."""
        return self.every.total_seconds() if isinstance(self.every, timedelta) else self.every

    def following(self, moment: float, origin: float) -> float | None:
        """The first tick after `moment`; None if there is none.

        Times are seconds since the epoch. `origin` is the time from which `every` counts: one of the ticks.
        """
        tick: float | None
        interval = self.interval
        if interval is None:
            start = 0.0 if self.start is None else self.start.timestamp()
            tick = next(self._cron(max(moment, start - 1e-6), _zone(self.timezone)), None)
        else:
            steps = max(0, math.floor((moment - origin) / interval) + 1)
            tick = origin + steps * interval
            while tick <= moment:  # a rounding error
                steps += 1
                tick = origin + steps * interval
        return None if tick is None or (self.end is not None and tick > self.end.timestamp()) else tick

    def latest(self, moment: float, first: float, origin: float) -> float:
        """The last tick that is not after `moment`. `first` is a tick that is not after `moment`."""
        if self.end is not None:
            moment = min(moment, self.end.timestamp())
        interval = self.interval
        if interval is not None:
            steps = math.floor((moment - origin) / interval)
            # A rounding error can make this one too few or too many.
            near = [origin + (steps + more) * interval for more in (-1, 0, 1)]
            tick = max(at for at in near if at <= moment)
        else:
            zone = _zone(self.timezone)
            # Going back from `moment` is fast, but may stop too early where clocks are set back.
            back = next(self._cron(moment + 1e-6, zone, reverse=True), first)
            tick = max(first, back) if back <= moment else first
            while (after := self.following(tick, origin)) is not None and after <= moment:
                tick = after
        return max(first, tick)

    def _cron(self, moment: float, zone: tzinfo, *, reverse: bool = False) -> Iterator[float]:
        """The ticks of the cron expression after `moment` in the order of time; with `reverse`, those before it, the
        latest first. Raises ConfigurationError for a wrong expression.
        """
        from cronsim import CronSim, CronSimError  # imported here, because few processes need it

        try:
            found = CronSim(self.cron if isinstance(self.cron, str) else "", _local(moment, zone), reverse=reverse)
        except CronSimError as error:
            raise ConfigurationError(
                f"{self.cron!r} is not a cron expression ({error}): write minute, hour, day of month, month and day of "
                'week, such as "0 3 * * mon-fri"'
            ) from None
        for tick in found:
            at = tick.timestamp()
            if at < moment if reverse else at > moment:
                yield at

    @property
    def description(self) -> str:
        """When the ticks are, as text: "every 300 s", or the cron expression and its time zone, if that is not UTC."""
        if self.interval is not None:
            return f"every {self.interval:g} s"
        return f"{self.cron}" + ("" if self.timezone == "UTC" else f" ({self.timezone})")

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values; times in ISO 8601."""
        return dataclasses.asdict(self, dict_factory=plain)

    @classmethod
    def from_dict(cls, values: Any) -> Recurrence:
        """Make a recurrence from the output of `as_dict`. Ignores fields that this release does not know.

        Raises ConfigurationError, KeyError, TypeError or ValueError if the values are not such an output.
        """
        times = {name: values[name] and datetime.fromisoformat(values[name]) for name in ("start", "end")}
        known = {each.name: values[each.name] for each in dataclasses.fields(cls) if each.name in values}
        return cls(**{**known, **times})


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A recurring job, as `JobQueue.schedules` returns it. Times are in UTC."""

    name: str
    task: str
    """The name of the task that the jobs run."""
    queue: str
    args: list[Any]
    kwargs: dict[str, Any]
    recurrence: Recurrence
    paused: bool = False
    declared: bool = False
    """True if the schedule was declared with `@task(every=...)` or `@task(cron=...)`."""
    next_at: datetime | None = None
    """The next tick; None if there is none, because `end` has passed. While the schedule is paused, ticks pass without
    a job."""
    last_at: datetime | None = None
    """The latest tick that had its job, or that had none because of `overlap`; None at first."""
    last_job_id: str | None = None
    """The id of the job of that tick. `JobQueue.status` shows the job, as long as its record is kept."""
    last_state: JobState | None = None
    """The state of that job; None if its record was removed, or if `overlap` prevented the job."""
    headers: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values; times in ISO 8601."""
        return {**dataclasses.asdict(self, dict_factory=plain), "recurrence": self.recurrence.as_dict()}


def _local(moment: float, zone: tzinfo) -> datetime:
    """The time in its zone. Times that `datetime` cannot represent are replaced by the nearest that it can."""
    return datetime.fromtimestamp(min(max(moment, 0.0), LONGEST * 5), zone)


def _interval(value: object) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and SHORTEST <= seconds <= LONGEST:
        return float(seconds)
    raise ConfigurationError(f"every must be a number of seconds from 1 to 100 years, or a timedelta, not {value!r}")


def _moment(name: str, value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise ConfigurationError(f"{name} must be an aware datetime, such as datetime.now(UTC), not {value!r}")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ConfigurationError(f"{name} must be in the years 1 to 9999 in UTC, not {value!r}") from None


def _zone(name: object) -> tzinfo:
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo  # imported here, because few processes need it

    try:
        return ZoneInfo(name if isinstance(name, str) else "")
    except (ValueError, OSError, KeyError):  # KeyError: ZoneInfoNotFoundError; OSError: the name of a folder
        raise ConfigurationError(
            f"there is no time zone {name!r} here: use a name such as 'Europe/Berlin', and install the package tzdata "
            "if this machine has no time zones"
        ) from None

"""The settings that every backend has, made of URL, keywords and environment. For `get_queue` and adapters."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from queueport.errors import ConfigurationError
from queueport.lifecycle import Rules
from queueport.url import BackendURL, KeepCount, hidden, nearest

__all__ = ["Settings", "read", "validated"]

Model = TypeVar("Model", bound=BaseModel)

CLAIM = 2
"""A claim lasts so many times the longest that a publish may take."""


def _keep(value: Any) -> Any:
    match = re.fullmatch(r"(\d+) ?jobs", value) if isinstance(value, str) else None
    return KeepCount(int(match[1])) if match else value


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Age = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """The settings that every backend has; durations in seconds."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    store: str | None = Field(  # not in the repr, for it may hold a password
        None, repr=False, description="URL of the job store, where it is not the backend's own"
    )
    namespace: str = Field(
        "queueport", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,31}$", description="keeps apps on one server apart"
    )
    lease: Seconds = Field(30.0, description="a running job without a heartbeat for so long is run again")
    crash_limit: int = Field(3, ge=1, description="so many workers lost in mid-job make it dead")
    lost_after: Seconds = Field(60.0, description="a message missing for so long is sent again")
    unknown_after: Seconds = Field(60.0, description="a job whose task no live worker knows for so long is dead")
    keep_succeeded: Annotated[
        Annotated[float, Field(ge=0, allow_inf_nan=False)] | KeepCount, BeforeValidator(_keep)
    ] = Field(86_400.0, description="retention of succeeded jobs, or `1000 jobs` to keep the newest")
    keep_dead: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        30 * 86_400.0, description="retention of dead jobs"
    )
    call_timeout: Seconds = Field(5.0, description="a call to backend or store fails after so long")

    def rules(self, carries: bool, buries: bool) -> Rules:
        """What the lifecycle needs to know of these settings, and of the backend: see there."""
        keep = self.keep_succeeded
        return Rules(
            lease=self.lease,
            claim=CLAIM * self.call_timeout,
            crash_limit=self.crash_limit,
            lost_after=self.lost_after,
            unknown_after=self.unknown_after,
            keep_succeeded=None if isinstance(keep, KeepCount) else keep,
            keep_dead=self.keep_dead,
            carries=carries,
            buries=buries,
        )


def read(
    url: str, given: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> tuple[BackendURL, Settings]:
    """Split queueport's own settings from the backend's. Keyword before URL before environment before default."""
    environment = os.environ if environment is None else environment
    parsed = BackendURL.parse(url)
    own = Settings.model_fields.keys()
    values: dict[str, Any] = {n: v for n in own if (v := environment.get(f"QUEUEPORT_{n.upper()}")) not in (None, "")}
    values.update((name, value) for name, value in parsed.options.items() if name in own)
    values.update((name, value) for name, value in given.items() if value is not None)
    settings = validated(Settings, values, hidden(parsed.text))
    return BackendURL(parsed.text, {n: v for n, v in parsed.options.items() if n not in own}), settings


def validated(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """These values as that model. Raises ConfigurationError, with the nearest known name for an unknown one."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "options"
        if first["type"] == "extra_forbidden":
            known = set(model.model_fields) | set(Settings.model_fields)
            raise ConfigurationError(f"{where} has no option {name!r}{nearest(name, known)}") from None
        given = hidden(str(values.get(name)))
        raise ConfigurationError(f"{where}: option {name}={given!r} is wrong: {_lower(first['msg'])}") from None


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]

"""URLs and settings: one line of text names a backend, its store and how they behave. For adapters and `get_queue`."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Self, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from queueport.errors import ConfigurationError

__all__ = ["BackendURL", "KeepCount", "Settings", "hidden", "read"]

Model = TypeVar("Model", bound=BaseModel)

SECRETS = re.compile(
    r"""(://[^:/?\#\s@]*:)(?:(?!://)[^\s'"])*(?=@)"""  # up to the last @, for a password may hold one unencoded
    r"|(%3A%2F%2F(?:(?!%3A)[^\s&@])*%3A)[^\s&]*?(?=%40)"  # the same in a nested URL
    r"|([?&](?:password|passwd|secret|token)=)[^&\s'\"]+",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class KeepCount:
    """Retention by number of jobs instead of age; written `1000 jobs`."""

    jobs: int


def _keep(value: Any) -> Any:
    match = re.fullmatch(r"(\d+) ?jobs", value) if isinstance(value, str) else None
    return KeepCount(int(match[1])) if match else value


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Age = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """The settings that every backend has; durations in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    store: str | None = Field(None, description="URL of the job store, where it is not the backend's own")
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


@dataclass(frozen=True, slots=True)
class BackendURL:
    """A URL of a backend or a store, its options apart. Its text and repr hide the password."""

    text: str = field(repr=False)
    """The URL as given, without queueport's own parameters."""
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Split a URL. Raises ConfigurationError where it has no scheme."""
        if not re.match(r"[a-z][a-z0-9+.-]*://", text):
            raise ConfigurationError(
                f"{hidden(text)!r} is not a URL: write one such as 'sqlite:///jobs.db' or 'redis://localhost:6379/0'"
            )
        base, _, query = text.partition("?")
        pairs = parse_qsl(query, keep_blank_values=True)
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigurationError(f"{hidden(base)!r} has the option {twice!r} twice; percent-encode a nested URL")
        return cls(base, dict(pairs))

    @property
    def scheme(self) -> str:
        """What stands before `://`."""
        return self.text.partition("://")[0]

    @property
    def parts(self) -> SplitResult:
        """The URL split by the standard library; user and password still encoded."""
        return urlsplit(self.text)

    @property
    def path(self) -> str:
        """The path, decoded, without the slash that ends the host part."""
        return unquote(self.text.partition("://")[2].partition("/")[2])

    @property
    def full(self) -> str:
        """The URL with its options, as a client library takes it."""
        return f"{self.text}?{urlencode(self.options)}" if self.options else self.text

    def settings(self, model: type[Model]) -> Model:
        """The options as that model. Raises ConfigurationError for an unknown name or a wrong value."""
        return _validated(model, self.options, hidden(self.text))

    def __str__(self) -> str:
        return hidden(self.full)


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
    settings = _validated(Settings, values, hidden(parsed.text))
    return BackendURL(parsed.text, {n: v for n, v in parsed.options.items() if n not in own}), settings


def hidden(text: str) -> str:
    """The text with every password in a URL replaced by `***`."""
    return SECRETS.sub(lambda found: next(group for group in found.groups() if group) + "***", text)


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where a known name is near, else the list of known names."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, 1, 0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(known)}" if known else "; there are none"


def _validated(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
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

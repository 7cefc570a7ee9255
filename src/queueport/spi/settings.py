"""The settings of every backend, read from URL, keywords and environment. For `get_queue` and adapters."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from queueport.errors import ConfigurationError, nearest
from queueport.job import QUEUE_NAME, is_task_name
from queueport.retry import LONGEST
from queueport.spi.runner import COROUTINES
from queueport.spi.signing import SigningKeys
from queueport.spi.url import BackendURL, KeepByName, KeepCount, names_secret

__all__ = ["Duration", "NoOptions", "Seconds", "Settings", "duration", "options", "read", "unknown_variables", "warned"]

logger: logging.Logger = logging.getLogger("queueport")

PREFIX = "QUEUEPORT_"
"""The names of queueport's environment variables begin with this text."""
WORKER_VARIABLES = {"TASKS", "QUEUES", "THREADS", "PROCESSES", "GRACE", "ALIVE_FILE", "LOG_LEVEL", "LOG_FORMAT"}
VARIABLES = frozenset({"URL", "RQ_ALLOW", "HANDOVER", "WEB_PASSWORD", *WORKER_VARIABLES})
"""The environment variables that are not settings, without PREFIX. docs/settings.md and the README of queueport-rq
describe those that users may set.
"""
FOR_TESTS = ("QUEUEPORT_CONTRACT_", "QUEUEPORT_TEST_")
"""Variables whose names begin with one of these texts are for test suites, so no warning is logged about them."""

UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
LONGEST_CALL = 86_400.0
DAY = 86_400.0

Model = TypeVar("Model", bound=BaseModel)


def duration(value: Any) -> Any:
    """Convert a text such as `90s`, `1.5h` or `30` to seconds. A value that is not text is returned unchanged.

    Raises ValueError for a text that is not a duration.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    unit = text[-1:] if text[-1:] in UNITS else "s"
    try:
        return float(text.removesuffix(unit)) * UNITS[unit]
    except ValueError:
        raise ValueError(
            "it is neither a number of seconds nor a number with a unit, such as 30s, 15m, 12h or 7d"
        ) from None


def _keep(value: Any) -> Any:
    if isinstance(value, str) and ":" in value:
        return _keep_by_name(value)
    text = value.strip() if isinstance(value, str) else ""
    jobs = re.fullmatch(r"(\d+) ?jobs?(?: per (queue|task))?", text)
    if jobs:
        return KeepCount(int(jobs[1]), cast("Literal['queue', 'task'] | None", jobs[2]))
    if re.fullmatch(r"[-+.\deE]+", text):
        raise ValueError(f"it may mean jobs or seconds: write '{text} jobs' or '{text}s'")
    return duration(value)


def _keep_by_name(text: str) -> KeepByName:
    """Read a text such as `1d, queue:emails=100 jobs, queue:logs=1h`. Raises ValueError with one sentence."""
    others: list[float | KeepCount] = []
    named: dict[tuple[str, str], float | KeepCount] = {}
    for part in (part.strip() for part in text.split(",")):
        if ":" not in part:
            others.append(_limited(part))
            continue
        found = re.fullmatch(r"(queue|task):(\S+) ?= ?([^=]+)", part)
        if found is None or not (QUEUE_NAME.fullmatch(found[2]) if found[1] == "queue" else is_task_name(found[2])):
            raise ValueError(f"write 'queue:NAME=100 jobs', 'task:NAME=7d' or the like instead of {part!r}")
        keep = _limited(found[3])
        if isinstance(keep, KeepCount) and keep.per:
            raise ValueError(f"leave out 'per {keep.per}' in {part!r}")
        if named.setdefault((found[1], found[2]), keep) is not keep:
            raise ValueError(f"it contains {found[1]}:{found[2]} twice: leave out one of them")
    kinds = {by for by, _ in named}
    if len(kinds) > 1:
        raise ValueError("it names queues and tasks: name one kind only, because every job has a queue and a task")
    if len(others) > 1:
        raise ValueError("it contains two retentions that name no queue or task: leave out one of them")
    by = cast("Literal['queue', 'task']", kinds.pop())
    rest = others[0] if others else DAY
    if isinstance(rest, KeepCount) and rest.per != by:
        raise ValueError(f"for all other {by}s, write '{rest.jobs} jobs per {by}' or a time")
    return KeepByName(rest, by, {name: keep for (_, name), keep in named.items()})


def _signing_keys(value: Any) -> Any:
    if isinstance(value, str):
        return SigningKeys.parse(value)
    if isinstance(value, SigningKeys | None):
        return value
    raise ValueError("it must be text")


def _limited(text: str) -> float | KeepCount:
    """Read a time or a number of jobs. pydantic checks the range of times elsewhere, but not within `KeepByName`."""
    keep: float | KeepCount = _keep(text)
    if isinstance(keep, float) and not 0 <= keep <= LONGEST:
        raise ValueError(f"{text!r} is not between 0 seconds and 100 years")
    return keep


Duration: BeforeValidator = BeforeValidator(duration)
"""An annotation that makes a pydantic field for seconds also accept text with a unit, as `duration` does."""
Seconds = Annotated[float, Duration, Field(gt=0, le=LONGEST, allow_inf_nan=False)]
Age = Annotated[float, Duration, Field(ge=0, le=LONGEST, allow_inf_nan=False)]


class Settings(BaseModel):
    """The settings of every backend. Durations are in seconds, or texts with a unit such as `12h`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    store: str | None = Field(  # not in the repr: this URL may contain a password
        None, repr=False, description="URL of the job store; only for backends that keep no records of their own"
    )
    namespace: str = Field(
        "queueport", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,31}$", description="separates apps that share a server"
    )
    lease: Seconds = Field(30.0, description="seconds without a heartbeat after which a worker loses a running job")
    crash_limit: int = Field(3, ge=1, description="number of crashes after which a job is dead")
    lost_after: Seconds = Field(
        60.0, description="seconds; a lost message is sent again after at least twice this time"
    )
    unknown_after: Seconds = Field(60.0, description="seconds after which a job without a worker for its task is dead")
    keep_succeeded: Annotated[Age | KeepCount | KeepByName, BeforeValidator(_keep)] = Field(
        DAY,
        description="seconds to keep succeeded and cancelled jobs; or `1000 jobs`, `100 jobs per queue` or "
        "`100 jobs per task`: keep the newest succeeded; or `1d, queue:emails=100 jobs`, see above",
    )
    keep_dead: Age = Field(30 * 86_400.0, description="seconds for which dead jobs are kept")
    coroutines: int = Field(
        COROUTINES, ge=1, description="number of `async def` jobs that run at once in each worker process"
    )
    call_timeout: Seconds = Field(
        5.0, le=LONGEST_CALL, description="seconds after which a call to backend or store fails"
    )
    signing_key: Annotated[
        SigningKeys | None, BeforeValidator(_signing_keys), PlainSerializer(lambda keys: keys and "***")
    ] = Field(
        None,
        repr=False,
        description="secret key that signs messages; if several, separated by commas, the first signs and all are "
        "accepted",
    )


class NoOptions(BaseModel):
    """The model of a backend or a store whose URLs have no options of their own."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)


def read(url: str, given: Mapping[str, Any]) -> tuple[BackendURL, Settings]:
    """Read the settings from URL, keywords (`given`) and environment.

    A keyword takes precedence over the URL, and the URL over the environment. White space around text values is
    removed. An empty environment variable and a keyword that is None count as not given. Logs one warning in each
    process about each unknown environment variable. Raises ConfigurationError for a wrong URL or value, or an unknown
    keyword. Also returns the URL without the options that are settings; `options` checks the options that are left.
    """
    parsed = BackendURL.parse(url)
    own = Settings.model_fields.keys()
    variables = {name: PREFIX + name.upper() for name in own}
    values: dict[str, Any] = {name: os.environ.get(variable, "").strip() for name, variable in variables.items()}
    values = {name: value for name, value in values.items() if value}
    sources = {name: variables[name] for name in values}
    for found, source in ((parsed.options, f"{parsed.shown}: option "), (given, "")):
        for name, value in found.items():
            if value is not None and (name in own or found is given):
                values[name] = value.strip() if isinstance(value, str) else value
                sources[name] = source + name
    settings = _validated(Settings, values, sources, "get_queue")
    for sentence in unknown_variables():
        if sentence not in warned:
            warned.add(sentence)
            logger.warning("%s", sentence)
    return BackendURL(parsed.text, {n: v for n, v in parsed.options.items() if n not in own}), settings


warned: set[str] = set()
"""The sentences of `unknown_variables` that this process has logged. They are not logged again."""


def unknown_variables() -> list[str]:
    """One sentence for each environment variable QUEUEPORT_… that has no effect, for example a misspelt setting."""
    known = {PREFIX + name for name in (*map(str.upper, Settings.model_fields), *VARIABLES)}
    unknown = sorted(name for name in os.environ.keys() - known if name.startswith(PREFIX))
    return [
        f"the environment variable {name} has no effect{nearest(name, known)}"
        for name in unknown
        if not name.startswith(FOR_TESTS)
    ]


def options(url: BackendURL, model: type[Model]) -> Model:
    """Validate the URL's options with the pydantic model of a backend or store.

    Raises ConfigurationError for a wrong value or an unknown option.
    """
    sources = {name: f"{url.shown}: option {name}" for name in url.options}
    return _validated(model, url.options, sources, url.shown)


def _validated(model: type[Model], values: Mapping[str, Any], sources: Mapping[str, str], where: str) -> Model:
    """Validate the values with the pydantic model. Raises ConfigurationError.

    The error says where the wrong value is from: `sources` maps the name of a value to a text such as
    `QUEUEPORT_LEASE`. If an option is unknown, the error names `where`: the URL or the function to which it was given.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "options"
        if first["type"] == "extra_forbidden":
            if name in Settings.model_fields:
                raise ConfigurationError(
                    f"{where} has the option {name!r}, which is a setting: write it into the URL of the queue"
                ) from None
            known = {*model.model_fields, *Settings.model_fields}
            raise ConfigurationError(f"{where} has no option {name!r}{nearest(name, known)}") from None
        given = "***" if names_secret(name) else BackendURL(str(values.get(name))).shown
        message = first["msg"].removeprefix("Value error, ")
        if name == "namespace" and first["type"] == "string_pattern_mismatch":
            message = "use 1 to 32 letters, digits and '_', and do not begin with a digit"
        raise ConfigurationError(
            f"{sources.get(name, name)}={given!r} is wrong: {message[:1].lower()}{message[1:]}"
        ) from None

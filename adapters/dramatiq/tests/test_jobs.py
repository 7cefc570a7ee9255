"""What queueport switches off for its jobs is all that Dramatiq would do to them."""

from __future__ import annotations

from dramatiq.middleware import (
    AgeLimit,
    Callbacks,
    Pipelines,
    Retries,
    ShutdownNotifications,
    TimeLimit,
    default_middleware,
)
from dramatiq.results import Results

from queueport_dramatiq.jobs import OFF

DECIDED = {
    "AgeLimit": {"max_age": "off"},
    "TimeLimit": {"time_limit": "off"},
    "ShutdownNotifications": {"notify_shutdown": "off"},
    "Callbacks": dict.fromkeys(("on_failure", "on_success"), "the application's own"),
    "Pipelines": dict.fromkeys(("pipe_ignore", "pipe_target"), "not of a single job"),
    "Retries": {
        "throws": "off",
        **dict.fromkeys(("max_retries", "min_backoff", "max_backoff", "retry_when", "on_retry_exhausted"), "by throws"),
    },
}
"""Each option of each middleware that a broker has by default."""


def test_every_default_middleware_of_dramatiq_is_known() -> None:
    assert {middleware.__name__ for middleware in default_middleware} == set(DECIDED)
    for middleware in (AgeLimit, Callbacks, Pipelines, Retries, ShutdownNotifications, TimeLimit):
        assert middleware().actor_options == set(DECIDED[middleware.__name__])


def test_what_is_off_is_an_option_of_dramatiqs() -> None:
    known = {name for options in DECIDED.values() for name in options} | Results(backend=None).actor_options  # type: ignore[no-untyped-call]  # untyped
    assert set(OFF) <= known
    off = {name for options in DECIDED.values() for name, how in options.items() if how == "off"}
    assert off | {"store_results"} == set(OFF)

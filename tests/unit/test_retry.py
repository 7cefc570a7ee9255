"""The retry policy: its delays, which errors it retries, its JSON and its limits. For authors of `queueport.retry`."""

import json
import math
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queueport.errors import ConfigurationError
from queueport.retry import Retry, ancestry, importable

numbers = st.floats(0, 1000) | st.integers(0, 1000)


class Refused(ConnectionRefusedError):
    """An error that an application defines."""


policies = st.builds(
    Retry,
    max_attempts=st.integers(1, 10**9),
    initial=numbers,
    factor=numbers,
    maximum=numbers,
    jitter=numbers,
    retry_on=st.lists(st.sampled_from([OSError, Refused, "TimeoutError", "a.b.C"]), max_size=3).map(tuple),
    abort_on=st.lists(st.sampled_from([KeyError, "builtins.KeyError"]), max_size=3).map(tuple),
)


def test_delays_double_from_initial_up_to_maximum() -> None:
    policy = Retry(initial=2.0, factor=2.0, maximum=10.0, jitter=0)
    assert [policy.delay(failures, 0.9) for failures in (1, 2, 3, 4, 5)] == [2, 4, 8, 10, 10]


def test_jitter_only_lengthens_a_delay() -> None:
    policy = Retry(initial=10, factor=1, jitter=0.5)
    assert [policy.delay(1, random) for random in (0.0, 0.5, 0.999)] == [10, 12.5, pytest.approx(14.995)]


@pytest.mark.parametrize(
    ("policy", "delay"),
    [(Retry(factor=2), 600.0), (Retry(factor=1000), 600.0), (Retry(factor=1), 1.0), (Retry(initial=0), 0.0)],
)
def test_a_huge_number_of_failures_does_not_overflow(policy: Retry, delay: float) -> None:
    assert policy.delay(10**9, 0.0) == delay


@given(policies, st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
def test_a_delay_with_jitter_is_finite_and_not_shorter_than_without(
    policy: Retry, failures: int, random: float
) -> None:
    assert policy.delay(failures, 0.0) <= policy.delay(failures, random) < math.inf
    assert 0 <= policy.delay(failures, 0.0) <= policy.maximum


def test_ancestry_lists_the_dotted_and_the_bare_name_of_every_ancestor() -> None:
    names = ancestry(Refused)
    assert names[:4] == (f"{__name__}.Refused", "Refused", "builtins.ConnectionRefusedError", "ConnectionRefusedError")
    assert {"OSError", "builtins.OSError", "Exception", "BaseException"} < set(names)
    assert "object" not in names


@pytest.mark.parametrize(
    "entry", [Refused, OSError, "OSError", "builtins.OSError", f"{__name__}.Refused", "Refused"], ids=repr
)
def test_a_policy_matches_an_error_by_class_by_name_and_by_ancestor(entry: type[BaseException] | str) -> None:
    assert Retry(retry_on=(entry,)).allows(ancestry(Refused))
    assert not Retry(abort_on=(entry,)).allows(ancestry(Refused))
    assert not Retry(retry_on=(entry,)).allows(ancestry(KeyError))
    assert Retry(abort_on=(entry,)).allows(ancestry(KeyError))


def test_a_class_in_a_policy_does_not_match_another_class_of_the_same_bare_name() -> None:
    other = type("Refused", (Exception,), {"__module__": "elsewhere"})
    assert not Retry(retry_on=(Refused,)).allows(ancestry(other))


def test_abort_on_takes_precedence_over_retry_on() -> None:
    assert not Retry(retry_on=(OSError,), abort_on=(Refused,)).allows(ancestry(Refused))
    assert Retry(retry_on=(OSError,), abort_on=(Refused,)).allows(ancestry(OSError))


@given(policies)
def test_a_policy_read_back_from_json_decides_the_same(policy: Retry) -> None:
    back = Retry.from_dict(json.loads(json.dumps(policy.as_dict())))
    assert back.as_dict() == policy.as_dict()
    for error in (OSError, Refused, KeyError, ValueError):
        assert back.allows(ancestry(error)) == policy.allows(ancestry(error))
    assert back.delay(3, 0.5) == policy.delay(3, 0.5)


def test_unknown_fields_of_a_stored_policy_are_ignored() -> None:
    assert Retry.from_dict({"max_attempts": 7, "added_later": 1}) == Retry(max_attempts=7)


def test_an_error_defined_in_a_module_run_as_main_has_its_importable_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "__main__", sys.modules[__name__])
    assert ancestry(type("Refused", (Exception,), {"__module__": "__main__"}))[0] == f"{__name__}.Refused"
    monkeypatch.delattr(sys.modules[__name__], "__spec__")
    assert importable("__main__") == "__main__"


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"max_attempts": True},
        {"max_attempts": 2.0},
        {"initial": -1},
        {"initial": math.nan},
        {"initial": "1"},
        {"factor": math.inf},
        {"factor": False},
        {"maximum": None},
        {"maximum": 1e300},
        {"jitter": -0.1},
        {"retry_on": ValueError},
        {"retry_on": "ValueError"},
        {"retry_on": (int,)},
        {"abort_on": ("",)},
        {"abort_on": (ValueError(),)},
    ],
    ids=str,
)
def test_an_invalid_value_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"Retry: {next(iter(wrong))} must be"):
        Retry(**wrong)

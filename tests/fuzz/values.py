"""What the tests of this folder feed to queueport: texts, JSON values, and the number of examples."""

from __future__ import annotations

import json
import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from queueport.testing.damage import VALUES

__all__ = ["EXAMPLES", "SPECIAL", "bodies", "fuzzed", "json_values", "messages", "one_line", "texts"]

EXAMPLES = int(os.environ.get("QUEUEPORT_TEST_EXAMPLES", "30"))
"""The number of examples of each test. `nox -s fuzz` sets a larger one."""

fuzzed: settings = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize="QUEUEPORT_TEST_EXAMPLES" not in os.environ,  # the same examples in each run, unless there are many
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
"""Decorates each test, which must leave the same state after each example."""

SPECIAL = [value for value in VALUES if isinstance(value, str)]
texts: st.SearchStrategy[str] = st.one_of(
    st.sampled_from(SPECIAL), st.text(max_size=40), st.text(st.characters(codec=None), max_size=10)
)
"""Texts, with control characters, lone surrogates, and texts that other programs would execute."""
json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.sampled_from(VALUES), st.integers(), st.floats(), texts),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)

FIELDS = ("v", "id", "task", "queue", "life", "sent_at", "priority", "buried", "signature", "payload", "headers")
GOOD: dict[str, Any] = {"v": 1, "id": "a", "task": "t", "queue": "default", "life": 1, "sent_at": 1.0, "priority": 0}
messages: st.SearchStrategy[Any] = st.one_of(
    st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=3).map(lambda changed: {**GOOD, **changed}),
    json_values,
)
"""JSON values of which many are almost messages of queueport."""


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


bodies: st.SearchStrategy[bytes] = st.one_of(messages.map(_dumped), st.binary(max_size=100))
"""Bodies of messages."""


def one_line(error: Exception) -> None:
    """Check that the message of an error is one line of text."""
    text = str(error)
    assert text
    assert "\n" not in text

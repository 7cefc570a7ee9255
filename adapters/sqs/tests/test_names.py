"""Tests the names of queues in SQS: similar to queueport's names, unique, and refused if they are too long."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from queueport.errors import ConfigurationError
from queueport_sqs.queues import LONGEST, Names

QUEUES = st.from_regex(r"[a_-][a_.-]{0,5}(-dead|-jobs)?(-dead|-jobs|\.)?", fullmatch=True)
NAMESPACES = st.sampled_from(["a", "a_", "dead", "jobs", "_"])


@pytest.mark.parametrize(
    ("queue", "work", "dead"),
    [
        ("default", "app-default", "app-default-dead"),
        ("my-queue_2", "app-my-queue_2", "app-my-queue_2-dead"),
        ("emails.high", "app-emails--high", "app-emails--high-dead"),
        ("a--b", "app-a-_-b", "app-a-_-b-dead"),
        ("a-_b", "app-a-__b", "app-a-__b-dead"),
        ("default-dead", "app-default-dead-jobs", "app-default-dead-dead"),
    ],
)
def test_a_name_is_similar_to_that_of_the_queue(queue: str, work: str, dead: str) -> None:
    names = Names("", "app")
    assert (names.work(queue), names.dead(queue)) == (work, dead)


def test_a_name_begins_with_the_prefix_and_ends_with_fifo() -> None:
    assert Names("prod-", "app", fifo=True).work("default") == "prod-app-default.fifo"
    assert Names("prod-", "app", fifo=True).dead("default") == "prod-app-default-dead.fifo"


@settings(max_examples=300)
@given(st.sets(st.tuples(NAMESPACES, QUEUES), min_size=2, max_size=20))
def test_no_two_queues_share_a_name(queues: set[tuple[str, str]]) -> None:
    made = [name for space, q in queues for name in (Names("", space).work(q), Names("", space).dead(q))]
    assert len(set(made)) == len(made)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,80}", name) for name in made)


@pytest.mark.parametrize("fifo", [False, True])
def test_a_name_that_is_too_long_is_refused(fifo: bool) -> None:
    names = Names("", "n", fifo=fifo)
    room = LONGEST - len(names.work("")) - len("-dead")
    longest = "q" * min(room, 64)
    assert len(names.dead(longest)) <= LONGEST
    with pytest.raises(ConfigurationError, match="at most 80 characters: shorten"):
        Names("p" * 20, "n", fifo=fifo).work("q" * 64)

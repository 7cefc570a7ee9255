"""Two queues or two namespaces never share a name in Dramatiq, derived names included."""

from __future__ import annotations

import re

from dramatiq.common import dq_name, xq_name
from hypothesis import given
from hypothesis import strategies as st

from queueport.job import QUEUE_NAME
from queueport_dramatiq.driver import Names

ALLOWED = re.compile(r"[a-zA-Z_][a-zA-Z0-9._-]*")
"""The names of queues that Dramatiq accepts; see `dramatiq.actor`."""
queues = st.from_regex(QUEUE_NAME, fullmatch=True) | st.lists(
    st.sampled_from(["a", ".DQ", ".XQ", ".msgs", "._", "_"]), min_size=1, max_size=4
).map("".join).filter(QUEUE_NAME.fullmatch)


def keys(native: str) -> set[str]:
    """The names of all Redis keys and RabbitMQ queues that Dramatiq derives from a queue's name."""
    names = {native, dq_name(native), xq_name(native)}
    return names | {f"{name}.msgs" for name in names}


@given(queues, queues)
def test_no_two_queues_share_a_name(one: str, other: str) -> None:
    names = Names("space")
    assert ALLOWED.fullmatch(names.native(one))
    assert names.queue(names.native(one)) == one
    if one != other:
        assert not keys(names.native(one)) & keys(names.native(other))


@given(queues, queues)
def test_no_two_namespaces_share_a_name(one: str, other: str) -> None:
    assert not keys(Names("space").native(one)) & keys(Names("space_2").native(other))
    assert Names("space").queue(Names("space_2").native(one)) is None

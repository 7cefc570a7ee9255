"""RQ ids show whether a message is a dead-letter copy, and RQ's names of queues show their namespace."""

from __future__ import annotations

import pytest

from queueport_rq.names import Names, is_copy

NAMES = Names("shop_1")


@pytest.mark.parametrize("own", ["order42", "a-b_c", "dead_1-x", "0a1b2c3d-x", "_", "-"])
def test_the_id_of_a_copy_differs_in_form_from_that_of_a_message(own: str) -> None:
    assert is_copy(NAMES.copy(own, 12))
    assert not is_copy(NAMES.message(own))


def test_each_message_of_a_job_has_a_new_id() -> None:
    assert len({NAMES.message("same") for _ in range(100)}) == 100


@pytest.mark.parametrize("foreign", ["", "3f1c", "6f1d1bd2-7a3c-4a55-9d4e-3f8c8f1d9a01", "shop_1-order42"])
def test_an_id_that_queueport_did_not_make_is_not_a_copy(foreign: str) -> None:
    assert not is_copy(foreign)


def test_a_name_of_another_namespace_is_not_a_queue() -> None:
    assert NAMES.queue(NAMES.native("with.dots")) == "with.dots"
    for foreign in ("default", "shop.default", "shop_1.", "shop_12.default"):
        assert NAMES.queue(foreign) is None
